"""The check that a connection passes before it is used."""

from __future__ import annotations

import random
import time

from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only

from clearway.db.drivers import Driver
from clearway.db.pool import IDLE_SINCE
from clearway.settings import DatabaseSettings

_EXPIRES = "clearway_expires"
_JITTER = 0.1  # of the longest life: what opened together does not end together


class Validation:
    """Check each connection before it is used, by a round trip only where `pre_ping` says so.

    The driver's own look costs nothing and has seen a killed connection within 3 ms; a ping
    finds what a silent middlebox has dropped, which takes minutes of idleness.
    """

    def __init__(self, settings: DatabaseSettings, driver: Driver) -> None:
        limits = {"always": 0.0, "idle": settings.idle_ping_after, "off": float("inf")}
        self._ping_after = limits[settings.pre_ping]
        self._life = settings.pool_recycle
        self._driver = driver

    def limit_life(self, record: ConnectionPoolEntry) -> None:
        """Give a connection that opens now its last moment."""
        life = self._life * (1 - _JITTER * random.random())  # noqa: S311 - spread, not a secret
        record.info[_EXPIRES] = time.monotonic() + life

    def is_old(self, record: ConnectionPoolEntry) -> bool:
        """Say whether an idle connection should be replaced."""
        expires = record.info.get(_EXPIRES)
        if expires is not None and time.monotonic() >= expires:
            return True
        connection = record.driver_connection
        return connection is not None and self._driver.is_closed(connection)

    def __call__(self, connection: object, record: ConnectionPoolEntry, proxy: object) -> None:
        """Raise `DisconnectionError` to have the pool replace the connection."""
        if self.is_old(record):
            raise DisconnectionError("the connection was closed by the server, or is too old")
        since = record.info.get(IDLE_SINCE)
        if since is None or time.monotonic() - since < self._ping_after:
            return
        try:
            await_only(self._driver.ping(record.driver_connection))
        except Exception as error:
            raise DisconnectionError("this connection no longer answers") from error
