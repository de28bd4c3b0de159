"""The lane and the deadline around each call of an httpx or httpx2 client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from functools import cache
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

from clearway.core.lane import Lane
from clearway.outbound.call import Call, within
from clearway.outbound.ids import Ids, take_back

if TYPE_CHECKING:
    import httpx

LIBRARIES = ("httpx", "httpx2")
_PASSED_ON = "clearway"


class _Body:
    """A response's body, which keeps the call's place until it is closed."""

    def __init__(self, inner: httpx.AsyncByteStream, call: Call, host: str) -> None:
        self._inner = inner
        self._call = call
        self._host = host

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts = self._inner.__aiter__()
        try:
            while True:
                # Around each part and not around all: what happens at the `yield` is the reader's.
                async with within(self._call.deadline, self._host):
                    part = await anext(parts, None)
                if part is None:
                    return
                yield part
        finally:
            if isinstance(parts, AsyncGenerator):
                await parts.aclose()

    async def aclose(self) -> None:
        """Close the body; httpx does it at its end and when the reader gives up."""
        try:
            await self._inner.aclose()
        finally:
            self._call.end()


class _Transport:
    """A transport that makes each request, and each redirect, take a place in the lane.

    Written against httpx; httpx2 has the same names. `wrap` makes it a child of the one that
    the app has.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, lane: Lane, ids: Ids, body: type) -> None:
        self._inner = inner
        self._lane = lane
        self._ids = ids
        self._body = body

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request.

        Raises:
            OutboundBusy: Too many calls wait, or the wait was too long.
            DeadlineExceeded: The journey's deadline passed first.
        """
        call, host = Call(await self._lane.acquire()), request.url.host
        try:
            self._pass_on(request, call)
            async with within(call.deadline, host):
                response = await self._inner.handle_async_request(request)
        except BaseException:
            call.end()
            raise
        if response.is_closed:  # read already: nobody would close the body
            call.end()
        else:
            response.stream = self._body(response.stream, call, host)
        return response

    def _pass_on(self, request: httpx.Request, call: Call) -> None:
        """Put the ids on a request, but not on the one that follows a redirect to another host.

        httpx copies headers and extensions into that one, so what we have added is noted there.
        """
        host, added = request.extensions.get(_PASSED_ON, (request.url.host, ()))
        take_back(request.headers, added)
        added = self._ids.put(request.headers, call.journey) if host == request.url.host else ()
        request.extensions[_PASSED_ON] = (host, added)

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        await self._inner.__aexit__(kind, error, trace)

    async def aclose(self) -> None:
        """Close the transport that does the work."""
        await self._inner.aclose()


def library_of(inner: object) -> str:
    """Return the name of the library that a transport comes from.

    Raises:
        TypeError: It is neither httpx's nor httpx2's.
    """
    for base in type(inner).__mro__:
        library = base.__module__.partition(".")[0]
        if library in LIBRARIES:
            return library
    raise TypeError(f"{type(inner).__qualname__} is no AsyncBaseTransport of httpx or of httpx2")


def installed() -> str:
    """Return the library to use where nothing says which: httpx, or httpx2 if it is alone."""
    try:
        import_module("httpx")
    except ModuleNotFoundError:
        return "httpx2"
    return "httpx"


def default_inner(library: str) -> httpx.AsyncBaseTransport:
    """Return the transport that a client of this library has by default."""
    return cast("httpx.AsyncBaseTransport", import_module(library).AsyncHTTPTransport())


def wrap(
    inner: httpx.AsyncBaseTransport, library: str, lane: Lane, ids: Ids
) -> httpx.AsyncBaseTransport:
    """Return a transport of the same library with the lane in front of the inner one."""
    transport, body = _classes(library)
    return cast("httpx.AsyncBaseTransport", transport(inner, lane, ids, body))


@cache
def _classes(library: str) -> tuple[type[_Transport], type[_Body]]:
    """Make our classes children of the library's: its client checks what it is given."""
    theirs = import_module(library)
    transport = type("OutboundTransport", (_Transport, theirs.AsyncBaseTransport), {})
    body = type("OutboundBody", (_Body, theirs.AsyncByteStream), {})
    return cast("type[_Transport]", transport), cast("type[_Body]", body)
