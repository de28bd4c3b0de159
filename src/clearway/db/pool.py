"""SQLAlchemy's pool with our first-come-first-served lane in front."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, Pool, QueuePool
from sqlalchemy.util import await_only

from clearway.core.lane import Lane, Permit
from clearway.db.drivers import Driver
from clearway.db.endings import Endings
from clearway.db.holds import Holds
from clearway.db.terms import UPKEEP
from clearway.errors import PoolBusy
from clearway.settings import DatabaseSettings

IDLE_SINCE = "clearway_idle_since"
"""Key in a record's `info`: when the connection came back, on the monotonic clock."""

_PERMIT = "clearway_permit"
_HOLD = "clearway_hold"
_FIX = (
    "hold connections for a shorter time (no other waits inside a transaction), or raise "
    "database.pool_size within what the server allows"
)


class LanePool(AsyncAdaptedQueuePool):
    """A queue pool that is entered through a lane.

    SQLAlchemy's own queue lets a newcomer overtake, and leaves its waiters asleep for the
    whole timeout when a connect fails (measured: 5.02 s of 5 s with a free slot). The lane
    has as many permits as the pool has connections, so the queue below it never waits.

    A connection that is closed ends in a task of its own, in bounded time, and its permit stays
    taken until then: so the server never has more of our connections than the lane has permits,
    whatever was cancelled (measured without: 99 backends behind a pool of 2).
    """

    lane: Lane
    holds: Holds
    endings: Endings
    users: int
    gone: bool = False

    def _do_get(self) -> ConnectionPoolEntry:  # touchpoint: sqlalchemy-pool
        permit = self.lane.reserve() if UPKEEP.get() else self.lane.try_acquire()
        permit = permit or await_only(self.lane.acquire())
        try:
            record = super()._do_get()
        except BaseException:
            permit.release()
            raise
        own: dict[str, Any] = record.record_info  # type: ignore[assignment]  # a pool's record has one
        own[_PERMIT] = permit
        own[_HOLD] = None if UPKEEP.get() else self.holds.begin(record)
        return record

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:  # touchpoint: sqlalchemy-pool
        own: dict[str, Any] = record.record_info  # type: ignore[assignment]  # as above
        permit: Permit | None = own.pop(_PERMIT, None)
        self.holds.end(own.pop(_HOLD, None))
        record.info[IDLE_SINCE] = time.monotonic()
        if self.gone:
            record.close()  # nobody will ask this pool again
        ending = self.endings.of(record)
        if ending is None:
            self._put_back(record, permit)
        else:
            if permit is not None:
                permit.leave_behind()  # the journey need not wait for it
            ending.add_done_callback(lambda _: self._put_back(record, permit))

    def _put_back(self, record: ConnectionPoolEntry, permit: Permit | None) -> None:
        try:
            super()._do_return_conn(record)  # closes it where the pool has enough
        finally:
            ending = self.endings.of(record)
            if permit is None:
                pass
            elif ending is None:
                permit.release()
            else:
                permit.leave_behind()
                ending.add_done_callback(lambda _: permit.release())

    def _close_connection(  # touchpoint: sqlalchemy-pool
        self, connection: DBAPIConnection, *, terminate: bool = False
    ) -> None:
        if not self.endings.begin(connection):
            super()._close_connection(connection, terminate=terminate)

    def dispose(self) -> None:
        """Close what is idle, and wait until it has ended."""
        self.gone = True
        super().dispose()
        self.endings.wait()

    def recreate(self) -> LanePool:
        """Return a new pool behind the same lane, as `Engine.dispose` asks for."""
        pool = super().recreate()
        assert isinstance(pool, LanePool)
        pool.lane, pool.users = self.lane, self.users
        pool.holds, pool.endings = self.holds, self.endings
        return pool

    def warm(self) -> bool:
        """Open one connection more and leave it idle; False if there is no place for it.

        Runs in SQLAlchemy's greenlet.

        Raises:
            Exception: What the connect failed with.
        """
        permit = self.lane.reserve()
        if permit is None:
            return False
        with permit:
            if self.checkedin() + self.checkedout() >= self.size() or not self._inc_overflow():
                return False
            try:
                record = self._create_connection()
            except BaseException:
                self._dec_overflow()
                raise
            record.info[IDLE_SINCE] = time.monotonic()
            super()._do_return_conn(record)
            return True

    def shrink(self) -> None:
        """Close idle connections that are more than the lane has places for."""
        most = self.lane.capacity
        while most is not None and self.checkedin() and self.checkedin() + self.checkedout() > most:
            record = self._pool.get(False)
            record.close()
            self._dec_overflow()

    def renew(self, is_old: Callable[[ConnectionPoolEntry], bool]) -> None:
        """Replace the idle connections that are old, one at a time, while places are free.

        Runs in SQLAlchemy's greenlet.

        Raises:
            Exception: What a connect failed with; its place in the pool stays.
        """
        for _ in range(self.checkedin()):
            permit = self.lane.reserve()
            if permit is None:
                return
            with permit:
                if not self.checkedin():
                    return
                record = self._pool.get(False)
                try:
                    if is_old(record):
                        record.close()
                        record.get_connection()  # type: ignore[attr-defined]  # a pool's record
                finally:
                    super()._do_return_conn(record)


def lane_for(pool: QueuePool, settings: DatabaseSettings, name: str) -> Lane:
    """Return a lane with as many places as the pool may open connections."""
    unbounded = pool._max_overflow < 0  # touchpoint: sqlalchemy-pool
    return Lane(
        name,
        None if unbounded else pool.size() + pool._max_overflow,
        queue_limit=settings.queue_limit,
        wait_timeout=settings.wait_timeout,
        busy=PoolBusy,
        fix=_FIX,
    )


def put_lane_before(
    pool: Pool, settings: DatabaseSettings, driver: Driver, name: str = "db"
) -> Lane | None:
    """Turn a pool into a `LanePool` in place and return its lane.

    The connections in it stay; `take_lane_away` turns it back. None for any other kind of
    pool (`NullPool` behind PgBouncer, `StaticPool` in tests): they bound nothing.
    """
    if type(pool) is LanePool:
        pool.users += 1
        return pool.lane
    if type(pool) is not AsyncAdaptedQueuePool:
        return None
    lane = lane_for(pool, settings, name)
    pool.__class__ = LanePool  # touchpoint: sqlalchemy-pool
    assert isinstance(pool, LanePool)
    pool.lane, pool.users = lane, 1
    pool.holds, pool.endings = Holds(settings.hold_warn_after, driver), Endings(driver)
    return lane


def take_lane_away(pool: Pool) -> None:
    """Undo `put_lane_before`."""
    if isinstance(pool, LanePool):
        pool.users -= 1
        if pool.users:
            return
        del pool.lane, pool.users, pool.holds, pool.endings
        plain: Pool = pool
        plain.__class__ = AsyncAdaptedQueuePool  # touchpoint: sqlalchemy-pool
