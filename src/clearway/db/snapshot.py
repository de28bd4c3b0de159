"""How the connections of a pool stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.pool import QueuePool

from clearway.core.lane import Lane


class Meter(Protocol):
    """Who hears how long waits, holds and connects took."""

    def listen(self, lane: Lane) -> Callable[[float], object]:
        """Listen to a lane from now on; what is returned is told of each connect, in seconds."""


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """A pool as it stood when it was asked, in the words of OpenTelemetry.

    Attributes:
        name: That of its lane.
        idle: Open connections that nobody uses.
        used: Connections that somebody has, those that are about to end included.
        max: Most open connections; None for no bound.
        idle_max: Most of them that are kept, as the budget has left it.
        idle_min: Fewest of them that are kept open ahead.
        pending: Journeys that wait for one.
        timeouts: Waits that ended without one, since the start.
    """

    name: str
    idle: int
    used: int
    max: int | None
    idle_max: int
    idle_min: int
    pending: int
    timeouts: int

    @classmethod
    def of(cls, lane: Lane, pool: QueuePool, idle_min: int) -> PoolSnapshot:
        """Return how a pool and its lane stand now."""
        stands = lane.snapshot()
        size = pool.size()
        return cls(
            name=lane.name,
            idle=pool.checkedin(),
            used=stands.in_use,
            max=stands.capacity,
            idle_max=size if stands.capacity is None else min(size, stands.capacity),
            idle_min=idle_min if stands.capacity is None else min(idle_min, stands.capacity),
            pending=stands.waiting,
            timeouts=stands.timed_out,
        )
