"""The engine of a service: made from a URL, or handed over by the app."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Dialect, ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool
from sqlalchemy.util import await_only, greenlet_spawn

from clearway.core.journey import current_journey
from clearway.db.budget import process_name
from clearway.db.drivers import driver_by_name, driver_of
from clearway.db.faults import connect_error, left_in_doubt
from clearway.db.keeper import Keeper
from clearway.db.outage import Outage
from clearway.db.pool import LanePool, put_lane_before, take_lane_away
from clearway.db.snapshot import PoolSnapshot
from clearway.db.terms import Terms
from clearway.db.url import parse, shown
from clearway.db.validation import Validation
from clearway.errors import DatabaseDown, DatabaseUrlInvalid, ServerFull
from clearway.settings import DatabaseSettings


def make_engine(url: str, settings: DatabaseSettings, service: str) -> AsyncEngine:
    """Return an engine for a URL. No connection is opened.

    Args:
        url: As people have them.
        settings: The size of its pool.
        service: Its name, for PostgreSQL's application_name.

    Raises:
        DatabaseUrlInvalid: The URL cannot be understood.
    """
    named = None if settings.driver == "auto" else settings.driver
    address, arguments, server = parse(url, named)
    driver = driver_by_name(address.get_driver_name())
    return create_async_engine(
        address,
        connect_args=driver.service(
            arguments,
            {**server, "application_name": process_name(service)},
            settings.connect_timeout,
        ),
        pool_size=settings.pool_size,
        max_overflow=settings.max_overflow,
    )


class Attachment:
    """Our lane, checks and error names on an engine, and how to take them off again.

    Args:
        engine: Ours or the app's own. Attach before it is used: a connection that is open
            already does not check its COMMITs.
        settings: The bounds of the waiting, and when connections are validated.
        ours: We made it: the server's bounds are sent with each connect, and connections have
            a longest life.
        read_only: The server refuses to write through it.
        lane: The name of its lane.

    Attributes:
        lane: None for a pool that bounds nothing.
        terms: On what terms its transactions run.
        on_connect: Told how long each connect took, in seconds; None for nobody.

    Raises:
        DatabaseUrlInvalid: The engine is for another driver.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        settings: DatabaseSettings,
        *,
        ours: bool,
        read_only: bool = False,
        lane: str = "db",
    ) -> None:
        if not isinstance(engine, AsyncEngine):
            raise DatabaseUrlInvalid(
                f"engine= takes an SQLAlchemy AsyncEngine, not {type(engine).__name__}",
                fix="create_async_engine(url), or leave it out and set DATABASE_URL",
            )
        self.engine = engine
        self.driver = driver_of(engine.dialect)
        self.terms = Terms(settings, ours=ours, read_only=read_only)
        self._ours = ours
        self.on_connect: Callable[[float], object] | None = None
        self._full_until = 0.0
        self._outage = Outage(settings.reconnect_within)
        self._validation = Validation(settings, self.driver)
        sync = engine.sync_engine
        self.lane = put_lane_before(sync.pool, settings, self.driver, lane)
        self._ahead = min(settings.min_size, settings.pool_size) if ours else None
        self._keeper = Keeper(engine, self._validation, self._ahead)
        self._listeners: list[tuple[str, Callable[..., object]]] = [
            ("do_connect", self._connect),
            ("checkout", self._validation),
            ("close", self._close),
            ("handle_error", self._distrust),
        ]
        for name, listener in self._listeners:
            event.listen(sync, name, listener)  # touchpoint: sqlalchemy-events

    def snapshot(self) -> PoolSnapshot | None:
        """Return how the pool stands, None for one that bounds nothing."""
        pool = self.engine.sync_engine.pool
        if self.lane is None or not isinstance(pool, QueuePool):
            return None
        return PoolSnapshot.of(self.lane, pool, self._ahead or 0)

    def start(self) -> None:
        """Begin to look after the pool, on the running loop."""
        if self.lane is not None:
            self._keeper.start()

    async def stop(self) -> None:
        """Close the connections of our own engine, and give the engine back as it was."""
        await self._keeper.stop()
        pool = self.engine.sync_engine.pool
        if self._ours:
            await self.engine.dispose()
        elif isinstance(pool, LanePool):
            await greenlet_spawn(pool.endings.wait)
            await asyncio.sleep(0)  # until those that have ended are back in the pool
        for name, listener in self._listeners:
            event.remove(self.engine.sync_engine, name, listener)
        take_lane_away(self.engine.sync_engine.pool)

    def _connect(
        self, dialect: Dialect, record: ConnectionPoolEntry, args: list[Any], named: dict[str, Any]
    ) -> DBAPIConnection:
        """Open one connection; an error says what it means for the service."""
        pool = self.engine.sync_engine.pool
        if isinstance(pool, LanePool):
            pool.endings.wait_for(record)
        if time.monotonic() < self._full_until:
            raise ServerFull(
                f"PostgreSQL at {shown(self.engine.url)} accepts no more connections, as it has "
                "just said",
                fix="see the line before; the next try is a moment away",
                retry_after=2,
            )
        tries = 0
        while True:
            began, sent = time.monotonic(), tuple(self.terms.startup)
            try:
                connection = dialect.connect(*args, **self.driver.arguments(named, self.terms))
            except Exception as error:
                state = self.driver.refusal(error)
                if self.terms.leave_out(state, str(error), sent):
                    continue
                meaning = connect_error(error, shown(self.engine.url), state)
                if isinstance(meaning, ServerFull):  # not asked again for a moment: no storm
                    self._full_until = time.monotonic() + random.uniform(0.5, 1)  # noqa: S311
                pause = self._outage.pause(tries, _deadline()) if _passes(meaning) else None
                if pause is None:
                    raise meaning from error
                await_only(asyncio.sleep(pause))
                tries += 1
            else:
                break
        self._outage.over()
        if self.on_connect is not None:
            self.on_connect(time.monotonic() - began)
        self.driver.opened(dialect.get_driver_connection(connection), self.terms)
        if self._ours:
            self._validation.limit_life(record)
        return connection

    def _close(self, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        pool = self.engine.sync_engine.pool
        if isinstance(pool, LanePool):
            pool.endings.closing(connection, record)

    def _distrust(self, context: ExceptionContext) -> None:
        """Have a connection replaced that was left while an answer was still to come."""
        if left_in_doubt(context.original_exception):
            context.is_disconnect = True
            context.invalidate_pool_on_disconnect = False


def _passes(error: Exception) -> bool:
    return isinstance(error, DatabaseDown)


def _deadline() -> float | None:
    journey = current_journey()
    return None if journey is None or journey.deadline is None else journey.deadline.at
