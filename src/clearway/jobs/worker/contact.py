"""A worker's own connections to the database, and for how long it has been in touch."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from clearway.db import Database
from clearway.db.faults import connection_lost, sqlstate
from clearway.errors import ClearwayError, DatabaseDown, DatabaseRefused, ServerFull
from clearway.settings import DatabaseSettings

T = TypeVar("T")

_log = logging.getLogger("clearway.jobs")

CONNECTIONS = 4
_MORE_AT_PEAKS = 2
_LONGEST_PAUSE = 2.0
_LEAST_BOUND = 5.0
_EAR_CHECK = 15.0  # seconds between two looks at whether the connection that listens still lives
_REFUSALS = ("22", "23", "P0")  # classes of SQLSTATE: data, integrity, RAISE
_OUTAGE = (DatabaseDown, DatabaseRefused, ServerFull, OSError, asyncpg.InternalClientError)

LOST = (
    ClearwayError, SQLAlchemyError, OSError, asyncpg.InterfaceError, asyncpg.InternalClientError,
)  # fmt: skip
"""What a statement raises that had no effect, or whose effect is not known."""


class Refused(Exception):
    """The server refuses what a statement would store: trying again as it is makes no sense."""


class Contact:
    """Run statements in AUTOCOMMIT on a database that may go away and come back.

    Args:
        settings: The application's; the pool is a small one of the worker's own.
        service: PostgreSQL's application_name.
        lease: Seconds; a silence of half of it is an outage, and no statement may take longer.
    """

    def __init__(self, settings: DatabaseSettings, service: str, lease: float) -> None:
        own = {
            "pool_size": CONNECTIONS, "max_overflow": _MORE_AT_PEAKS, "enabled": True,
            # It listens, which is the driver's own way; and it is counted by who has the big pool.
            "driver": "asyncpg", "read_url": None, "budget": "off",
            "reconnect_within": 0,  # an outage has to be noted, not ridden out
        }  # fmt: skip
        self._database = Database(settings.model_copy(update=own), service)
        self._lease = lease
        self._bound = max(_LEAST_BOUND, lease / 2)
        self._since: float | None = None
        self._last = 0.0
        self._outages = 0
        self._said = ""

    @property
    def trusted(self) -> bool:
        """Say whether this worker may tell who has gone silent: it has not been away itself.

        After an outage every other worker has one whole lease to renew what it holds. One that
        has only just started gives them half of it: they renew by thirds.
        """
        if self._since is None:
            return False
        wait = self._lease if self._outages else self._lease / 2
        return time.monotonic() - self._since >= wait

    async def open(self) -> None:
        """Get ready; no connection is opened."""
        await self._database.open()
        engine = self._database.engine
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def close(self) -> None:
        """Close every connection."""
        await self._database.close()

    async def run(self, call: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run statements once, in bounded time: a connection may have died without a word.

        Raises:
            ClearwayError, SQLAlchemyError, OSError: One of `LOST`.
        """
        try:
            async with self._engine.connect() as connection:
                result = await self._bounded(connection, call)
        except LOST as error:
            self._note(error)
            raise
        self._reach()
        return result

    async def _bounded(
        self, connection: AsyncConnection, call: Callable[[AsyncConnection], Awaitable[T]]
    ) -> T:
        # Not by cancelling: asyncpg 0.30 then waits for the answer to its cancel request, which
        # a connection that is dead never gives. Its transport's end ends every wait for it.
        driver: Any = (await connection.get_raw_connection()).driver_connection
        timer = asyncio.get_running_loop().call_later(self._bound, driver.terminate)
        try:
            return await call(connection)
        finally:
            timer.cancel()

    async def insist(self, call: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run statements until they succeed; they have to bear being run twice.

        Raises:
            Refused: The server does not take the data: a constraint, a trigger, an encoding.
        """
        pause = 0.05
        while True:
            try:
                return await self.run(call)
            except LOST as error:
                if (sqlstate(error) or "").startswith(_REFUSALS):
                    raise Refused(str(error)) from error
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def listen(self, channel: str, call: Callable[[], None]) -> None:
        """Call whenever a NOTIFY arrives, until the connection ends; behind a pooler only once.

        Args:
            channel: Its name.
            call: Also called once in the beginning, for what came before.

        Raises:
            ClearwayError, SQLAlchemyError, OSError: One of `LOST`.
        """
        over = asyncio.Event()
        async with self._engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            driver.add_termination_listener(lambda *_: over.set())
            if self._database.pooled:
                await connection.close()  # LISTEN would stay on a backend that others use
                call()
                await over.wait()
                return
            try:
                await driver.add_listener(channel, lambda *_: call())
                call()
                while not over.is_set():
                    try:
                        async with asyncio.timeout(_EAR_CHECK):
                            await over.wait()
                    except TimeoutError:
                        await driver.fetchval("SELECT 1", timeout=self._bound)
            except asyncpg.PostgresError as error:
                raise ConnectionError(f"LISTEN failed: {error}") from error
            finally:
                await connection.invalidate()  # nobody else shall inherit the listener

    def _reach(self) -> None:
        now = time.monotonic()
        if self._since is not None and now - self._last > self._lease / 2:
            self._outages += 1  # stopped, or on a machine that slept
            self._since = None
        if self._since is None:
            self._since = now
            if self._said:
                _log.warning("the worker's database is back")
                self._said = ""
        self._last = now

    def _note(self, error: BaseException) -> None:
        """Note an outage; a statement that the server refuses is none."""
        said = error.what if isinstance(error, ClearwayError) else str(error) or repr(error)
        if _is_outage(error):
            self._outages += bool(self._last)
            self._since = None
            what = "the worker cannot use its database, and tries on: %s"
        else:
            what = "a statement of the worker failed: %s"
        if said != self._said:
            self._said = said
            _log.error(what, said)


def _is_outage(error: BaseException) -> bool:
    return isinstance(error, _OUTAGE) or connection_lost(error)
