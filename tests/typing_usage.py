"""The public names as a user writes them; `make check` reads this file and nothing runs it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from functools import partial
from typing import Annotated, assert_type

import aiohttp
import httpx
import httpx2
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from clearway import (
    AsyncReadSession,
    Background,
    Clearway,
    DbSession,
    HttpClient,
    Journey,
    ReadDbSession,
    Settings,
    current_journey,
    get_logger,
    offload,
    resource,
)
from clearway.core.lane import LaneSnapshot
from clearway.state import Resource, ResourceSnapshot

app = FastAPI()
road = Clearway(app, Settings())
log = get_logger()


def thumbnails(data: bytes, *, size: int = 100) -> list[bytes]:
    """Stand for CPU work."""
    return [data[:size]]


@resource
async def palette() -> AsyncGenerator[list[str], None]:
    """Annotate the kind of generator that it is."""
    yield ["red"]


@resource
async def painter(colours: Annotated[list[str], palette]) -> AsyncIterator[dict[str, int]]:
    """Ask for another resource."""
    assert_type(colours, list[str])
    yield dict.fromkeys(colours, 0)


@resource  # type: ignore[arg-type]  # it has to yield
async def returned() -> int:
    """Return where it should yield."""
    return 1


@app.get("/colours")
async def paint(brush: Annotated[dict[str, int], painter]) -> None:
    """Take a resource in an endpoint, and by hand."""
    assert_type(brush, dict[str, int])
    assert_type(painter, Resource[dict[str, int]])
    assert_type(await painter(), dict[str, int])
    assert_type(await palette(), list[str])
    assert_type(road.resources, Mapping[str, ResourceSnapshot])
    app.dependency_overrides[painter] = lambda: {"blue": 1}


@app.post("/images")
async def create(
    data: bytes, session: DbSession, read: ReadDbSession, background: Background
) -> int:
    """Use every name in a request."""
    assert_type(session, AsyncSession)
    assert_type(read, AsyncReadSession)
    assert_type(await offload.process(thumbnails, data, timeout=10), list[bytes])
    assert_type(await offload.process(partial(thumbnails, size=5), data), list[bytes])
    assert_type(await offload.thread(len, data), int)
    log.info("image stored", size=len(data))
    journey = assert_type(current_journey(), Journey | None)
    if journey is not None:
        journey.note(size=len(data))
        assert_type(journey.ledger["db"].waited, float)
    await offload.process(thumbnails, "text")  # type: ignore[arg-type]  # bytes are wanted
    background.add(thumbnails, data, size=5)
    background.add(thumbnails, "text")  # type: ignore[arg-type]  # bytes are wanted
    return 1


@app.get("/rates")
async def rates(http: HttpClient) -> bytes:
    """Call another service."""
    assert_type(http, aiohttp.ClientSession)
    async with http.get("https://example.org/rates") as response:
        return assert_type(await response.read(), bytes)


def clients() -> None:
    """Hand over clients of the app's own."""
    assert_type(road.outbound.transport(), httpx.AsyncBaseTransport)
    httpx.AsyncClient(transport=road.outbound.transport(httpx.AsyncHTTPTransport(http2=True)))
    httpx2.AsyncClient(transport=road.outbound.transport(httpx2.AsyncHTTPTransport(retries=1)))
    httpx2.AsyncClient(transport=road.outbound.transport(library="httpx2"))
    aiohttp.ClientSession(
        trace_configs=[road.outbound.trace_config()], middlewares=[road.outbound.middleware()]
    )
    road.outbound.transport("httpx")  # type: ignore[call-overload]  # a transport is wanted


async def script(engine: AsyncEngine) -> None:
    """Use every name outside of a request."""
    async with Clearway(FastAPI(), engine=engine) as other, other.journey("import") as journey:
        assert_type(other, Clearway)
        assert_type(journey, Journey)
        async with other.db.session() as session:
            assert_type(session, AsyncSession)
        assert_type(await other.db.dependency(), AsyncSession)
        assert_type(other.outbound.session, aiohttp.ClientSession)
        assert_type(other.lanes["db"].snapshot(), LaneSnapshot)
        assert_type(Clearway.current(), Clearway)
