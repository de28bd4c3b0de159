"""The database of one Clearway: its engine, its lane, and a session for each journey."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Annotated, Any

from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from starlette.routing import BaseRoute

from clearway.core.current import find
from clearway.core.histogram import HistogramSnapshot
from clearway.core.journey import Journey, current_journey
from clearway.core.lane import Lane
from clearway.db.callers import current_task, place_of
from clearway.db.engine import Attachment, make_engine
from clearway.db.hooks import InThread
from clearway.db.pool import LanePool
from clearway.db.reading import AsyncReadSession, guard_engine
from clearway.db.session import UnitOfWork
from clearway.db.terms import TransactionSettings
from clearway.db.usage import session_uses
from clearway.errors import AsyncSessionInThread, DatabaseUrlMissing, NotOpen
from clearway.settings import DatabaseSettings

_log = logging.getLogger("clearway.db")

_NO_URL_FIX = (
    "set DATABASE_URL (postgresql://user:password@host/name), pass Clearway(app, engine=engine), "
    "or run `clearway dev`, which brings a PostgreSQL of its own"
)


class Database:
    """The part that serves sessions.

    Args:
        settings: Where the database is and what bounds its use.
        service: Name of the service, PostgreSQL's application_name.
        engine: An engine of the app's own, over asyncpg or psycopg; it is adopted, and given
            back as it was at the end. Without one the engine is made from `settings.url`.

    Attributes:
        in_thread: Calls the plain functions that wait for a COMMIT.
    """

    def __init__(
        self, settings: DatabaseSettings, service: str, engine: AsyncEngine | None = None
    ) -> None:
        self._settings = settings
        self._service = service
        self.in_thread: InThread = asyncio.to_thread
        self._theirs = engine
        self._attachment: Attachment | None = None
        self._reading: Attachment | None = None
        self._reader: AsyncEngine | None = None
        self._reader_in_transaction: AsyncEngine | None = None
        self._transaction_settings: TransactionSettings | None = None
        self._blocks: dict[UnitOfWork, asyncio.Task[Any] | None] = {}

    @property
    def configured(self) -> bool:
        """Say whether there is an engine or a URL to make one from."""
        has_url = self._settings.enabled and self._settings.url is not None
        return self._theirs is not None or has_url

    @property
    def engine(self) -> AsyncEngine:
        """The engine.

        Raises:
            NotOpen: The lifespan has not run.
        """
        if self._attachment is None:
            raise NotOpen(
                "the database was used while no Clearway was open",
                fix="run the lifespan: a server, `with TestClient(app)`, or `async with road:`",
            )
        return self._attachment.engine

    @property
    def lane(self) -> Lane | None:
        """The lane `db`; None before the start, and for a pool that has no bound."""
        return None if self._attachment is None else self._attachment.lane

    @property
    def lanes(self) -> list[Lane]:
        """Every lane that is open: `db`, and `db.read` where `read_url` is set."""
        return [one.lane for one in self._attachments if one.lane is not None]

    @property
    def pooled(self) -> bool:
        """Say whether a pooler such as PgBouncer was met in between."""
        return any(one.terms.pooled for one in self._attachments)

    @property
    def holds(self) -> Mapping[str, HistogramSnapshot]:
        """For how many seconds each route held connections, by its template."""
        pool = self.engine.sync_engine.pool
        return pool.holds.snapshot() if isinstance(pool, LanePool) else MappingProxyType({})

    def set_in_each_transaction(self, settings: TransactionSettings) -> TransactionSettings:
        """Set something on the server for the length of each transaction: a tenant, say.

        It rides on the BEGIN, at no round trip, as `SET LOCAL`. From then on a read session
        reads in a transaction as well: three round trips in place of one.

        Args:
            settings: Called at each BEGIN; returns the names and values to set, such as
                `{"app.tenant": "acme"}` for row-level security or a `search_path`. Also usable
                as a decorator.

        Returns:
            The same function.
        """
        self._transaction_settings = settings
        for attachment in self._attachments:
            attachment.terms.transaction_settings = settings
        return settings

    def check(self, routes: Iterable[BaseRoute]) -> None:
        """Refuse the start of an app that could not work.

        Raises:
            DatabaseUrlMissing: A route takes a session and there is no database.
            AsyncSessionInThread: A `def` endpoint takes an asynchronous session: its
                statements would be coroutines that nobody awaits (measured: 200, 0 rows).
        """
        uses = session_uses(routes, {session_dependency, read_dependency, self.dependency})
        for use in uses:
            if use.endpoint_in_thread:
                raise AsyncSessionInThread(
                    f"{use.function} ({use.route}) is a `def` and takes an asynchronous session",
                    fix="make it `async def`, or use a synchronous session of your own in it",
                )
        if uses and not self.configured:
            raise DatabaseUrlMissing(
                f"{uses[0].function} ({uses[0].route}) takes a session, but there is no database",
                fix=_NO_URL_FIX,
            )

    async def open(self) -> None:
        """Make or adopt the engine; no connection is opened."""
        self.attach()

    def attach(self) -> None:
        """Do what `open` does, for one who cannot await.

        Raises:
            DatabaseUrlInvalid: The URL or the engine cannot be used.
        """
        settings = self._settings
        if self._theirs is not None:
            self._attachment = Attachment(self._theirs, settings, ours=False)
        else:
            assert settings.url is not None
            engine = make_engine(settings.url.get_secret_value(), settings, self._service)
            self._attachment = Attachment(engine, settings, ours=True)
        source = self._attachment
        if settings.read_url is not None:
            engine = make_engine(settings.read_url.get_secret_value(), settings, self._service)
            source = self._reading = Attachment(
                engine, settings, ours=True, read_only=True, lane="db.read"
            )
        self._reader = source.engine.execution_options(isolation_level="AUTOCOMMIT")
        guard_engine(self._reader)
        self._reader_in_transaction = source.engine.execution_options(clearway_reads=True)
        guard_engine(self._reader_in_transaction)
        for attachment in self._attachments:
            attachment.terms.transaction_settings = self._transaction_settings
            attachment.start()

    async def close(self) -> None:
        """Close our engine's connections, or give the app's engine back."""
        for task in self._blocks.values():
            _log.warning("a session of road.db.session() outlives the app: %s", place_of(task))
        attachments = self._attachments
        self._attachment = self._reading = None
        for attachment in attachments:
            await attachment.stop()

    @property
    def _attachments(self) -> list[Attachment]:
        return [one for one in (self._attachment, self._reading) if one is not None]

    def unit(self, journey: Journey) -> UnitOfWork:
        """Return the journey's unit of work; its end hangs on the journey's response.

        Raises:
            NotOpen: The response has begun, so nothing would end the transaction.
        """
        if journey.answered:
            raise NotOpen(
                "a session was asked for after the response had begun, when its COMMIT was past",
                fix="async with road.db.session() as session: in streams and background tasks",
            )
        unit = journey.units.get(self)
        if not isinstance(unit, UnitOfWork):
            unit = journey.units[self] = self._new_unit(journey)
            journey.before_response.append(unit.settle)
        return unit

    def _new_unit(self, journey: Journey | None = None) -> UnitOfWork:
        engine = self.engine
        # Behind a pooler the bounds of a statement ride on a BEGIN as well.
        set_in_each = self._transaction_settings is not None or self.pooled
        reader = self._reader_in_transaction if set_in_each else self._reader
        assert reader is not None
        return UnitOfWork(
            engine,
            reader,
            expire=self._settings.expire_on_commit,
            journey=journey,
            in_thread=self.in_thread,
        )

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """Give a session of its own: committed at the end of the block, or rolled back.

        For scripts, streaming bodies, WebSocket messages and whatever else has no response
        to hang a COMMIT on.

        Raises:
            CommitFailed: The COMMIT at the end of the block failed.
        """
        unit = self._new_unit()
        self._blocks[unit] = current_task()
        try:
            try:
                yield unit.session
            except BaseException:
                await unit.settle(False)
                raise
            await unit.settle(True)
        finally:
            del self._blocks[unit]
            await unit.run_hooks()

    async def dependency(self) -> AsyncSession:
        """Return the request's session: what the body of an existing `get_db` becomes."""
        return self.unit(_journey_of_request()).session


async def session_dependency() -> AsyncSession:
    """Return the unit of work's session, the same in every dependency of the request."""
    return find(Database, "DbSession").unit(_journey_of_request()).session


async def read_dependency() -> AsyncReadSession:
    """Return the journey's read session."""
    return find(Database, "ReadDbSession").unit(_journey_of_request()).read


def _journey_of_request() -> Journey:
    journey = current_journey()
    if journey is None or journey.kind == "websocket":
        raise NotOpen(
            "a session was asked for outside a request that Clearway sees, where no response "
            "ends its transaction",
            fix="is there a Clearway(app), and not CLEARWAY=off? Outside of a request, and for "
            "each message of a WebSocket: async with road.db.session() as session",
        )
    return journey


DbSession = Annotated[AsyncSession, Depends(session_dependency)]
"""The unit of work's session: committed before the first byte of a 2xx or 3xx leaves."""

ReadDbSession = Annotated[AsyncReadSession, Depends(read_dependency)]
"""A session that only reads, each statement in one round trip."""
