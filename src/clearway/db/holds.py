"""Who holds connections, for how long, and what they do meanwhile."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from types import MappingProxyType

from sqlalchemy.pool import ConnectionPoolEntry

from clearway.core.histogram import Histogram, HistogramSnapshot
from clearway.core.journey import Journey, current_journey
from clearway.core.places import coroutine_places, own_places
from clearway.db.callers import current_task, own_places_of, trail_above
from clearway.db.drivers import Driver

_log = logging.getLogger("clearway.db")

_SHOWN = 3
_MOST_ROUTES = 1000
_SAY_AGAIN = 60.0  # seconds between two warnings of one route

ELSEWHERE = "(no route)"
"""Stands for whatever holds a connection outside of a route."""


class Hold:
    """One connection in somebody's hands."""

    __slots__ = ("journey", "noticed", "record", "since", "task", "trail")

    def __init__(self, record: ConnectionPoolEntry) -> None:
        self.record = record
        self.since = time.monotonic()
        self.journey: Journey | None = current_journey()
        self.task = current_task()
        self.trail = trail_above()
        self.noticed = False

    @property
    def route(self) -> str:
        """Name what holds the connection, as metrics do."""
        return (self.journey is not None and self.journey.route) or ELSEWHERE


class Holds:
    """The connections of one pool that are out, and for how long each route held its own.

    Args:
        warn_after: Seconds after which a hold is named in the log.
        driver: Knows whether a connection is at work.
    """

    def __init__(self, warn_after: float, driver: Driver) -> None:
        self._warn_after = warn_after
        self._driver = driver
        self._out: dict[Hold, None] = {}
        self._by_route: dict[str, Histogram] = {}
        self._said: dict[str, float] = {}

    def begin(self, record: ConnectionPoolEntry) -> Hold:
        """Note that a connection is taken, by whom, and where in their code."""
        hold = Hold(record)
        self._out[hold] = None
        return hold

    def end(self, hold: Hold | None) -> None:
        """Note that it came back."""
        if hold is None or self._out.pop(hold, self) is self:
            return
        route = hold.route
        histogram = self._by_route.get(route)
        if histogram is None:
            if len(self._by_route) >= _MOST_ROUTES:
                return
            histogram = self._by_route[route] = Histogram()
        histogram.observe(time.monotonic() - hold.since)

    def snapshot(self) -> Mapping[str, HistogramSnapshot]:
        """Return for how many seconds each route held connections."""
        return MappingProxyType({name: h.snapshot() for name, h in self._by_route.items()})

    def watch(self) -> None:
        """Name the holds that have become too long; called from time to time."""
        now = time.monotonic()
        for hold in list(self._out):
            if hold.noticed or now - hold.since < self._warn_after:
                continue
            hold.noticed = True
            route = hold.route
            if now - self._said.get(route, -_SAY_AGAIN) >= _SAY_AGAIN:
                self._said[route] = now
                _log.warning("%s", self._describe(hold, now - hold.since))

    def _describe(self, hold: Hold, seconds: float) -> str:
        busy = self._driver.is_busy(hold.record.dbapi_connection)
        state = "a statement runs in it" if busy else "it sits idle in its transaction"
        taken = " < ".join(str(place) for place in own_places_of(hold.trail)[:_SHOWN])
        text = f"a connection has been held for {seconds:.1f} s by {hold.route}: {state}"
        if not busy and hold.task is not None and not hold.task.done():
            awaited = coroutine_places(hold.task.get_coro())
            own = own_places(awaited)
            if own:
                inner = awaited[: awaited.index(own[0])]
                what = inner[-1].function if inner else "something else"
                text += f" while {own[0]} awaits {what}"
        return f"{text}; it was taken at {taken}" if taken else text
