"""Open our parts before the app's own start-up and close them after its shutdown."""

from __future__ import annotations

import traceback
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clearway.errors import ClearwayError

_ENDS = frozenset(
    {"lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed"}
)


class Openable(Protocol):
    """What the lifespan opens and closes."""

    async def open(self) -> None:
        """Open every part; raise to refuse the start, with nothing left open."""

    async def drain(self) -> None:
        """Finish what still runs, while all that the app has opened is there."""

    async def close(self) -> None:
        """Close what one `open` has opened."""


class Lifespan:
    """One run of the ASGI lifespan protocol with our parts around it.

    A refusal is sent as `lifespan.startup.failed`: an exception raised here would be taken
    by uvicorn's lifespan mode `auto` for "this app has no lifespan", and the service would
    come up without its database.
    """

    def __init__(self, app: ASGIApp, road: Openable) -> None:
        self._app = app
        self._road = road
        self._startup: Message | None = None
        self._open = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the protocol to its end."""
        self._startup = await receive()
        try:
            await self._road.open()
        except Exception as error:  # noqa: BLE001 - whatever it is, the service must not come up
            await send({"type": "lifespan.startup.failed", "message": _said(error)})
            return
        self._open = True
        try:
            await self._app(scope, self._replaying(receive), self._closing(send))
        finally:
            await self._close()

    async def _close(self) -> None:
        if self._open:
            self._open = False
            await self._road.close()

    def _replaying(self, receive: Receive) -> Receive:
        async def replay() -> Message:
            message, self._startup = self._startup, None
            if message is None:
                message = await receive()
                if message["type"] == "lifespan.shutdown":
                    await self._road.drain()
            return message

        return replay

    def _closing(self, send: Send) -> Send:
        async def close_first(message: Message) -> None:
            if message["type"] in _ENDS:
                await self._close()
            await send(message)

        return close_first


def _said(error: Exception) -> str:
    if isinstance(error, ClearwayError):
        return str(error)
    return "".join(traceback.format_exception(error))
