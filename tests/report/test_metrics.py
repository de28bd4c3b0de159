"""The connection metrics, as an SDK of OpenTelemetry collects them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from opentelemetry import metrics
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from sqlalchemy import text

from clearway import Clearway, Settings
from clearway.errors import PoolBusy
from clearway.report.metrics import set_up
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


def test_without_an_sdk_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API alone hears nothing, and costs nothing."""
    monkeypatch.setattr(metrics, "get_meter_provider", NoOpMeterProvider)
    assert not set_up()


def test_the_stand_in_of_the_api_is_no_sdk() -> None:
    """What answers before an SDK is set up is not taken for one."""
    assert not set_up()
