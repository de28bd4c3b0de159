"""How Alembic reaches the database of this service."""

from __future__ import annotations

import asyncio

from alembic import context
from sqlalchemy import Connection

from clearway.db.migrations import include_name, migrating
from studio.models import Base


def _run_offline() -> None:
    """Print the SQL instead of running it (`alembic upgrade head --sql`)."""
    context.configure(dialect_name="postgresql", target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection, target_metadata=Base.metadata, include_name=include_name
    )
    with context.begin_transaction():
        context.run_migrations()


async def _run_online() -> None:
    # Ten instances may start at once: one migrates, the others wait and find nothing to do.
    async with migrating(context.config.attributes.get("url")) as connection:
        await connection.run_sync(_run)


if context.is_offline_mode():
    _run_offline()
else:
    asyncio.run(_run_online())
