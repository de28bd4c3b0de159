"""Run Alembic's migrations: one process at a time, and never in the way of the service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from clearway.db.engine import make_engine
from clearway.db.faults import sqlstate
from clearway.errors import DatabaseUrlMissing, MigrationBlocked, MigrationBusy
from clearway.settings import Settings

_TERMS = text(resources.files("clearway.db").joinpath("sql/migrating.sql").read_text())
_LOCK = text("SELECT pg_try_advisory_lock(hashtextextended('clearway migrations', 0))")
_LOCK_NOT_AVAILABLE = "55P03"


@asynccontextmanager
async def migrating(
    url: str | None = None, *, lock_timeout: float = 5.0, wait: float = 600.0
) -> AsyncIterator[AsyncConnection]:
    """Give a connection for `context.configure`, once no other process migrates the database.

    It is none of the service's: a statement may take as long as it needs, but it waits only
    `lock_timeout` for a lock, because all that comes later queues behind it.

    Args:
        url: As in DATABASE_URL, which is the default. Past PgBouncer, straight to the server:
            the lock belongs to the session.
        lock_timeout: Seconds that a statement may wait for a lock; 0 for no bound.
        wait: Seconds to wait for another process that migrates.

    Raises:
        MigrationBusy: Another process still migrates after `wait` seconds.
        MigrationBlocked: A statement waited `lock_timeout` seconds for a lock.
        DatabaseUrlMissing: There is no URL.
        DatabaseUrlInvalid: The URL cannot be used.
    """
    settings = Settings().database
    if url is None and settings.url is None:
        raise DatabaseUrlMissing("a migration has no database", fix="set DATABASE_URL")
    address = url if url is not None or settings.url is None else settings.url.get_secret_value()
    alone = settings.model_copy(update={"pool_size": 1, "max_overflow": 0})
    engine = make_engine(address or "", alone, "migrations")
    try:
        async with engine.connect() as connection:
            milliseconds = max(1, round(lock_timeout * 1000)) if lock_timeout else 0
            await connection.execute(_TERMS, {"lock_timeout": f"{milliseconds}ms"})
            await connection.commit()
            await _wait_for_others(connection, wait)
            yield connection
    except DBAPIError as error:
        if sqlstate(error) != _LOCK_NOT_AVAILABLE:
            raise
        raise MigrationBlocked(
            f"a migration waited {lock_timeout:g} s for a lock that another transaction holds, "
            "and gave up; its transaction was rolled back",
            fix="run it again when the long transaction is over, or end that one: "
            "SELECT pid, query FROM pg_stat_activity WHERE xact_start < now() - interval '5 s'",
        ) from error
    finally:
        await engine.dispose()


async def _wait_for_others(connection: AsyncConnection, wait: float) -> None:
    # Asked again and again, in no transaction: one that waits in pg_advisory_lock holds a
    # snapshot, and CREATE INDEX CONCURRENTLY in the process that migrates waits for that.
    until = time.monotonic() + wait
    while True:
        taken = await connection.scalar(_LOCK)
        await connection.commit()
        if taken:
            return
        if time.monotonic() >= until:
            raise MigrationBusy(
                f"another process still migrates the database after {wait:g} s",
                fix="let it end, or give migrating() a longer wait",
            )
        await asyncio.sleep(0.2)


def include_name(name: str | None, type_: str, parent_names: object) -> bool:
    """Leave the schema of our jobs out of what autogenerate compares.

    For `context.configure(include_name=include_name, include_schemas=True)`. The schema is that
    of the setting `jobs.database_schema`, and must hold none of your own tables.

    Args:
        name: Of what Alembic found in the database.
        type_: What it is: `schema`, `table`, ...
        parent_names: Where it is, which does not matter.
    """
    return type_ != "schema" or name != Settings().jobs.database_schema
