"""The connection metrics, as an SDK of OpenTelemetry collects them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from opentelemetry import metrics
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    NumberDataPoint,
)
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from clearway import Clearway, Settings
from clearway.core.histogram import BOUNDS
from clearway.errors import PoolBusy
from clearway.report.metrics import set_up
from db.roads import road_to
from support.waiting import until

pytestmark = pytest.mark.anyio

NAMES = {
    "db.client.connection.count": "{connection}",
    "db.client.connection.idle.max": "{connection}",
    "db.client.connection.idle.min": "{connection}",
    "db.client.connection.max": "{connection}",
    "db.client.connection.pending_requests": "{request}",
    "db.client.connection.timeouts": "{timeout}",
    "db.client.connection.create_time": "s",
    "db.client.connection.wait_time": "s",
    "db.client.connection.use_time": "s",
}


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemoryMetricReader]:
    """Return what an exporter would collect; the SDK is the process's own for this test."""
    memory = InMemoryMetricReader()
    provider = MeterProvider([memory])
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: provider)
    monkeypatch.setattr(metrics, "get_meter", provider.get_meter)
    yield memory
    provider.shutdown()


def collected(reader: InMemoryMetricReader) -> dict[str, dict[str, float]]:
    """Return each metric's points by state, the number of records for a histogram."""
    data = reader.get_metrics_data()
    found: dict[str, dict[str, float]] = {}
    if data is None:
        return found
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                assert metric.unit == NAMES[metric.name]
                for point in metric.data.data_points:
                    attributes = dict(point.attributes or {})
                    assert attributes.pop("db.client.connection.pool.name") == "db"
                    state = str(attributes.pop("db.client.connection.state", ""))
                    assert attributes == {}
                    value = getattr(point, "count", None)
                    value = value if value is not None else getattr(point, "value", None)
                    assert value is not None
                    found.setdefault(metric.name, {})[state] = float(value)
    return found


async def test_all_nine_say_how_the_pool_stands(
    database_url: str, reader: InMemoryMetricReader
) -> None:
    """While one connection is held, one journey waits, and after a wait that was too long."""
    settings = {
        "database": {
            "url": database_url, "pool_size": 1, "max_overflow": 0, "min_size": 1,
            "wait_timeout": 0.3,
        }
    }  # fmt: skip
    road = Clearway(FastAPI(), Settings.model_validate(settings))

    async def wait() -> None:
        async with road.db.session() as session:
            await session.execute(text("select 1"))

    async with road:
        async with road.db.session() as session:
            await session.execute(text("select 1"))
            waiting = asyncio.create_task(wait())
            await until(lambda: road.lanes["db"].snapshot().waiting == 1)
            held = collected(reader)
            with pytest.raises(PoolBusy):
                await waiting
        after = collected(reader)
    closed = collected(reader)

    assert set(after) == set(NAMES)
    assert held["db.client.connection.count"] == {"idle": 0, "used": 1}
    assert held["db.client.connection.pending_requests"] == {"": 1}
    assert held["db.client.connection.timeouts"] == {"": 0}
    assert after["db.client.connection.count"] == {"idle": 1, "used": 0}
    assert after["db.client.connection.pending_requests"] == {"": 0}
    assert after["db.client.connection.timeouts"] == {"": 1}
    assert after["db.client.connection.max"] == {"": 1}
    assert after["db.client.connection.idle.max"] == {"": 1}
    assert after["db.client.connection.idle.min"] == {"": 1}
    assert after["db.client.connection.use_time"] == {"": 1}
    assert after["db.client.connection.wait_time"] == {"": 1}
    assert "db.client.connection.count" not in closed


def metric_of(reader: InMemoryMetricReader, name: str) -> Metric | None:
    """Return one of our metrics, None where nobody has said anything of it."""
    data = reader.get_metrics_data()
    for resource in [] if data is None else data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                if metric.name == f"db.client.connection.{name}":
                    return metric
    return None


def numbers(reader: InMemoryMetricReader, name: str) -> dict[object, float]:
    """Return a metric's numbers by pool."""
    metric = metric_of(reader, name)
    found: dict[object, float] = {}
    for point in [] if metric is None else metric.data.data_points:
        assert isinstance(point, NumberDataPoint)
        found[dict(point.attributes or {})["db.client.connection.pool.name"]] = point.value
    return found


def times(reader: InMemoryMetricReader, name: str) -> dict[object, HistogramDataPoint]:
    """Return a metric's histograms by pool."""
    metric = metric_of(reader, name)
    found: dict[object, HistogramDataPoint] = {}
    for point in [] if metric is None else metric.data.data_points:
        assert isinstance(point, HistogramDataPoint)
        found[dict(point.attributes or {})["db.client.connection.pool.name"]] = point
    return found


async def use(road: Clearway, seconds: float = 0.0) -> None:
    """Hold a connection for so long."""
    async with road.db.session() as session:
        await session.execute(text("select 1"))
        await asyncio.sleep(seconds)


async def test_times_are_seconds_in_buckets_that_can_tell_them_apart(
    database_url: str, reader: InMemoryMetricReader
) -> None:
    """A use of 50 ms and the wait for its end are told in seconds, in the buckets of a lane."""
    one = {"pool_size": 1, "max_overflow": 0, "min_size": 0, "budget": "off"}
    async with road_to(database_url, **one) as road:
        await asyncio.gather(use(road, 0.05), use(road))
        wait, held = times(reader, "wait_time")["db"], times(reader, "use_time")["db"]
        opened = times(reader, "create_time")["db"]

    assert (wait.count, held.count, opened.count) == (2, 2, 1)
    assert wait.min == 0.0
    assert wait.max >= 0.05
    assert 0.05 <= held.max < 60
    assert 0 < opened.sum < 60
    for point in (wait, held, opened):
        assert tuple(point.explicit_bounds) == BOUNDS


async def test_the_bounds_are_those_that_the_budget_has_left(
    database_url: str, reader: InMemoryMetricReader
) -> None:
    """A lane that was made smaller is told as the pool's bounds."""
    async with road_to(database_url, pool_size=3, max_overflow=2, min_size=1) as road:
        before = [numbers(reader, name) for name in ("max", "idle.max", "idle.min")]
        lane = road.db.lane
        assert lane is not None
        lane.resize(2)
        after = [numbers(reader, name) for name in ("max", "idle.max", "idle.min")]

    assert before == [{"db": 5}, {"db": 3}, {"db": 1}]
    assert after == [{"db": 2}, {"db": 2}, {"db": 1}]


async def test_every_pool_is_told_by_the_name_of_its_lane(
    database_url: str, reader: InMemoryMetricReader
) -> None:
    """The pool for reads and an adopted engine that blocks have numbers of their own."""
    url = make_url(database_url).set(drivername="postgresql+psycopg")
    blocking = create_engine(url, pool_size=2, max_overflow=1)
    road = road_to(database_url, read_url=database_url)
    adopted = road.db.adopt(blocking, "blocking")

    def read() -> None:
        with adopted.session() as session:
            session.execute(text("select 1"))

    async with road:
        await asyncio.to_thread(read)
        await until(lambda: road.lanes["db.blocking"].snapshot().in_use == 0)
        most = numbers(reader, "max")
        opened, held = times(reader, "create_time"), times(reader, "use_time")
    blocking.dispose()

    assert set(most) == {"db", "db.read", "db.blocking"}
    assert most["db.blocking"] == 3
    assert (opened["db.blocking"].count, held["db.blocking"].count) == (1, 1)


async def test_a_second_start_is_told_like_the_first(
    database_url: str, reader: InMemoryMetricReader
) -> None:
    """A meter knows an instrument once: what opens again, or beside, is read by the same ones."""
    road = road_to(database_url, budget="off")
    counted = []
    for _ in range(2):
        async with road:
            await use(road)
            counted.append((numbers(reader, "max"), times(reader, "use_time")["db"].count))
        assert numbers(reader, "max") == {}

    assert counted == [({"db": 30}, 1), ({"db": 30}, 2)]


async def test_what_an_sdk_raises_fails_nothing(
    database_url: str,
    reader: InMemoryMetricReader,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is counted and said once; sessions go on, and no place in the lane is lost."""

    def fail(*_: object) -> None:
        raise RuntimeError("the exporter is gone")

    monkeypatch.setattr(Histogram, "record", fail)
    async with road_to(database_url, pool_size=1, max_overflow=0, budget="off") as road:
        await asyncio.gather(use(road), use(road))
        assert road.lanes["db"].snapshot().in_use == 0
        assert road.faults["metrics.record"] == 5

    assert capsys.readouterr().err.count("the exporter is gone") == 1


def test_without_an_sdk_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API alone hears nothing, and costs nothing."""
    monkeypatch.setattr(metrics, "get_meter_provider", NoOpMeterProvider)
    assert not set_up()


def test_the_stand_in_of_the_api_is_no_sdk() -> None:
    """What answers before an SDK is set up is not taken for one."""
    assert not set_up()
