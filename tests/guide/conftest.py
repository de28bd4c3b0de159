"""A database for the guide's recipes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from clearway.dev.postgres import EmbeddedPostgres
from support.guide import DDL


@pytest.fixture
def anyio_backend() -> str:
    """Once: the loop of the test is not what is tested."""
    return "asyncio"


@pytest.fixture
def table(postgres: EmbeddedPostgres, database_url: str) -> str:
    """Return the URL of a database that has the table `item`, as drivers have it."""
    subprocess.run([postgres.psql, database_url, "-qXc", DDL], check=True, timeout=20)
    return database_url


@pytest.fixture
def app_url(table: str) -> str:
    """Return the same URL as SQLAlchemy has it."""
    url = make_url(table).set(drivername="postgresql+asyncpg")
    return url.render_as_string(hide_password=False)


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """Return the file that says what was done; `marks.gate` lets slow work end."""
    path = tmp_path / "marks"
    path.touch()
    return path
