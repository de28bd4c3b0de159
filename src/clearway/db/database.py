"""The database of one Clearway: its engine, its lane, and a session for each journey."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any, overload

from fastapi import Depends
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from starlette.routing import BaseRoute

from clearway.core.current import find
from clearway.core.histogram import HistogramSnapshot
from clearway.core.journey import Journey
from clearway.core.lane import Lane
from clearway.db.budget import Budget
from clearway.db.callers import current_task, place_of
from clearway.db.dependencies import journey_of_request
from clearway.db.hooks import InThread
from clearway.db.reading import AsyncReadSession
from clearway.db.session import UnitOfWork
from clearway.db.session_class import load_session_class
from clearway.db.snapshot import Meter, PoolSnapshot
from clearway.db.source import Source
from clearway.db.terms import TransactionSettings
from clearway.db.threads import ThreadDatabase
from clearway.db.usage import session_uses
from clearway.errors import AsyncSessionInThread, DatabaseUrlMissing, EngineTwice, NotOpen
from clearway.routing import Overrides
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
        service: Name of the service.
        processes: How many processes the service has, where that is known.
        engine: An engine of the app's own, over asyncpg or psycopg; it is adopted, and given
            back as it was at the end. Without one the engine is made from `settings.url`.
        session_class: The class of its sessions; by default that of the settings.
        lane: The name of its lane.

    Attributes:
        in_thread: Calls the plain functions that wait for a COMMIT.
    """

    def __init__(
        self,
        settings: DatabaseSettings,
        service: str,
        *,
        processes: int | None = None,
        engine: AsyncEngine | None = None,
        session_class: type[AsyncSession] | None = None,
        lane: str = "db",
    ) -> None:
        self._settings = settings
        self._service = service
        self._source = Source(settings, service, processes, engine, lane)
        self._session_class = session_class
        self._adopted: list[Database | ThreadDatabase] = []
        self._make_unit: Callable[[Journey | None], UnitOfWork] | None = None
        self._blocks: dict[UnitOfWork, asyncio.Task[Any] | None] = {}
        self.in_thread: InThread = asyncio.to_thread

    @property
    def configured(self) -> bool:
        """Say whether there is an engine or a URL to make one from, for `DbSession`."""
        return self._source.configured

    @property
    def used(self) -> bool:
        """Say whether there is anything to open."""
        return self.configured or bool(self._adopted)

    @property
    def engine(self) -> AsyncEngine:
        """The engine.

        Raises:
            NotOpen: The lifespan has not run.
        """
        return self._source.engine

    @property
    def engine_given(self) -> AsyncEngine | None:
        """The app's own engine, where there is one."""
        return self._source.given

    @property
    def lane(self) -> Lane | None:
        """The lane `db`; None before the start, and for a pool that has no bound."""
        return self._source.lane

    @property
    def lane_name(self) -> str:
        """The name of its lane."""
        return self._source.name

    @property
    def lanes(self) -> list[Lane]:
        """Every lane that is open: `db`, `db.read` where `read_url` is set, and the adopted."""
        return self._source.lanes + [lane for other in self._adopted for lane in other.lanes]

    @property
    def pools(self) -> list[PoolSnapshot]:
        """How every pool stands that is open: its connections, and who waits for one."""
        return self._source.pools + [stands for other in self._adopted for stands in other.pools]

    @property
    def pooled(self) -> bool:
        """Say whether a pooler such as PgBouncer was met in between."""
        return self._source.pooled

    @property
    def budget(self) -> Budget | None:
        """The last look at the connection budget; None before, and where nothing can be known."""
        return self._source.budget

    @property
    def holds(self) -> Mapping[str, HistogramSnapshot]:
        """For how many seconds each route held connections, by its template."""
        return self._source.holds

    def listen(self, meter: Meter | None) -> None:
        """Have a meter hear how long things take, from the next start on."""
        self._source.meter = meter
        for other in self._adopted:
            other.listen(meter)

    @overload
    def adopt(
        self, engine: AsyncEngine, name: str, *, session_class: type[AsyncSession] | None = None
    ) -> Database: ...

    @overload
    def adopt(
        self, engine: Engine, name: str, *, session_class: type[Session] = Session
    ) -> ThreadDatabase: ...

    def adopt(
        self, engine: AsyncEngine | Engine, name: str, *, session_class: Any = None
    ) -> Database | ThreadDatabase:
        """Take in another engine of the app's own, before the start.

        It gets a lane `db.<name>`, a unit of work for each journey, and our names for its errors.
        In one request each database commits for itself, in the order in which they were first
        used: there is no two-phase COMMIT.

        Args:
            engine: Asynchronous, or one that blocks, for `def` endpoints.
            name: Of its lane.
            session_class: The class of its sessions, such as SQLModel's.

        Returns:
            What serves its sessions: `dependency` is the body of a `get_db`, `session()` gives
            one of its own, `engine` and `lane` are what they say.

        Raises:
            EngineTwice: The engine, or the name, was taken in before.
        """
        for other in self._adopted:
            if other.engine_given is engine or other.lane_name == f"db.{name}":
                raise EngineTwice(
                    f"engine {name!r} was adopted twice", fix="adopt each engine once, by one name"
                )
        adopted: Database | ThreadDatabase
        if isinstance(engine, AsyncEngine):
            settings = self._settings.model_copy(update={"read_url": None, "session_class": None})
            adopted = Database(
                settings,
                self._service,
                engine=engine,
                session_class=session_class,
                lane=f"db.{name}",
            )
        else:
            adopted = ThreadDatabase(engine, self._settings, name, session_class or Session)
        self._adopted.append(adopted)
        return adopted

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
        self._source.set_in_each_transaction(settings)
        return settings

    def check(self, routes: Iterable[BaseRoute], overrides: Overrides | None = None) -> None:
        """Refuse the start of an app that could not work.

        Args:
            routes: The app's.
            overrides: Its `dependency_overrides`.

        Raises:
            DatabaseUrlMissing: A route takes a session and there is no database.
            AsyncSessionInThread: A `def` endpoint takes an asynchronous session: its
                statements would be coroutines that nobody awaits (measured: 200, 0 rows).
        """
        asynchronous = [one for one in self._adopted if isinstance(one, Database)]
        sessions = {session_dependency, read_dependency, self.dependency}
        uses = session_uses(routes, sessions, overrides)
        theirs = session_uses(routes, {one.dependency for one in asynchronous}, overrides)
        for use in [*uses, *theirs]:
            if use.endpoint_in_thread:
                raise AsyncSessionInThread(
                    f"{use.function} ({use.route}) is a `def` and takes an asynchronous session",
                    fix="make it `async def`, or give it a session that blocks: "
                    'blocking = road.db.adopt(create_engine(url), "blocking"), and '
                    "Depends(blocking.dependency)",
                )
        if uses and not self.configured:
            raise DatabaseUrlMissing(
                f"{uses[0].function} ({uses[0].route}) takes a session, but there is no database",
                fix=_NO_URL_FIX,
            )

    async def open(self) -> None:
        """Make or adopt the engine, and hold its pool to the connection budget.

        Raises:
            DatabaseUrlInvalid: The URL or the engine cannot be used.
            OverBudget: The server has too few connections left.
        """
        try:
            for adopted in self._adopted:
                if isinstance(adopted, Database):
                    adopted.in_thread = self.in_thread
                await adopted.open()
            if self.configured:
                self._attach()
                await self._source.check_budget()
                self._source.start()
        except BaseException:
            await self.close()
            raise

    def attach(self) -> None:
        """Do what `open` does, for one who cannot await.

        Raises:
            DatabaseUrlInvalid: The URL or the engine cannot be used.
        """
        self._attach()
        self._source.start()

    def _attach(self) -> None:
        if self._session_class is None:
            self._session_class = load_session_class(self._settings.session_class)
        self._source.attach()

    async def close(self) -> None:
        """Close our engine's connections, or give the app's engine back."""
        for task in self._blocks.values():
            _log.warning("a session of road.db.session() outlives the app: %s", place_of(task))
        await self._source.close()
        for adopted in self._adopted:
            await adopted.close()

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

    @contextmanager
    def units_made_by(self, make: Callable[[Journey | None], UnitOfWork]) -> Iterator[None]:
        """Have units of work made elsewhere: tests put all of them on one connection."""
        before, self._make_unit = self._make_unit, make
        try:
            yield
        finally:
            self._make_unit = before

    def _new_unit(self, journey: Journey | None = None) -> UnitOfWork:
        if self._make_unit is not None:
            return self._make_unit(journey)
        return UnitOfWork(
            self._source.engine,
            self._source.reader,
            expire=self._settings.expire_on_commit,
            session_class=self._session_class or AsyncSession,
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
        return self.unit(journey_of_request()).session


async def session_dependency() -> AsyncSession:
    """Return the unit of work's session, the same in every dependency of the request."""
    return find(Database, "DbSession").unit(journey_of_request()).session


async def read_dependency() -> AsyncReadSession:
    """Return the journey's read session."""
    return find(Database, "ReadDbSession").unit(journey_of_request()).read


DbSession = Annotated[AsyncSession, Depends(session_dependency)]
"""The unit of work's session: committed before the first byte of a 2xx or 3xx leaves."""

ReadDbSession = Annotated[AsyncReadSession, Depends(read_dependency)]
"""A session that only reads, each statement in one round trip."""
