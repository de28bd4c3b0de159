"""The public names as a user writes them; `make check` reads this file and nothing runs it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from datetime import timedelta
from functools import partial
from typing import Annotated, Any, assert_type

import aiohttp
import httpx
import httpx2
from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from clearway import (
    AsyncReadSession,
    Background,
    Clearway,
    DbSession,
    HttpClient,
    Job,
    JobContext,
    Journey,
    ReadDbSession,
    Settings,
    cron,
    current_journey,
    get_logger,
    job,
    offload,
    resource,
)
from clearway.core.lane import LaneSnapshot
from clearway.state import Resource, ResourceSnapshot
from clearway.testing import EnqueuedJob, assert_queries, enqueued, opened, rolled_back

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


class Invoice(BaseModel):
    """A model that travels."""

    number: int


@job(retries=5, timeout=60, run_in="process", queue="pdf")
def render(invoice: Invoice, *, scale: float = 1.0) -> list[bytes]:
    """Take nothing that the worker supplies."""
    return [bytes(invoice.number)] * int(scale)


@job(retries=3)
async def send(session: DbSession, to: str, copies: int = 1) -> bool:
    """Take one thing that the worker supplies."""
    assert_type(session, AsyncSession)
    return copies > 0


@job()
async def count(session: DbSession, context: JobContext, number: int) -> int:
    """Take two."""
    assert_type(context.attempt, int)
    assert_type(context.request_id, str | None)
    return number


@job()
async def compare(session: DbSession, read: ReadDbSession, context: JobContext, name: str) -> None:
    """Take three."""
    assert_type(read, AsyncReadSession)


@job()
async def ping() -> None:
    """Take nothing at all."""


@job()
async def sweep(session: DbSession) -> None:
    """Take only what the worker supplies."""


@cron("0 3 * * *", timezone="Europe/Berlin", late=3600)
async def report(session: DbSession, days: int = 1) -> str:
    """Run by itself, and be enqueued besides."""
    return str(days)


async def enqueue(session: AsyncSession, invoice: Invoice, context: JobContext) -> None:
    """Enqueue each of them; what the worker supplies is not passed."""
    assert_type(await render.enqueue(session, invoice), int)
    assert_type(await render.enqueue(session, invoice, scale=0.5), int)
    assert_type(await send.enqueue(session, "ada@example.org"), int)
    await send.enqueue(session, "ada@example.org", 2)
    await send.enqueue(session, to="ada@example.org", copies=2)
    await count.enqueue(session, 1)
    await count.enqueue(session, number=1)
    await compare.enqueue(session, "a")
    await compare.enqueue(session, name="a")
    await ping.enqueue(session)
    await sweep.enqueue(session)
    await report.enqueue(session)
    await report.enqueue(session, days=7)

    await render.enqueue(session, "no invoice")  # type: ignore[arg-type]  # a model is wanted
    await render.enqueue(session, invoice, 0.5)  # type: ignore[call-arg]  # scale goes by name
    await render.enqueue(invoice)  # type: ignore[arg-type, call-arg]  # where is the session?
    await send.enqueue(session)  # type: ignore[call-arg]  # to whom?
    await send.enqueue(session, "a", "b")  # type: ignore[arg-type]  # a number is wanted
    await send.enqueue(session, session, "a")  # type: ignore[arg-type]  # it is supplied
    await send.enqueue(session, "a", colour=1)  # type: ignore[call-arg]  # there is no such one
    await count.enqueue(session, context, 1)  # type: ignore[arg-type, call-arg]  # it is supplied
    await count.enqueue(session, number="1")  # type: ignore[arg-type]  # a number is wanted
    await compare.enqueue(session)  # type: ignore[call-arg]  # the name is missing
    await ping.enqueue(session, 1)  # type: ignore[call-arg]  # it takes nothing
    await sweep.enqueue(session, session)  # type: ignore[call-arg]  # it is supplied
    await report.enqueue(session, days="7")  # type: ignore[arg-type]  # a number is wanted


async def options(session: AsyncSession, invoice: Invoice) -> None:
    """Say when and how often; the arguments are asked for as before."""
    later = send.options(delay=timedelta(hours=1), queue="slow", unique="day", key="ada")
    assert_type(await later.enqueue(session, "ada@example.org"), int)
    await later.enqueue(session, 5)  # type: ignore[arg-type]  # a text is wanted
    send.options(unique="year")  # type: ignore[arg-type]  # there is no such window
    send.options(delay="1 h")  # type: ignore[arg-type]  # seconds, or a timedelta
    send.options(retries=1)  # type: ignore[call-arg]  # that is declared
    job(run_in="loop")  # type: ignore[arg-type]  # a thread or a process
    job(send)  # type: ignore[call-arg, arg-type]  # it takes options: @job()

    calls = [render.call(invoice, scale=2.0), render.options(delay=5).call(invoice)]
    assert_type(await render.enqueue_many(session, calls), list[int])
    assert_type(await send.enqueue_many(session, (send.call(to) for to in "ab")), list[int])
    render.call(5)  # type: ignore[arg-type]  # a model is wanted
    await send.enqueue_many(session, calls)  # type: ignore[arg-type]  # of another job
    await send.enqueue_many(calls)  # type: ignore[call-arg, arg-type]  # where is the session?


async def call(session: AsyncSession, invoice: Invoice, context: JobContext) -> None:
    """Call the functions themselves, as a test does: with everything they take."""
    assert_type(render(invoice, scale=0.5), list[bytes])
    assert_type(await send(session, "ada@example.org"), bool)
    assert_type(await send(session, to="ada@example.org", copies=1), bool)
    assert_type(await count(session, context, number=5), int)
    assert_type(await report(session), str)
    assert_type(await offload.process(render, invoice), list[bytes])
    await send("ada@example.org")  # type: ignore[arg-type, call-arg]  # a session is wanted
    await count(session, 5)  # type: ignore[arg-type, call-arg]  # the context is wanted
    assert_type(render.name, str)
    every: list[Job[..., ..., Any]] = [ping, render, send, report]
    assert_type(every[0].queue, str)


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


async def in_a_test() -> None:
    """Roll back, look, and count."""
    async with opened(road) as same, rolled_back(road) as session:
        assert_type(same, Clearway)
        assert_type(session, AsyncSession)
        with assert_queries(max=2):
            assert_type(await enqueued(road, session), list[EnqueuedJob])
