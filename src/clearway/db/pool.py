"""SQLAlchemy's pool with our first-come-first-served lane in front."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, Pool
from sqlalchemy.util import await_only

from clearway.core.lane import Lane
from clearway.errors import PoolBusy
from clearway.settings import DatabaseSettings

PING_WITHIN = 2.0
"""Seconds that a connection has to answer a ping; a dropped one never answers."""

_PERMIT = "clearway_permit"
_SINCE = "clearway_idle_since"
_FIX = (
    "hold connections for a shorter time (no other waits inside a transaction), or raise "
    "database.pool_size within what the server allows"
)


class LanePool(AsyncAdaptedQueuePool):
    """A queue pool that is entered through a lane.

    SQLAlchemy's own queue lets a newcomer overtake, and leaves its waiters asleep for the
    whole timeout when a connect fails (measured: 5.02 s of 5 s with a free slot). The lane
    has as many permits as the pool has connections, so the queue below it never waits.
    """

    lane: Lane
    users: int

    def _do_get(self) -> ConnectionPoolEntry:  # touchpoint: sqlalchemy-pool
        permit = self.lane.try_acquire() or await_only(self.lane.acquire())
        try:
            record = super()._do_get()
        except BaseException:
            permit.release()
            raise
        record.record_info[_PERMIT] = permit  # type: ignore[index]  # a pool's record has one
        return record

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:  # touchpoint: sqlalchemy-pool
        permit = record.record_info.pop(_PERMIT, None)  # type: ignore[union-attr]  # as above
        record.info[_SINCE] = time.monotonic()
        try:
            super()._do_return_conn(record)
        finally:
            if permit is not None:
                permit.release()

    def recreate(self) -> LanePool:
        """Return a new pool behind the same lane, as `Engine.dispose` asks for."""
        pool = super().recreate()
        assert isinstance(pool, LanePool)
        pool.lane, pool.users = self.lane, self.users
        return pool


def put_lane_before(pool: Pool, settings: DatabaseSettings) -> Lane | None:
    """Turn a pool into a `LanePool` in place and return its lane.

    The connections in it stay; `take_lane_away` turns it back. None for any other kind of
    pool (`NullPool` behind PgBouncer, `StaticPool` in tests): they bound nothing.
    """
    if type(pool) is LanePool:
        pool.users += 1
        return pool.lane
    if type(pool) is not AsyncAdaptedQueuePool:
        return None
    unbounded = pool._max_overflow < 0
    lane = Lane(
        "db",
        None if unbounded else pool.size() + pool._max_overflow,
        queue_limit=settings.queue_limit,
        wait_timeout=settings.wait_timeout,
        busy=PoolBusy,
        fix=_FIX,
    )
    pool.__class__ = LanePool  # touchpoint: sqlalchemy-pool
    assert isinstance(pool, LanePool)
    pool.lane, pool.users = lane, 1
    return lane


def take_lane_away(pool: Pool) -> None:
    """Undo `put_lane_before`."""
    if isinstance(pool, LanePool):
        pool.users -= 1
        if pool.users:
            return
        del pool.lane, pool.users
        plain: Pool = pool
        plain.__class__ = AsyncAdaptedQueuePool  # touchpoint: sqlalchemy-pool


class Validation:
    """Check each connection before it is used, by a round trip only where `pre_ping` says so.

    `is_closed()` costs nothing and has seen a killed connection within 3 ms; a ping finds
    what a silent middlebox has dropped, which takes minutes of idleness.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        limits = {"always": 0.0, "idle": settings.idle_ping_after, "off": float("inf")}
        self._ping_after = limits[settings.pre_ping]

    def __call__(self, connection: object, record: ConnectionPoolEntry, proxy: object) -> None:
        """Raise `DisconnectionError` to have the pool replace the connection."""
        driver: Any = record.driver_connection
        if driver.is_closed():
            raise DisconnectionError("the server closed this connection")
        since = record.info.get(_SINCE)
        if since is None or time.monotonic() - since < self._ping_after:
            return
        try:
            await_only(driver.fetchrow(";", timeout=PING_WITHIN))
        except Exception as error:
            raise DisconnectionError("this connection no longer answers") from error
