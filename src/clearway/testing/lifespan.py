"""The application's lifespan, run in the test's own loop as a server would run it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Message

from clearway.app import Clearway
from clearway.errors import LifespanFailed


@asynccontextmanager
async def opened(road: Clearway) -> AsyncIterator[Clearway]:
    """Run the lifespan of the Clearway's application: httpx's `ASGITransport` does not.

    Args:
        road: The application's Clearway.

    Raises:
        LifespanFailed: The application refused to start, or failed while it stopped.
    """
    received: asyncio.Queue[Message] = asyncio.Queue()
    sent: asyncio.Queue[Message] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    running = asyncio.create_task(road.app(scope, received.get, sent.put))
    await _phase("startup", running, received, sent)
    try:
        yield road
    finally:
        await _phase("shutdown", running, received, sent)
        await running


async def _phase(
    name: str,
    running: asyncio.Task[None],
    received: asyncio.Queue[Message],
    sent: asyncio.Queue[Message],
) -> None:
    await received.put({"type": f"lifespan.{name}"})
    answer = asyncio.create_task(sent.get())
    await asyncio.wait({answer, running}, return_when=asyncio.FIRST_COMPLETED)
    if not answer.done():
        answer.cancel()
        cause = None if running.cancelled() else running.exception()
        raise LifespanFailed(f"the lifespan ended at its {name} without an answer") from cause
    message = answer.result()
    if message["type"] != f"lifespan.{name}.complete":
        await asyncio.wait({running})
        cause = None if running.cancelled() else running.exception()
        raise LifespanFailed(
            f"the application's {name} failed: {message.get('message', '')}"
        ) from cause
