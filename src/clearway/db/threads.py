"""Synchronous engines, for `def` endpoints: the same unit of work, in threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, Pool, QueuePool

from clearway.core.journey import Journey
from clearway.core.lane import Lane, Permit
from clearway.db.dependencies import journey_of_request
from clearway.db.faults import commit_error, connect_error, state_in_text
from clearway.db.pool import lane_for
from clearway.db.snapshot import Meter, PoolSnapshot
from clearway.db.url import shown
from clearway.errors import CommitFailed, CommitWasRollback, NotOpen
from clearway.settings import DatabaseSettings

_PERMIT = "clearway_permit"
_IN_ERROR = 3  # psycopg's and psycopg2's number for a transaction that has failed


class ThreadLanePool(QueuePool):
    """A queue pool whose connections are asked for by threads, through a lane of the loop."""

    lane: Lane
    loop: asyncio.AbstractEventLoop

    def _do_get(self) -> ConnectionPoolEntry:  # touchpoint: sqlalchemy-pool
        permit = self._enter()
        try:
            record = super()._do_get()
        except BaseException:
            self._leave(permit)
            raise
        record.record_info[_PERMIT] = permit  # type: ignore[index]  # a pool's record has one
        return record

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:  # touchpoint: sqlalchemy-pool
        permit: Permit | None = record.record_info.pop(_PERMIT, None)  # type: ignore[union-attr]  # as above
        try:
            super()._do_return_conn(record)
        finally:
            self._leave(permit)

    def _enter(self) -> Permit | None:
        """Wait for a place; None where nobody can: on the loop itself, and once it is gone."""
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is not None or not self.loop.is_running():
            return None
        # The caller's context goes along, and in it the journey whose ledger this is.
        return asyncio.run_coroutine_threadsafe(self.lane.acquire(), self.loop).result()

    def _leave(self, permit: Permit | None) -> None:
        if permit is None:
            return
        try:
            self.loop.call_soon_threadsafe(permit.release)
        except RuntimeError:  # the loop is closed, and its lane with it
            permit.release()

    def recreate(self) -> ThreadLanePool:
        """Return a new pool behind the same lane, as `Engine.dispose` asks for."""
        pool = super().recreate()
        assert isinstance(pool, ThreadLanePool)
        pool.lane, pool.loop = self.lane, self.loop
        return pool


class ThreadDatabase:
    """An engine of the app's own that blocks, and a session of it for each journey.

    Args:
        engine: As the app has made it; it is given back as it was.
        settings: What bounds the waiting.
        name: Of its lane, after `db.`.
        session_class: The class of its sessions.

    Attributes:
        engine: The engine.
        lane: None before the start, and for a pool that bounds nothing.
    """

    def __init__(
        self,
        engine: Engine,
        settings: DatabaseSettings,
        name: str,
        session_class: type[Session] = Session,
    ) -> None:
        self.engine = engine
        self.lane: Lane | None = None
        self._meter: Meter | None = None
        self._settings = settings
        self._name = name
        self._session_class = session_class
        self._opened = False
        self._connected: Callable[[float], object] | None = None

    @property
    def engine_given(self) -> Engine:
        """The app's own engine."""
        return self.engine

    @property
    def lane_name(self) -> str:
        """The name of its lane."""
        return f"db.{self._name}"

    @property
    def lanes(self) -> list[Lane]:
        """The lane that is open."""
        return [] if self.lane is None else [self.lane]

    @property
    def pools(self) -> list[PoolSnapshot]:
        """How its pool stands."""
        pool = self.engine.pool
        if self.lane is None or not isinstance(pool, QueuePool):
            return []
        return [PoolSnapshot.of(self.lane, pool, 0)]

    def listen(self, meter: Meter | None) -> None:
        """Have a meter hear how long things take, from the next start on."""
        self._meter = meter

    async def open(self) -> None:
        """Put the lane before the pool; no connection is opened."""
        self.lane = _put_lane_before(self.engine.pool, self._settings, f"db.{self._name}")
        if self._meter is not None and self.lane is not None:
            self._connected = self._meter.listen(self.lane)
        event.listen(self.engine, "do_connect", self._connect)  # touchpoint: sqlalchemy-events
        self._opened = True

    async def close(self) -> None:
        """Give the engine back as it was."""
        if not self._opened:
            return
        self._opened = False
        self.lane = None
        event.remove(self.engine, "do_connect", self._connect)
        _take_lane_away(self.engine.pool)

    def dependency(self) -> Session:
        """Return the request's session: what the body of an existing `def get_db` becomes."""
        return self.unit(journey_of_request()).session

    def unit(self, journey: Journey) -> ThreadUnit:
        """Return the journey's unit of work; its end hangs on the journey's response.

        Raises:
            NotOpen: The response has begun, or nothing is open.
        """
        if journey.answered or not self._opened:
            raise NotOpen(
                "a session was asked for after the response had begun, or before the start",
                fix="with database.session() as session: where no response ends its transaction",
            )
        unit = journey.units.get(self)
        if not isinstance(unit, ThreadUnit):
            unit = journey.units[self] = ThreadUnit(self._new_session())
            journey.before_response.append(unit.settle)
        return unit

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Give a session of its own, in a thread or a script: committed at the end, or rolled back.

        Raises:
            CommitFailed: The COMMIT at the end of the block failed.
        """
        unit = ThreadUnit(self._new_session())
        try:
            yield unit.session
        except BaseException:
            unit.settle_here(False)
            raise
        unit.settle_here(True)

    def _new_session(self) -> Session:
        return self._session_class(
            self.engine, expire_on_commit=self._settings.expire_on_commit, close_resets_only=False
        )

    def _connect(
        self, dialect: Dialect, _: ConnectionPoolEntry, args: list[Any], named: dict[str, Any]
    ) -> DBAPIConnection:
        began = time.monotonic()
        try:
            connection = dialect.connect(*args, **named)
        except Exception as error:
            state = state_in_text(error)
            raise connect_error(error, shown(self.engine.url), state) from error
        if self._connected is not None:
            self._connected(time.monotonic() - began)
        return connection


class ThreadUnit:
    """One session and one transaction of one journey, for code that blocks."""

    def __init__(self, session: Session) -> None:
        self.session = session

    async def settle(self, commit: bool) -> None:
        """Commit or roll back in a thread, and close the session for good.

        Raises:
            CommitFailed: Nothing was stored, or nobody can know (`CommitUnknown`).
        """
        if not self.session.in_transaction():
            self.session.close()
            return
        # Neither a full lane nor a deadline may keep a transaction from its end, and a COMMIT
        # that is on its way has to be awaited: a thread beside the lane, whatever is cancelled.
        await asyncio.shield(asyncio.create_task(asyncio.to_thread(self.settle_here, commit)))

    def settle_here(self, commit: bool) -> None:
        """Do what `settle` does, in this thread."""
        try:
            if commit and self.session.in_transaction():
                self._commit()
        finally:
            try:
                self.session.close()
            except SQLAlchemyError:
                self.session.invalidate()  # the connection died, and its transaction with it

    def _commit(self) -> None:
        session = self.session
        try:
            session.flush()
            raw: Any = session.connection().connection.driver_connection
        except SQLAlchemyError as error:
            raise commit_error(error, sent=False) from error
        info = getattr(raw, "info", None)
        if info is not None and info.transaction_status == _IN_ERROR:
            raise CommitWasRollback(
                "PostgreSQL would answer ROLLBACK to COMMIT: nothing was stored",
                fix="a statement failed and its exception was swallowed; wrap what may fail in "
                "`with session.begin_nested()`, or let the exception through",
            )
        if raw.closed:
            raise CommitFailed("the connection was closed before COMMIT: nothing was stored")
        try:
            session.commit()
        except Exception as error:
            raise commit_error(error, sent=True) from error


def _put_lane_before(pool: Pool, settings: DatabaseSettings, name: str) -> Lane | None:
    if type(pool) is not QueuePool:
        return None
    lane = lane_for(pool, settings, name)
    pool.__class__ = ThreadLanePool  # touchpoint: sqlalchemy-pool
    assert isinstance(pool, ThreadLanePool)
    pool.lane, pool.loop = lane, asyncio.get_running_loop()
    return lane


def _take_lane_away(pool: Pool) -> None:
    if isinstance(pool, ThreadLanePool):
        del pool.lane, pool.loop
        plain: Pool = pool
        plain.__class__ = QueuePool  # touchpoint: sqlalchemy-pool
