"""An httpx or httpx2 client of the app's own, behind the lane."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import httpx
import httpx2
import pytest
from fastapi import FastAPI

from clearway import Clearway, Settings, current_journey
from clearway.core.deadline import Deadline
from clearway.errors import DeadlineExceeded
from outbound.services import Service, black_hole, lane, service
from support.asgi import serving
from support.waiting import until

if TYPE_CHECKING:
    Client = httpx.AsyncClient

pytestmark = pytest.mark.anyio


@pytest.fixture
async def other() -> AsyncIterator[Service]:
    """Return another service."""
    async with service() as it:
        yield it


@pytest.fixture(params=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> str:
    """Run a test with either library."""
    name: str = request.param
    return name


def road_of(**outbound: object) -> Clearway:
    """Return a Clearway with these settings of the lane."""
    return Clearway(FastAPI(), Settings.model_validate({"outbound": outbound}))


def client_of(road: Clearway, library: str, **options: object) -> Client:
    """Return a client of this library; the two have one shape."""
    if library == "httpx":
        return httpx.AsyncClient(transport=road.outbound.transport(), **options)  # type: ignore[arg-type]  # options of both
    transport = road.outbound.transport(library="httpx2")
    return httpx2.AsyncClient(transport=transport, **options)  # type: ignore[arg-type,return-value]  # one shape


async def test_a_call_is_a_hold_and_carries_the_id(library: str, other: Service) -> None:
    """Lane, ledger and id, for a client that was made before anything was open."""
    road = road_of()
    client = client_of(road, library)
    async with road, client:
        async with road.journey("import") as journey:
            assert (await client.get(other.url)).text == "ok"
        entry = journey.ledger["outbound"]
        assert (lane(road).admitted, lane(road).in_use) == (1, 0)

    assert (entry.holds, entry.held > 0) == (1, True)
    assert other.seen[0]["x-request-id"] == journey.id


async def test_a_client_works_before_anything_is_open(library: str, other: Service) -> None:
    """Adopting a client never breaks what it did."""
    async with client_of(road_of(), library) as client:
        assert (await client.get(other.url)).text == "ok"


async def test_a_full_lane_is_a_503(library: str, other: Service) -> None:
    """The place is held while a body is open, and one more than may wait is refused."""
    app = FastAPI()
    tree = {"outbound": {"max_connections": 1, "queue_limit": 1, "timeout": 600}}
    road = Clearway(app, Settings.model_validate(tree))
    http = client_of(road, library)
    waited: list[int] = []

    @app.get("/")
    async def answer() -> str:
        text = (await http.get(other.url)).text
        journey = current_journey()
        assert journey is not None
        waited.append(journey.ledger["outbound"].waits)
        return text

    async with serving(app) as client, http:
        async with http.stream("GET", other.url + "/endless"):
            first = asyncio.create_task(client.get("/"))
            await until(lambda: lane(road).waiting == 1)
            refused = await client.get("/")
        assert (await first).status_code == 200
        assert lane(road).in_use == 0

    assert (refused.status_code, refused.json()["code"]) == (503, "CW801")
    assert int(refused.headers["retry-after"]) >= 1
    assert waited == [1]


@pytest.mark.parametrize("phase", ["headers", "body"])
async def test_the_deadline_cuts_a_call(phase: str, library: str, other: Service) -> None:
    """The wait for headers and the wait for the rest of a body end at the deadline."""
    road = road_of()
    path = "/wait" if phase == "headers" else "/endless"
    async with road, client_of(road, library, timeout=None) as client:
        async with road.journey("import") as journey:
            journey.deadline = Deadline.after(0.3)
            with pytest.raises(DeadlineExceeded, match=r"127\.0\.0\.1"):
                await client.get(other.url + path)
        assert lane(road).in_use == 0


async def test_the_clients_own_timeout_stays(library: str) -> None:
    """It raises what the library raises, and gives the place back."""
    road = road_of()
    kind = {"httpx": httpx.ReadTimeout, "httpx2": httpx2.ReadTimeout}[library]
    async with black_hole() as url, road, client_of(road, library, timeout=0.2) as client:
        with pytest.raises(kind):
            await client.get(url)
        assert lane(road).in_use == 0


async def test_nothing_leaks(library: str, other: Service) -> None:
    """Errors, cancellations and bodies that are left early give their places back."""
    road = road_of(max_connections=3, timeout=600)
    async with road, client_of(road, library, follow_redirects=True) as client:

        async def call(number: int) -> None:
            path = ["/", "/drop", "/wait", "/large", "/redirect?to=/"][number % 5]
            async with client.stream("GET", other.url + path) as response:
                async for _ in response.aiter_raw(100):
                    if number % 2:
                        break

        tasks = [asyncio.create_task(call(number)) for number in range(60)]
        await until(lambda: other.waiting == 3)
        for task in tasks[::4]:
            task.cancel()
        other.gate.set()
        async with asyncio.timeout(40):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(None), asyncio.CancelledError} < {type(result) for result in results}
        assert (lane(road).in_use, lane(road).waiting) == (0, 0)


async def test_an_answer_that_is_complete_at_once_gives_its_place_back(library: str) -> None:
    """A transport that makes up its answers has no body that anybody would close."""
    road = road_of()
    if library == "httpx":
        inner = httpx.MockTransport(lambda _: httpx.Response(200, text="made up"))
        client: Client = httpx.AsyncClient(transport=road.outbound.transport(inner))
    else:
        inner2 = httpx2.MockTransport(lambda _: httpx2.Response(200, text="made up"))
        client = httpx2.AsyncClient(transport=road.outbound.transport(inner2))  # type: ignore[assignment]  # one shape
    async with road, client:
        assert (await client.get("http://nowhere")).text == "made up"
        assert (lane(road).admitted, lane(road).in_use) == (1, 0)


async def test_a_redirect_takes_the_id_along_on_the_host_and_no_further(
    library: str, other: Service
) -> None:
    """As for the shared session, though here the client follows the redirects."""
    road = road_of()
    elsewhere = other.url.replace("127.0.0.1", "localhost")
    client = client_of(road, library, follow_redirects=True)
    async with road, road.journey("import"), client:
        for target in ("/", elsewhere + "/"):
            answer = await client.get(f"{other.url}/redirect", params={"to": target})
            assert answer.text == "ok"

    assert ["x-request-id" in seen for seen in other.seen] == [True, True, True, False]


async def test_what_the_caller_has_set_is_left_alone(library: str, other: Service) -> None:
    """An id that the app gives is its own business, also over a redirect."""
    road = road_of()
    client = client_of(road, library, follow_redirects=True)
    async with road, road.journey("import"), client:
        await client.get(other.url + "/redirect?to=/", headers={"x-request-id": "mine"})

    assert [seen["x-request-id"] for seen in other.seen] == ["mine", "mine"]


def test_what_is_no_transport_is_refused() -> None:
    """The message says what is wanted."""
    with pytest.raises(TypeError, match="object is no AsyncBaseTransport of httpx or of httpx2"):
        road_of().outbound.transport(object())  # type: ignore[call-overload]  # that is the point


def test_switched_off_it_is_the_inner_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the setting and by CLEARWAY=off an adopted client is as it was."""
    inner = httpx.AsyncHTTPTransport()

    assert road_of(enabled=False).outbound.transport(inner) is inner
    monkeypatch.setenv("CLEARWAY", "off")
    assert road_of().outbound.transport(inner) is inner
