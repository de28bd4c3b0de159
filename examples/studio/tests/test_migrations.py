"""Migrations, as they run when several instances start at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from alembic import command

from studio.migrate import configuration, migrate
from studio.tests.conftest import query

EXAMPLES = Path(__file__).parents[2]


def _migrating(url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "studio.migrate"],
        cwd=EXAMPLES,
        env=os.environ | {"DATABASE_URL": url},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_second_run_changes_nothing(empty_database: str) -> None:
    """The second run finds the database up to date and leaves its rows."""
    migrate(empty_database)
    query(empty_database, "INSERT INTO users (name, password_hash) VALUES ('a', 'b')")
    migrate(empty_database)
    assert query(empty_database, "SELECT count(*) FROM users") == 1


def test_four_instances_may_start_at_once(empty_database: str) -> None:
    """One migrates, the others wait and find nothing to do: nobody fails."""
    processes = [_migrating(empty_database) for _ in range(4)]
    errors = [process.communicate(timeout=50)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0, 0], errors
    assert query(empty_database, "SELECT count(*) FROM alembic_version") == 1


def test_models_and_migrations_agree(empty_database: str) -> None:
    """Autogenerate finds nothing to add."""
    migrate(empty_database)
    config = configuration()
    config.attributes["url"] = empty_database
    command.check(config)


def test_it_can_be_taken_back(empty_database: str) -> None:
    """Down to nothing and up again."""
    migrate(empty_database)
    config = configuration()
    config.attributes["url"] = empty_database
    command.downgrade(config, "base")
    sql = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    assert query(empty_database, sql) == 1  # alembic_version
    migrate(empty_database)
    assert query(empty_database, sql) > 1
