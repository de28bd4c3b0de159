"""The ends of connections: each in a task of its own, in bounded time."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import Any

from sqlalchemy.engine.interfaces import AdaptedConnection, DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from clearway.db.drivers import Driver

_log = logging.getLogger("clearway.db")

END_WITHIN = 5.0
"""Seconds that the server has to take leave; then the connection is cut."""

_ENDING = "clearway_ending"


class Endings:
    """The connections of one pool that are about to end.

    Who closes a connection may be cancelled, and again while it closes; then the cancel request
    is never sent and the query goes on on the server. So the closing is not left to them.

    Args:
        driver: Knows how to end a connection.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._record: ConnectionPoolEntry | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def closing(self, _: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        """Note whose connection is closed next: SQLAlchemy tells it just before `begin`."""
        self._record = record

    def begin(self, connection: DBAPIConnection) -> bool:
        """Begin the end of a connection; False where no loop runs that could do it."""
        record, self._record = self._record, None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        assert isinstance(connection, AdaptedConnection)
        # In a context of its own: the journey that used it may be long over by then.
        task = loop.create_task(
            self._end(connection.driver_connection),
            name="clearway connection end",
            context=contextvars.Context(),
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if record is not None:
            record.record_info[_ENDING] = task  # type: ignore[index]  # a pool's record has one
        return True

    def of(self, record: ConnectionPoolEntry) -> asyncio.Task[None] | None:
        """Return the end of a record's last connection while it goes on."""
        task: asyncio.Task[None] | None = record.record_info.get(_ENDING)  # type: ignore[union-attr]  # as above
        return None if task is None or task.done() else task

    def wait_for(self, record: ConnectionPoolEntry) -> None:
        """Wait in SQLAlchemy's greenlet until the record's last connection has ended."""
        task = self.of(record)
        if task is not None:
            await_only(asyncio.wait([task]))

    def wait(self) -> None:
        """Wait in SQLAlchemy's greenlet until all have ended."""
        here = [task for task in self._tasks if not task.get_loop().is_closed()]
        if here and in_greenlet():
            await_only(asyncio.wait(here))

    async def _end(self, connection: Any) -> None:
        try:
            async with asyncio.timeout(END_WITHIN):
                await self._driver.end(connection)
        except BaseException as error:
            try:
                self._driver.abort(connection)
            except Exception as later:  # noqa: BLE001 - of a loop that is gone, say: nothing is left
                _log.debug("a connection could not be cut: %s", later)
            if not isinstance(error, Exception):
                raise
            _log.debug("a connection was cut, it did not end by itself: %r", error)
