"""What a service needs to enqueue: the store, and a word to the workers after the commit."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec

from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from clearway.core.journey import Journey, current_journey
from clearway.core.lane import Lane
from clearway.db import AsyncReadSession
from clearway.errors import ClearwayError, DatabaseDown, ReadOnlySession, ServerFull
from clearway.jobs.store import Store
from clearway.settings import JobSettings

P = ParamSpec("P")

_log = logging.getLogger("clearway.jobs")

_QUIET = 0.05  # seconds between two wake-ups at least: NOTIFY takes a lock of the whole server
_CLOSE_WITHIN = 1.0
_MARK = "clearway_outbox"


@dataclass(frozen=True, slots=True)
class Call(Generic[P]):
    """One call of a job, its arguments validated, for `enqueue_many`.

    Attributes:
        arguments: JSON.
        delay: Seconds.
        window: Length in seconds of what the key is unique in; None while the job is not done.
        key: Unique; None where any number may be.
    """

    name: str
    body: str
    queue: str
    arguments: str
    delay: float
    window: float | None
    key: str | None


class Outbox:
    """The part that puts jobs into the caller's transaction.

    Args:
        settings: Where the tables are, and whether they may be made.
        service: Whose jobs.
        engine: Returns the database's engine, for the tables and the wake-ups.

    Attributes:
        lane: The lane `jobs`: what runs in this process, if it is a worker's.
        store: The statements.
    """

    def __init__(
        self, settings: JobSettings, service: str, engine: Callable[[], AsyncEngine]
    ) -> None:
        self.lane = Lane("jobs")
        self.store = Store(settings.database_schema, service)
        self._settings = settings
        self._engine = engine
        self._installed = False
        self._installing = asyncio.Lock()
        self._bell: Bell | None = None

    async def open(self) -> None:
        """Make the tables if they are missing.

        A server that is down or full now does not stop the start: the first enqueue tries again.

        Raises:
            StoreUnfit: The tables are missing, and may not be made.
        """
        self._installing = asyncio.Lock()
        self._bell = Bell(self.store, self._engine())
        try:
            await self.install()
        except (DatabaseDown, ServerFull) as error:
            _log.warning("the tables of jobs were not looked at: %s", error.what)

    async def close(self) -> None:
        """Ring once more if somebody has committed since."""
        bell, self._bell = self._bell, None
        self._installed = False
        if bell is not None:
            await bell.close()

    async def install(self) -> None:
        """See to it, once, that the tables are there.

        Raises:
            StoreUnfit: They are missing, and may not be made.
        """
        async with self._installing:
            if not self._installed:
                make = self._settings.install == "auto"
                await self.store.install(self._engine(), make=make)
                self._installed = True

    async def enqueue(self, session: AsyncSession, calls: Sequence[Call[Any]]) -> list[int]:
        """Put calls into the session's transaction; see `Job.enqueue_many`."""
        if not calls:
            return []
        if isinstance(session, AsyncReadSession):
            raise ReadOnlySession(
                f"job {calls[0].name} was enqueued through a read session, which has no "
                "transaction that it could be part of",
                fix="take a DbSession where you enqueue",
            )
        if not self._installed:
            await self.install()
        columns: dict[str, list[Any]] = {
            "names": [call.name for call in calls],
            "queues": [call.queue for call in calls],
            "bodies": [call.body for call in calls],
            "arguments": [call.arguments for call in calls],
            "delays": [call.delay for call in calls],
            "keys": [call.key for call in calls],
            "windows": [call.window for call in calls],
        }
        ids = await self.store.enqueue(session, columns, **_origin(current_journey()))
        self._ring_after_commit(session.sync_session)
        return ids

    def _ring_after_commit(self, session: Session) -> None:
        if _MARK not in session.info:
            event.listen(session, "after_commit", _committed)  # touchpoint: sqlalchemy-events
        session.info[_MARK] = self._bell


def _committed(session: Session) -> None:
    if session.in_nested_transaction():
        return  # a savepoint was released, and its jobs may still be rolled back
    bell, session.info[_MARK] = session.info[_MARK], None
    if isinstance(bell, Bell):
        bell.ring()


def _origin(journey: Journey | None) -> dict[str, str | None]:
    """Return what a job should know of the journey that enqueues it."""
    if journey is None:
        return {"request_id": None, "traceparent": None}
    return {"request_id": journey.id, "traceparent": journey.traceparent}


class Bell:
    """Wake the workers: at once, and then at most every 50 ms.

    NOTIFY inside of a user's transaction would serialise the commits of the whole server
    (https://www.recall.ai/blog/postgres-listen-notify-does-not-scale), so it goes by a connection
    of its own after the commit. It is a hint: a worker that misses it looks by itself.
    """

    def __init__(self, store: Store, engine: AsyncEngine) -> None:
        self._store = store
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._loop = asyncio.get_running_loop()
        self._due = False
        self._closed = False
        self._ringing: asyncio.Task[None] | None = None

    def ring(self) -> None:
        """Wake them soon, from wherever a commit has happened; a session may outlive us."""
        if self._closed:
            return
        self._due = True
        if self._ringing is None:
            # In a context of its own: the journey that committed is over, its deadline too.
            self._ringing = self._loop.create_task(
                self._ring(), name="clearway wake-up", context=contextvars.Context()
            )

    async def close(self) -> None:
        """Let the last ring end."""
        self._closed = True
        ringing = self._ringing
        if ringing is not None:
            await asyncio.wait([ringing], timeout=_CLOSE_WITHIN)
            ringing.cancel()

    async def _ring(self) -> None:
        try:
            while self._due:
                self._due = False
                try:
                    async with self._engine.connect() as connection:
                        await self._store.notify(connection)
                except (ClearwayError, SQLAlchemyError, OSError) as error:
                    _log.debug("a wake-up was left out: %s", error)
                await asyncio.sleep(_QUIET)
        finally:
            self._ringing = None
