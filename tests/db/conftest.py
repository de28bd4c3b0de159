"""A database with a table, and settings that lead to it."""

from __future__ import annotations

import pytest

from clearway import Settings
from db import schema


@pytest.fixture
async def table(database_url: str) -> str:
    """Return the URL of a database that has the table `item`."""
    await schema.create(database_url)
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
