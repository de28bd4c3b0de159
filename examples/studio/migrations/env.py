"""How Alembic reaches the database of this service."""

from __future__ import annotations

import asyncio
import os

from alembic import context
from sqlalchemy import Connection, NullPool, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from studio.models import Base

_LOCK = 0x57D10  # any number that no other program takes in this database


def _url() -> str:
    url = context.config.attributes.get("url") or os.environ["DATABASE_URL"]
    return make_url(url).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)


def _run_offline() -> None:
    """Print the SQL instead of running it (`alembic upgrade head --sql`)."""
    context.configure(dialect_name="postgresql", target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def _run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        # Ten instances may start at once: one migrates, the others wait here and then find
        # nothing to do. The lock ends with the transaction.
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        context.run_migrations()


async def _run_online() -> None:
    # An engine of its own, not the service's: a migration may take longer than any timeout
    # that is right for a request.
    engine = create_async_engine(_url(), poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(_run)
    await engine.dispose()


if context.is_offline_mode():
    _run_offline()
else:
    asyncio.run(_run_online())
