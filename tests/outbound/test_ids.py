"""Ids: what is passed on, to whom, and what is left alone."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI

from clearway import Clearway, HttpClient, Settings
from outbound.services import Service, read, service
from support.asgi import serving

pytestmark = pytest.mark.anyio

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
async def other() -> AsyncIterator[Service]:
    """Return another service."""
    async with service() as it:
        yield it


def app_of(url: str, headers: dict[str, str] | None = None) -> FastAPI:
    """Return an app that calls a URL with these headers."""
    app = FastAPI()
    Clearway(app, Settings.model_validate({"request": {"id_header": "X-Our-ID"}}))

    @app.get("/")
    async def answer(http: HttpClient) -> str:
        async with http.get(url, headers=headers) as response:
            return await response.text()

    return app


async def test_the_request_id_and_the_trace_are_passed_on(other: Service) -> None:
    """The next service sees the same id and the same trace, under the configured header."""
    async with serving(app_of(other.url)) as client:
        await client.get("/", headers={"X-Our-ID": "abc-1", "traceparent": TRACE})
        answer = await client.get("/")

    assert (other.seen[0]["x-our-id"], other.seen[0]["traceparent"]) == ("abc-1", TRACE)
    assert other.seen[1]["x-our-id"] == answer.headers["x-our-id"]
    assert "traceparent" not in other.seen[1]


@pytest.mark.parametrize("hostile", ["00-zz-zz-01", TRACE.upper(), TRACE + "\x80", "x" * 5000])
async def test_a_trace_that_is_none_goes_no_further(hostile: str, other: Service) -> None:
    """What a client sends as `traceparent` is passed on only if it is one."""
    async with serving(app_of(other.url)) as client:
        headers = [(b"traceparent", hostile.encode("latin-1"))]
        assert (await client.get("/", headers=headers)).status_code == 200

    assert "traceparent" not in other.seen[0]


async def test_what_the_caller_has_set_is_left_alone(other: Service) -> None:
    """OpenTelemetry's own `traceparent`, say, has the span of this very call."""
    headers = {"x-our-id": "mine", "Traceparent": TRACE[:-1] + "0"}
    async with serving(app_of(other.url, headers)) as client:
        await client.get("/", headers={"X-Our-ID": "abc-1", "traceparent": TRACE})

    assert other.seen[0]["x-our-id"] == "mine"
    assert other.seen[0]["traceparent"] == TRACE[:-1] + "0"


async def test_a_redirect_takes_the_ids_along_on_the_host_and_no_further(other: Service) -> None:
    """Another host is chosen by the one that redirects, and learns nothing of ours."""
    elsewhere = other.url.replace("127.0.0.1", "localhost")
    for target in ("/", elsewhere + "/"):
        async with serving(app_of(f"{other.url}/redirect?to={target}")) as client:
            assert (await client.get("/", headers={"traceparent": TRACE})).json() == "ok"

    assert ["traceparent" in seen for seen in other.seen] == [True, True, True, False]
    assert ["x-our-id" in seen for seen in other.seen] == [True, True, True, False]


async def test_a_script_passes_its_id_on_and_none_without_a_journey(other: Service) -> None:
    """Outside of a journey nothing is added."""
    road = Clearway(FastAPI(), Settings())
    async with road:
        async with road.journey("import") as journey:
            await read(road.outbound.session, other.url)
        await read(road.outbound.session, other.url)

    assert other.seen[0]["x-request-id"] == journey.id
    assert re.fullmatch("[0-9a-f]{32}", journey.id)
    assert not {"x-request-id", "traceparent"} & set(other.seen[1])
