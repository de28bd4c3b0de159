"""A database with a table, and settings that lead to it."""

from __future__ import annotations

import subprocess

import pytest

from clearway import Settings
from clearway.dev.postgres import EmbeddedPostgres
from db import schema


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
