"""No job is declared but by the test itself; a database for jobs, with or without their tables."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import create_async_engine

from apps import works as works_app
from clearway.dev.postgres import EmbeddedPostgres
from clearway.jobs.declare import registry
from clearway.jobs.store import Store
from jobs import declared
from support.worker import Works


@pytest.fixture
def jobs() -> None:
    """Declare the jobs of `jobs.declared`, and no others."""
    registry.update(declared.JOBS)


@pytest.fixture
def store_url(database_url: str) -> str:
    """Return the URL of a database that has the tables of jobs."""

    async def install() -> None:
        engine = create_async_engine(as_sqlalchemy(database_url), poolclass=NullPool)
        await Store("clearway", "app").install(engine, make=True)

    asyncio.run(install())
    return database_url


def as_sqlalchemy(url: str) -> str:
    """Return a URL for an engine over asyncpg."""
    return url.replace("postgresql://", "postgresql+asyncpg://", 1)


@pytest.fixture
def works(
    postgres: EmbeddedPostgres,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Works:
    """Declare the jobs of `apps.works`; return a database with their table and a folder."""
    works = Works(database_url, tmp_path)
    monkeypatch.setenv("MARKS", str(works.marks))
    registry.update(works_app.JOBS)
    psql = [str(postgres.psql), database_url, "-qXc", works_app.DDL]
    subprocess.run(psql, check=True, timeout=20)
    return works
