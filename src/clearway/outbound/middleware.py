"""The lane and the deadline around each call of an aiohttp session."""

from __future__ import annotations

import asyncio
import weakref
from contextvars import ContextVar

from aiohttp import ClientConnectionError, ClientHandlerType, ClientRequest, ClientResponse

from clearway.core.lane import Lane
from clearway.outbound.call import Call, late, within

current_call: ContextVar[Call | None] = ContextVar("clearway_call", default=None)
"""The call that is being made, so that the trace hooks, which aiohttp runs inside, find it."""


class LaneMiddleware:
    """A client middleware: each request of a session, and each redirect, takes a place.

    The place is given back when the connection is: the body was read, the response closed, or
    the call failed or was cancelled.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Make one request.

        Raises:
            OutboundBusy: Too many calls wait, or the wait was too long.
            DeadlineExceeded: The journey's deadline passed first.
        """
        call = Call(await self._lane.acquire())
        if request.session.closed:
            call.end()
            raise ClientConnectionError("the session was closed while the call waited")
        token = current_call.set(call)
        try:
            async with within(call.deadline, request.url.host):
                response = await handler(request)
            call.end_with(response)
            _watch_body(call, response)
        except BaseException:
            call.end()
            raise
        finally:
            current_call.reset(token)
        return response


def _watch_body(call: Call, response: ClientResponse) -> None:
    """Let the deadline cut the body as well, for as long as it is on its way."""
    deadline, connection = call.deadline, response.connection
    if deadline is None or connection is None:
        return
    loop = asyncio.get_running_loop()
    # Weakly: the timer must not be what keeps a response that nobody else does.
    timer = loop.call_at(deadline.at, _cut, call, weakref.ref(response))
    connection.add_callback(timer.cancel)


# touchpoint: aiohttp-body
def _cut(call: Call, reference: weakref.ref[ClientResponse]) -> None:
    response = reference()
    if response is not None and call.deadline is not None:
        response.content.set_exception(late(response.url.host))
        response.close()


async def untouched(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """Make one request as if no middleware were there."""
    return await handler(request)
