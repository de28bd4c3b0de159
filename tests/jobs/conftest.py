"""No job is declared but by the test itself, and a database with the tables of jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import create_async_engine

from clearway.jobs.job import Job, registry
from clearway.jobs.store import Store
from jobs import declared


@pytest.fixture
def undeclared() -> Iterator[dict[str, Job[..., ..., Any]]]:
    """Return the registry, empty; what the test declares is forgotten after it."""
    before = dict(registry)
    registry.clear()
    yield registry
    registry.clear()
    registry.update(before)


@pytest.fixture
def jobs(undeclared: dict[str, Job[..., ..., Any]]) -> None:
    """Declare the jobs of `jobs.declared`, and no others."""
    undeclared.update(declared.JOBS)


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
