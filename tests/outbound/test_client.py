"""The shared session: its lane, its deadline, its ledger, and that nothing of it leaks."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator

import aiohttp
import psutil
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from clearway import Background, Clearway, HttpClient, Settings, current_journey
from clearway.core.deadline import Deadline
from clearway.errors import DeadlineExceeded, NotOpen, OutboundBusy
from outbound.services import Service, black_hole, lane, read, service
from support.asgi import client_for, serving
from support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def other() -> AsyncIterator[Service]:
    """Return another service."""
    async with service() as it:
        yield it


def road_of(app: FastAPI | None = None, request: object = None, **outbound: object) -> Clearway:
    """Return a Clearway with these settings of the lane."""
    tree = {"outbound": outbound, "request": request or {}}
    return Clearway(app or FastAPI(), Settings.model_validate(tree))


async def test_an_endpoint_calls_another_service(other: Service) -> None:
    """One session serves every request, and each call is a hold in its own ledger."""
    app = FastAPI()
    road = road_of(app)
    sessions: list[int] = []
    held: list[tuple[int, float]] = []

    @app.get("/")
    async def answer(http: HttpClient) -> str:
        body = await read(http, other.url)
        journey = current_journey()
        assert journey is not None
        sessions.append(id(http))
        held.append((journey.ledger["outbound"].holds, journey.ledger["outbound"].held))
        return body

    async with serving(app) as client:
        assert "outbound" not in road.lanes
        assert [(await client.get("/")).json() for _ in range(2)] == ["ok", "ok"]
        snapshot = lane(road)

    assert len(set(sessions)) == 1
    assert [count for count, _ in held] == [1, 1]
    assert all(seconds > 0 for _, seconds in held)
    assert (snapshot.admitted, snapshot.in_use, snapshot.capacity) == (2, 0, 100)


async def test_it_works_without_a_journey(other: Service) -> None:
    """A script that is in no journey calls through the same lane."""
    async with road_of() as road:
        assert await read(road.outbound.session, other.url) == "ok"
        assert lane(road).admitted == 1


async def test_it_works_in_a_background_task(other: Service) -> None:
    """The task's own journey has the hold, and the call carries the request's id."""
    app = FastAPI()
    road = road_of(app)
    held: list[int] = []

    async def notify() -> None:
        await read(road.outbound.session, other.url)
        journey = current_journey()
        assert journey is not None
        held.append(journey.ledger["outbound"].holds)

    @app.get("/")
    async def answer(background: Background) -> None:
        background.add(notify)

    async with serving(app) as client:
        await client.get("/", headers={"X-Request-ID": "from-outside"})
        await until(lambda: held == [1])

    assert other.seen[0]["x-request-id"] == "from-outside"


async def test_a_service_that_never_answers_costs_the_deadline_and_no_more() -> None:
    """With an enforced deadline the answer is a 504, and the place is free again."""
    app = FastAPI()
    road = road_of(app, {"timeout": 0.3, "timeout_mode": "enforce"}, timeout=600)

    async with black_hole() as url:

        @app.get("/")
        async def answer(http: HttpClient) -> str:
            return await read(http, url)

        async with serving(app) as client:
            response = await client.get("/")
            await until(lambda: lane(road).in_use == 0)

    assert response.status_code == 504
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "CW302"


@pytest.mark.parametrize("phase", ["headers", "body"])
async def test_the_deadline_cuts_a_call_where_nothing_else_would(
    phase: str, other: Service
) -> None:
    """A journey's own deadline ends the wait for headers and for a body, as our error."""
    path = "/wait" if phase == "headers" else "/endless"
    async with road_of(timeout=600) as road, road.journey("import") as journey:
        journey.deadline = Deadline.after(0.3)
        with pytest.raises(DeadlineExceeded, match=r"127\.0\.0\.1"):
            await read(road.outbound.session, other.url + path)
        assert lane(road).in_use == 0


async def test_a_deadline_that_has_passed_makes_no_call(other: Service) -> None:
    """What would be worth nothing is not asked for."""
    async with road_of() as road, road.journey("import") as journey:
        journey.deadline = Deadline.after(0)
        with pytest.raises(DeadlineExceeded):
            await read(road.outbound.session, other.url)

    assert other.seen == []


async def test_a_stream_is_not_bound_by_the_deadline_of_its_response(other: Service) -> None:
    """Once our own response has begun, the body that it hands on may take its time."""
    app = FastAPI()
    road_of(app, {"timeout": 0.3, "timeout_mode": "enforce"}, timeout=600)

    @app.get("/")
    async def answer(http: HttpClient) -> StreamingResponse:
        response = await http.get(other.url + "/endless")

        async def body() -> AsyncIterator[bytes]:
            async with response:
                async for part in response.content.iter_any():
                    asyncio.get_running_loop().call_later(0.6, other.gate.set)
                    yield part

        return StreamingResponse(body())

    async with serving(app) as client:
        response = await client.get("/")

    assert (response.status_code, response.text) == (200, "begun and ended")


async def test_the_timeout_bounds_every_call() -> None:
    """Where no deadline is, the settings' timeout ends the call as aiohttp does."""
    async with black_hole() as url, road_of(timeout=0.3) as road:
        with pytest.raises(TimeoutError):
            await read(road.outbound.session, url)
        assert lane(road).in_use == 0


async def test_what_the_network_does_stays_an_error_of_aiohttp(other: Service) -> None:
    """A connection that breaks raises what people know to catch, and gives its place back."""
    async with road_of() as road:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await road.outbound.session.post(other.url + "/drop")
        with pytest.raises(aiohttp.ClientConnectorError):
            await read(road.outbound.session, "http://127.0.0.1:1")
        assert (lane(road).admitted, lane(road).in_use) == (2, 0)


async def test_calls_go_first_come_first_served(other: Service) -> None:
    """On one connection the order of arrival is the order at the other service."""
    async with road_of(max_connections=1, timeout=600) as road:
        first = asyncio.create_task(read(road.outbound.session, f"{other.url}/wait?n=0"))
        await until(lambda: other.waiting == 1)
        rest: list[asyncio.Task[str]] = []
        for number in range(1, 6):
            url = f"{other.url}/?n={number}"
            rest.append(asyncio.create_task(read(road.outbound.session, url)))
            await until(lambda: lane(road).waiting == len(rest))
        other.gate.set()
        await asyncio.gather(first, *rest)

    assert other.order == ["0", "1", "2", "3", "4", "5"]


async def test_a_full_lane_is_a_503_with_retry_after(other: Service) -> None:
    """One calls, one waits, the third is refused at once; the second gets through."""
    app = FastAPI()
    road = road_of(app, max_connections=1, queue_limit=1, timeout=600)
    waited: list[int] = []

    @app.get("/")
    async def answer(http: HttpClient) -> str:
        body = await read(http, other.url + "/wait")
        journey = current_journey()
        assert journey is not None
        waited.append(journey.ledger["outbound"].waits)
        return body

    async with serving(app) as client:
        one = asyncio.create_task(client.get("/"))
        await until(lambda: other.waiting == 1)
        two = asyncio.create_task(client.get("/"))
        await until(lambda: lane(road).waiting == 1)
        refused = await client.get("/")
        other.gate.set()
        answers = [(await task).status_code for task in (one, two)]
        snapshot = lane(road)

    assert refused.status_code == 503
    assert refused.json()["code"] == "CW801"
    assert int(refused.headers["retry-after"]) >= 1
    assert answers == [200, 200]
    assert waited == [0, 1]
    assert (snapshot.rejected, snapshot.in_use, snapshot.waiting) == (1, 0, 0)


async def test_a_wait_that_takes_too_long_is_refused_before_the_call_times_out(
    other: Service,
) -> None:
    """Half of the timeout is the most; it is our error, which says what to do."""
    async with road_of(max_connections=1, timeout=1) as road:
        session = road.outbound.session
        slow = asyncio.create_task(session.get(other.url + "/wait", timeout=_forever()))
        await until(lambda: other.waiting == 1)
        with pytest.raises(OutboundBusy, match=r"within 0\.5 s"):
            await read(session, other.url)
        other.gate.set()
        (await slow).close()
        assert (lane(road).timed_out, lane(road).in_use) == (1, 0)


def _forever() -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None)


@pytest.mark.parametrize("end", ["answered", "cancelled"])
async def test_the_wait_for_a_host_is_a_wait_in_the_ledger(end: str, other: Service) -> None:
    """Aiohttp's own queue counts as a wait and not as a hold, however it ends."""
    ledgers: list[tuple[int, bool]] = []

    async def second(road: Clearway) -> None:
        async with road.journey("second") as journey:
            try:
                await read(road.outbound.session, other.url)
            finally:
                entry = journey.ledger["outbound"]
                ledgers.append((entry.waits, entry.waited > entry.held))

    async with road_of(max_per_host=1, timeout=600) as road:
        first = asyncio.create_task(read(road.outbound.session, other.url + "/wait"))
        await until(lambda: other.waiting == 1)
        waiting = asyncio.create_task(second(road))
        await until(lambda: lane(road).in_use == 2)
        await asyncio.sleep(0.5)
        if end == "cancelled":
            waiting.cancel()
        other.gate.set()
        await asyncio.wait({first, waiting})
        assert lane(road).in_use == 0

    assert waiting.cancelled() is (end == "cancelled")
    assert ledgers == [(1, True)]


async def test_a_redirect_takes_one_place_at_a_time(other: Service) -> None:
    """With a single place a redirect is followed all the same."""
    async with road_of(max_connections=1) as road:
        target = f"{other.url}/redirect?to=/large"
        assert len(await read(road.outbound.session, target)) == 300_000
        assert (lane(road).admitted, lane(road).in_use) == (2, 0)


async def test_a_websocket_keeps_its_place_until_it_is_closed() -> None:
    """It is a connection like any other."""
    road = road_of(timeout=0.3)

    async def echo(request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        socket = aiohttp.web.WebSocketResponse()
        assert isinstance(request, aiohttp.web.Request)
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    other = aiohttp.web.Application()
    other.router.add_get("/", echo)
    runner = aiohttp.web.AppRunner(other)
    await runner.setup()
    await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
    async with road:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        async with road.outbound.session.ws_connect(url) as socket:
            await asyncio.sleep(0.6)  # longer than a call may take
            await socket.send_str("hello")
            assert await socket.receive_str() == "hello"
            assert lane(road).in_use == 1
        assert lane(road).in_use == 0
    await runner.cleanup()


async def test_no_cookie_of_one_user_reaches_another(other: Service) -> None:
    """The session is shared, so it keeps none."""
    async with road_of() as road:
        await read(road.outbound.session, other.url + "/cookie")
        await read(road.outbound.session, other.url)

    assert "cookie" not in other.seen[1]


async def test_nothing_leaks_whatever_becomes_of_the_calls(other: Service) -> None:
    """After successes, errors, timeouts, cancellations and unread bodies every place is free."""
    dice = random.Random(20)
    paths = ["/", "/error", "/large", "/drop", "/wait", "/endless", "/redirect?to=/large"]

    async def call(road: Clearway, number: int) -> None:
        http, path = road.outbound.session, paths[number % len(paths)]
        total = 0.2 if path in {"/wait", "/endless"} and number % 3 else 30
        response = await http.get(other.url + path, timeout=aiohttp.ClientTimeout(total=total))
        match number % 4:
            case 0:
                await response.read()
            case 1:
                response.close()
            case 2:
                async with response:
                    response.raise_for_status()
                    await response.content.readany()
            case _ if path in {"/", "/error"}:
                pass  # never read and never closed: aiohttp has a small body already
            case _:
                response.release()

    async def travel(road: Clearway, number: int) -> None:
        async with road.journey("stress") as journey:
            if number % 5 == 0:
                journey.deadline = Deadline.after(0.05)
            await call(road, number)

    async with road_of(max_connections=10, max_per_host=4, timeout=30, queue_limit=200) as road:
        tasks = [asyncio.create_task(travel(road, number)) for number in range(280)]
        for _ in range(60):
            await asyncio.sleep(0.005)
            dice.choice(tasks).cancel()
        other.gate.set()
        async with asyncio.timeout(40):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        kinds = {type(result) for result in results}
        del results, tasks
        gc.collect()
        await until(lambda: lane(road).in_use == 0)
        snapshot = lane(road)

    assert snapshot.waiting == 0
    assert snapshot.admitted > 50
    assert {type(None), asyncio.CancelledError, DeadlineExceeded, OutboundBusy} <= kinds


async def test_the_session_closes_with_the_app(other: Service) -> None:
    """No socket is left, what waits is told, and the next start has a session of its own."""
    connections = len(psutil.Process().net_connections("tcp"))
    road = road_of(max_connections=1, timeout=600)
    async with road:
        first = road.outbound.session
        held = await first.get(other.url + "/endless")
        waiting = asyncio.create_task(read(first, other.url))
        await until(lambda: lane(road).waiting == 1)
        await road.close()
        held.close()
        await road.open()
        with pytest.raises(aiohttp.ClientConnectionError):
            await waiting
        second = road.outbound.session
        assert await read(second, other.url) == "ok"

    assert first.closed
    assert second.closed
    assert first is not second
    other.gate.set()
    await until(lambda: len(psutil.Process().net_connections("tcp")) <= connections)


async def test_a_session_that_somebody_has_closed_is_made_again(other: Service) -> None:
    """One `async with road.outbound.session` too many does not end every call after it."""
    async with road_of() as road:
        async with road.outbound.session:
            pass
        assert await read(road.outbound.session, other.url) == "ok"


async def test_outside_of_an_open_clearway_the_client_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a lifespan, switched off by a setting, or by CLEARWAY=off: `NotOpen`."""
    app = FastAPI()
    road = road_of(app)

    @app.get("/")
    async def answer(http: HttpClient) -> None: ...

    async with client_for(app) as client:
        response = await client.get("/")
    with pytest.raises(NotOpen, match="lifespan"):
        _ = road.outbound.session

    off = road_of(enabled=False)
    async with off:
        with pytest.raises(NotOpen, match=r"outbound\.enabled"):
            _ = off.outbound.session
    monkeypatch.setenv("CLEARWAY", "off")
    with pytest.raises(NotOpen):
        _ = road_of().outbound.session
    assert response.status_code == 500
