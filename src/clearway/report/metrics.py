"""Connection metrics by OpenTelemetry's conventions, where its SDK is set up.

Source: https://opentelemetry.io/docs/specs/semconv/database/database-metrics/#connection-pools
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, NoOpMeterProvider, Observation

from clearway.core.lane import Lane
from clearway.db import Database
from clearway.db.snapshot import PoolSnapshot

_PREFIX = "db.client.connection"
_POOL = f"{_PREFIX}.pool.name"
_STATE = f"{_PREFIX}.state"

Read = Callable[[PoolSnapshot], Iterable[Observation]]


def set_up() -> bool:
    """Say whether there is somebody to hear: an SDK has been set up, and not only the API."""
    provider = metrics.get_meter_provider()
    return not isinstance(provider, NoOpMeterProvider) and type(provider).__module__ != (
        "opentelemetry.metrics._internal"  # the proxy that stands in until there is an SDK
    )


class ConnectionMetrics:
    """The part that gives the nine `db.client.connection.*` to OpenTelemetry.

    Gauges and counters are read when somebody collects; the three times are recorded as they
    happen.

    Args:
        database: Whose pools.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._open = False

    async def open(self) -> None:
        """Make the instruments, before the database opens its first connection."""
        self._open = True
        meter = metrics.get_meter("clearway")
        gauge = meter.create_observable_up_down_counter
        gauge(
            f"{_PREFIX}.count",
            [self._reader(_count)],
            "{connection}",
            "Connections in the state described by the state attribute",
        )
        gauge(
            f"{_PREFIX}.idle.max",
            [self._reader(lambda pool: [_one(pool, pool.idle_max)])],
            "{connection}",
            "Most idle open connections allowed",
        )
        gauge(
            f"{_PREFIX}.idle.min",
            [self._reader(lambda pool: [_one(pool, pool.idle_min)])],
            "{connection}",
            "Fewest idle open connections allowed",
        )
        gauge(
            f"{_PREFIX}.max",
            [self._reader(lambda pool: [] if pool.max is None else [_one(pool, pool.max)])],
            "{connection}",
            "Most open connections allowed",
        )
        gauge(
            f"{_PREFIX}.pending_requests",
            [self._reader(lambda pool: [_one(pool, pool.pending)])],
            "{request}",
            "Requests that wait for an open connection",
        )
        meter.create_observable_counter(
            f"{_PREFIX}.timeouts",
            [self._reader(lambda pool: [_one(pool, pool.timeouts)])],
            "{timeout}",
            "Waits for a connection that ended without one",
        )
        self._create, self._wait, self._use = (
            meter.create_histogram(f"{_PREFIX}.{name}", "s", text)
            for name, text in (
                ("create_time", "Time to open a connection"),
                ("wait_time", "Time to get an open connection"),
                ("use_time", "Time between getting a connection and giving it back"),
            )
        )
        self._database.meter = self

    async def close(self) -> None:
        """Say nothing more: OpenTelemetry takes no instrument back."""
        self._open = False
        self._database.meter = None

    def listen(self, lane: Lane) -> Callable[[float], object]:
        """Listen to a lane from now on; what is returned is told of each connect, in seconds."""
        attributes = {_POOL: lane.name}
        lane.on_wait = lambda seconds: self._wait.record(seconds, attributes)
        lane.on_hold = lambda seconds: self._use.record(seconds, attributes)
        return lambda seconds: self._create.record(seconds, attributes)

    def _reader(self, read: Read) -> Callable[[CallbackOptions], Sequence[Observation]]:
        def observe(_: CallbackOptions) -> Sequence[Observation]:
            if not self._open:
                return ()
            return [one for pool in self._database.pools for one in read(pool)]

        return observe


def _one(pool: PoolSnapshot, value: int) -> Observation:
    return Observation(value, {_POOL: pool.name})


def _count(pool: PoolSnapshot) -> list[Observation]:
    states = (("idle", pool.idle), ("used", pool.used))
    return [Observation(value, {_POOL: pool.name, _STATE: state}) for state, value in states]
