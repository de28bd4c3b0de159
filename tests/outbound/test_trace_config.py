"""An aiohttp session of the app's own: what hooks see, and what the middleware adds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from fastapi import FastAPI

from clearway import Clearway, Settings
from clearway.core.deadline import Deadline
from clearway.errors import DeadlineExceeded, OutboundBusy
from outbound.services import Service, black_hole, lane, read, service
from support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def other() -> AsyncIterator[Service]:
    """Return another service."""
    async with service() as it:
        yield it


def road_of(**outbound: object) -> Clearway:
    """Return a Clearway with these settings of the lane."""
    return Clearway(FastAPI(), Settings.model_validate({"outbound": outbound}))


async def test_hooks_write_waits_and_holds_into_the_ledger(other: Service) -> None:
    """The wait for a connection is a wait, what comes after it a hold, and the id is on it."""
    road = road_of()
    connector = aiohttp.TCPConnector(limit=1)
    config = road.outbound.trace_config()
    async with road, aiohttp.ClientSession(connector=connector, trace_configs=[config]) as http:
        first = asyncio.create_task(read(http, other.url + "/wait"))
        await until(lambda: other.waiting == 1)
        assert lane(road).in_use == 1
        async with road.journey("second") as journey:
            asyncio.get_running_loop().call_later(0.5, other.gate.set)
            await read(http, other.url)
        await first
        snapshot = lane(road)

    entry = journey.ledger["outbound"]
    assert (entry.waits, entry.holds) == (1, 1)
    assert entry.waited > entry.held > 0
    assert other.seen[-1]["x-request-id"] == journey.id
    assert (snapshot.admitted, snapshot.in_use) == (2, 0)


async def test_hooks_hold_nobody_up(other: Service) -> None:
    """Beyond the lane's capacity calls go on as they did, and are not counted."""
    road = road_of(max_connections=1, queue_limit=0)
    async with (
        road,
        aiohttp.ClientSession(trace_configs=[road.outbound.trace_config()]) as http,
    ):
        first = asyncio.create_task(read(http, other.url + "/wait"))
        await until(lambda: other.waiting == 1)
        assert await read(http, other.url) == "ok"
        other.gate.set()
        await first
        assert (lane(road).admitted, lane(road).in_use) == (1, 0)


async def test_hooks_leak_no_place(other: Service) -> None:
    """Errors, cancellations, redirects and bodies that nobody reads give theirs back."""
    road = road_of()
    async with (
        road,
        aiohttp.ClientSession(trace_configs=[road.outbound.trace_config()]) as http,
    ):
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await http.post(other.url + "/drop")
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get("http://127.0.0.1:1")
        cancelled = asyncio.create_task(read(http, other.url + "/wait"))
        await until(lambda: other.waiting == 1)
        cancelled.cancel()
        await asyncio.wait({cancelled})
        await read(http, other.url + "/redirect?to=/large")
        response = await http.get(other.url + "/endless")
        assert lane(road).in_use == 1  # until the body is read or closed
        response.close()
        assert (lane(road).admitted, lane(road).in_use) == (6, 0)


async def test_the_middleware_bounds_what_hooks_only_see() -> None:
    """With both, a call is counted once, waits its turn, and ends at the deadline."""
    road = road_of(max_connections=1, timeout=0.6)
    async with (
        black_hole() as url,
        road,
        aiohttp.ClientSession(
            trace_configs=[road.outbound.trace_config()], middlewares=[road.outbound.middleware()]
        ) as http,
    ):
        first = asyncio.create_task(read(http, url))
        await until(lambda: lane(road).in_use == 1)
        with pytest.raises(OutboundBusy):
            await read(http, url)
        first.cancel()
        await asyncio.wait({first})
        async with road.journey("import") as journey:
            journey.deadline = Deadline.after(0.2)
            with pytest.raises(DeadlineExceeded):
                await read(http, url)
        assert (lane(road).admitted, lane(road).in_use) == (2, 0)


async def test_with_hooks_and_middleware_a_call_counts_once(other: Service) -> None:
    """The hooks see that the middleware holds the place already."""
    road = road_of()
    async with (
        road,
        aiohttp.ClientSession(
            trace_configs=[road.outbound.trace_config()], middlewares=[road.outbound.middleware()]
        ) as http,
        road.journey("import") as journey,
    ):
        await read(http, other.url + "/redirect?to=/")
        assert (lane(road).admitted, lane(road).in_use) == (2, 0)

    assert journey.ledger["outbound"].holds == 2


async def test_a_hook_that_fails_costs_no_call(
    other: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fault of ours is counted and said once, and the call goes on."""
    road = road_of()
    config = road.outbound.trace_config()
    async with road, aiohttp.ClientSession(trace_configs=[config]) as http:
        async with road.journey("import") as journey:
            journey.id = None  # type: ignore[assignment]  # a fault, as the test wants one
            journey.exchange = object()  # type: ignore[assignment]  # the same
            assert [await read(http, other.url) for _ in range(2)] == ["ok", "ok"]
        assert dict(road.faults) == {"Hooks._started": 2}

    assert capsys.readouterr().err.count("Hooks._started") == 1


@pytest.mark.parametrize("switch", ["setting", "variable"])
async def test_switched_off_it_is_not_there(
    switch: str, other: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adopted session works as it did: no id, no lane."""
    if switch == "variable":
        monkeypatch.setenv("CLEARWAY", "off")
    road = road_of(enabled=switch != "setting")
    async with (
        road,
        road.journey("import"),
        aiohttp.ClientSession(
            trace_configs=[road.outbound.trace_config()], middlewares=[road.outbound.middleware()]
        ) as http,
    ):
        assert await read(http, other.url) == "ok"
        assert "outbound" not in road.lanes

    assert "x-request-id" not in other.seen[0]
