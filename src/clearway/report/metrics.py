"""Connection metrics by OpenTelemetry's conventions, where its SDK is set up.

Source: https://opentelemetry.io/docs/specs/semconv/database/database-metrics/#connection-pools
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from weakref import WeakKeyDictionary

from opentelemetry import metrics
from opentelemetry.metrics import (
    CallbackOptions,
    Histogram,
    Meter,
    NoOpMeterProvider,
    Observation,
)

from clearway.core.histogram import BOUNDS
from clearway.core.lane import Lane
from clearway.core.observer import Faults
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
        faults: Counts what an SDK raises while a time is recorded.
    """

    def __init__(self, database: Database, faults: Faults) -> None:
        self._database = database
        self._faults = faults

    async def open(self) -> None:
        """Begin to tell, before the database opens its first connection."""
        self._instruments = _instruments_of(metrics.get_meter("clearway"))
        self._instruments.databases.append(self._database)
        self._database.listen(self)

    async def close(self) -> None:
        """Say nothing more."""
        self._instruments.databases.remove(self._database)
        self._database.listen(None)

    def listen(self, lane: Lane) -> Callable[[float], object]:
        """Listen to a lane from now on; what is returned is told of each connect, in seconds."""
        lane.on_wait = self._into(self._instruments.wait, lane)
        lane.on_hold = self._into(self._instruments.use, lane)
        return self._into(self._instruments.create, lane)

    def _into(self, histogram: Histogram, lane: Lane) -> Callable[[float], None]:
        attributes = {_POOL: lane.name}
        return self._faults.guarded(
            "metrics.record", lambda seconds: histogram.record(seconds, attributes)
        )


class _Instruments:
    """What a meter has of ours.

    It takes no instrument back, and a second one by the same name gets no callback: so they are
    made once, and read whatever is open.
    """

    def __init__(self, meter: Meter) -> None:
        self.databases: list[Database] = []
        for name, unit, text, read in _GAUGES:
            meter.create_observable_up_down_counter(
                f"{_PREFIX}.{name}", [self._reader(read)], unit, text
            )
        meter.create_observable_counter(
            f"{_PREFIX}.timeouts",
            [self._reader(lambda pool: [_one(pool, pool.timeouts)])],
            "{timeout}",
            "Waits for a connection that ended without one",
        )
        self.create, self.wait, self.use = (
            meter.create_histogram(
                f"{_PREFIX}.{name}",
                "s",
                text,
                # The default buckets are for milliseconds: all that a pool does is in the first.
                explicit_bucket_boundaries_advisory=BOUNDS,
            )
            for name, text in (
                ("create_time", "Time to open a connection"),
                ("wait_time", "Time to get an open connection"),
                ("use_time", "Time between getting a connection and giving it back"),
            )
        )

    def _reader(self, read: Read) -> Callable[[CallbackOptions], Sequence[Observation]]:
        def observe(_: CallbackOptions) -> Sequence[Observation]:
            pools = [pool for database in tuple(self.databases) for pool in database.pools]
            return [one for pool in pools for one in read(pool)]

        return observe


_by_meter: WeakKeyDictionary[Meter, _Instruments] = WeakKeyDictionary()


def _instruments_of(meter: Meter) -> _Instruments:
    instruments = _by_meter.get(meter)
    if instruments is None:
        instruments = _by_meter[meter] = _Instruments(meter)  # touchpoint: opentelemetry-meter
    return instruments


def _one(pool: PoolSnapshot, value: int) -> Observation:
    return Observation(value, {_POOL: pool.name})


def _count(pool: PoolSnapshot) -> list[Observation]:
    states = (("idle", pool.idle), ("used", pool.used))
    return [Observation(value, {_POOL: pool.name, _STATE: state}) for state, value in states]


_GAUGES: Sequence[tuple[str, str, str, Read]] = (
    ("count", "{connection}", "Connections in a state", _count),
    ("idle.max", "{connection}", "Most idle connections", lambda p: [_one(p, p.idle_max)]),
    ("idle.min", "{connection}", "Fewest idle connections", lambda p: [_one(p, p.idle_min)]),
    (
        "max",
        "{connection}",
        "Most open connections",
        lambda p: [] if p.max is None else [_one(p, p.max)],
    ),
    ("pending_requests", "{request}", "Who waits for one", lambda p: [_one(p, p.pending)]),
)
