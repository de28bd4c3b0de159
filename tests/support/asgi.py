"""Drive an application in this process over the real ASGI protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
from starlette.types import ASGIApp, Message


class StartFailed(Exception):
    """The application answered `lifespan.startup.failed`."""


@asynccontextmanager
async def running(app: ASGIApp) -> AsyncIterator[None]:
    """Run the application's lifespan as a server does."""
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    outbox: asyncio.Queue[Message] = asyncio.Queue()
    scope: dict[str, object] = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    task = asyncio.create_task(_run(app, scope, inbox, outbox))
    await _exchange(inbox, outbox, "startup")
    try:
        yield
    finally:
        await _exchange(inbox, outbox, "shutdown")
        await task


async def _run(
    app: ASGIApp,
    scope: dict[str, object],
    inbox: asyncio.Queue[Message],
    outbox: asyncio.Queue[Message],
) -> None:
    try:
        await app(scope, inbox.get, outbox.put)
    except Exception as error:  # noqa: BLE001 - whatever the app raises is its answer
        await outbox.put({"type": "lifespan.raised", "message": repr(error)})


async def _exchange(
    inbox: asyncio.Queue[Message], outbox: asyncio.Queue[Message], phase: str
) -> None:
    await inbox.put({"type": f"lifespan.{phase}"})
    answer = await outbox.get()
    if answer["type"] != f"lifespan.{phase}.complete":
        raise StartFailed(answer.get("message", ""))


def client_for(app: ASGIApp) -> httpx2.AsyncClient:
    """Return a client that calls the app in this loop; unhandled errors are 500 answers."""
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://test")


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[httpx2.AsyncClient]:
    """Run the lifespan and give a client."""
    async with running(app), client_for(app) as client:
        yield client
