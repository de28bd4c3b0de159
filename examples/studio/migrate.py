"""Bring a database to the newest migration: `DATABASE_URL=... python -m studio.migrate`."""

from __future__ import annotations

import os
from pathlib import Path

from alembic import command
from alembic.config import Config


def configuration() -> Config:
    """Return Alembic's configuration of this service."""
    return Config(Path(__file__).with_name("alembic.ini"))


def migrate(url: str) -> None:
    """Run every migration that the database lacks; safe to call in several places at once.

    Args:
        url: As in DATABASE_URL.
    """
    config = configuration()
    config.attributes["url"] = url
    command.upgrade(config, "head")


if __name__ == "__main__":
    migrate(os.environ["DATABASE_URL"])
