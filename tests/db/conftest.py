"""A database with a table, and settings that lead to it."""

from __future__ import annotations

import subprocess

import psycopg  # noqa: F401 - reads files while it is imported, which no test's loop may
import pytest

from clearway import Settings
from clearway.dev.postgres import EmbeddedPostgres
from db import schema


@pytest.fixture(
    params=[("asyncpg", False), ("asyncpg", True), ("psycopg", False)],
    ids=["asyncpg", "asyncpg+uvloop", "psycopg"],
)
def side(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, bool]:
    """Return the driver that the settings lead to, and whether uvloop is the loop."""
    chosen: tuple[str, bool] = request.param
    monkeypatch.setenv("CLEARWAY_DATABASE__DRIVER", chosen[0])
    return chosen


@pytest.fixture
def anyio_backend(side: tuple[str, bool]) -> tuple[str, dict[str, bool]]:
    """Run every asynchronous test of this room with both drivers, and on both loops."""
    return "asyncio", {"use_uvloop": side[1]}


@pytest.fixture
def table(postgres: EmbeddedPostgres, database_url: str) -> str:
    """Return the URL of a database that has the table `item`."""
    subprocess.run([postgres.psql, database_url, "-qXc", schema.DDL], check=True, timeout=20)
    return database_url


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Return settings for that database, in development so that answers say why."""
    return Settings.model_validate(
        {
            "service": {"environment": "development"},
            "database": {"url": database_url, "pool_size": 3, "max_overflow": 1},
        }
    )
