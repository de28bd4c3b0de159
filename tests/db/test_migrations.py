"""Alembic beside us: our tables left alone, one process at a time, no long waits for a lock."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text

from clearway.db.migrations import migrating
from clearway.dev.postgres import EmbeddedPostgres
from clearway.errors import DatabaseUrlMissing, MigrationBlocked, MigrationBusy

pytestmark = pytest.mark.anyio

ENV = """
import asyncio
from alembic import context
from sqlalchemy import MetaData
from clearway.db.migrations import include_name, migrating

def run(connection):
    context.configure(
        connection=connection, target_metadata=MetaData(),
        include_name=include_name, include_schemas=True,
    )
    with context.begin_transaction():
        context.run_migrations()

async def run_online():
    async with migrating() as connection:
        await connection.run_sync(run)

asyncio.run(run_online())
"""


def psql(server: EmbeddedPostgres, url: str, sql: str) -> None:
    """Run SQL."""
    subprocess.run([server.psql, url, "-qXc", sql], check=True, timeout=20)


@pytest.mark.parametrize("schema", ["clearway", "work"])
def test_autogenerate_leaves_the_tables_of_jobs_alone(
    postgres: EmbeddedPostgres,
    database_url: str,
    side: tuple[str, bool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    schema: str,
) -> None:
    """Their schema is that of the settings; what is in another one is compared as ever."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("CLEARWAY_JOBS__DATABASE_SCHEMA", schema)
    (tmp_path / "env.py").write_text(ENV)
    (tmp_path / "versions").mkdir()
    config = Config()
    config.set_main_option("script_location", str(tmp_path))
    config.set_main_option("path_separator", "os")
    psql(postgres, database_url, f"create schema {schema}; create table {schema}.jobs (id int)")

    command.check(config)

    psql(postgres, database_url, "create schema theirs; create table theirs.jobs (id int)")
    with pytest.raises(Exception, match=r"remove_table.*theirs"):
        command.check(config)


async def test_one_migrates_and_the_others_wait(database_url: str) -> None:
    """The second enters when the first has left; one that will not wait so long is told."""
    order: list[str] = []

    async def second() -> None:
        async with migrating(database_url):
            order.append("second")

    async with migrating(database_url):
        waiting = asyncio.create_task(second())
        with pytest.raises(MigrationBusy):
            async with migrating(database_url, wait=0.5):
                order.append("never")
        order.append("first")
    async with asyncio.timeout(30):
        await waiting

    assert order == ["first", "second"]


async def test_who_waits_holds_no_index_up(table: str) -> None:
    """CREATE INDEX CONCURRENTLY waits for every snapshot, and a waiter has none."""

    async def second() -> None:
        async with migrating(table):
            pass

    async with migrating(table) as connection:
        waiting = asyncio.create_task(second())
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        other = (
            "select max(state_change) from pg_stat_activity where pid <> pg_backend_pid() "
            "and datname = current_database() and application_name like 'migrations%'"
        )
        seen: set[object] = set()
        async with asyncio.timeout(15):
            while len(seen) < 15:  # it asks again and again, where a blocked one would be still
                seen.add(await connection.scalar(text(other)))
                await asyncio.sleep(0.01)
            await connection.execute(text("create index concurrently on item (parent_id)"))
    async with asyncio.timeout(30):
        await waiting


async def test_a_statement_may_take_its_time(
    postgres: EmbeddedPostgres, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the service's timeouts nor those of the role end a migration."""
    monkeypatch.setenv("CLEARWAY_DATABASE__STATEMENT_TIMEOUT", "0.1")
    name = database_url.rsplit("/", 1)[1]
    for setting in ("statement_timeout", "idle_in_transaction_session_timeout"):
        sql = f"alter database {name} set {setting} = '100ms'"
        await asyncio.to_thread(psql, postgres, database_url, sql)

    async with migrating(database_url) as connection:
        await connection.execute(text("select pg_sleep(0.3)"))
        await asyncio.sleep(0.3)
        assert await connection.scalar(text("select 1")) == 1


async def test_a_lock_of_another_is_given_up(table: str) -> None:
    """A migration does not queue behind a long transaction: it is told, and nothing changed."""
    async with migrating(table) as holder:
        await holder.execute(text("select pg_advisory_unlock_all()"))
        await holder.execute(text("lock table item in access share mode"))
        with pytest.raises(MigrationBlocked, match=r"waited 0\.2 s"):
            async with asyncio.timeout(30), migrating(table, lock_timeout=0.2) as connection:
                await connection.execute(text("alter table item add column more int"))
        assert "more" not in (await holder.execute(text("select * from item"))).keys()  # noqa: SIM118 - rows have no `in`


async def test_without_a_url_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """No address of a default database is guessed."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with pytest.raises(DatabaseUrlMissing, match="CW201"):
        async with migrating():
            pass
