"""Calls to other services: the shared session, and the lane for clients that an app has."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, cast, overload

from clearway.core.lane import Lane
from clearway.core.observer import Faults
from clearway.errors import NotOpen, OutboundBusy
from clearway.outbound import transport as transports
from clearway.outbound.call import LANE
from clearway.outbound.ids import Ids
from clearway.settings import OutboundSettings

if TYPE_CHECKING:
    import aiohttp
    import httpx
    import httpx2

    from clearway.outbound.trace import Hooks

_CLOSE_WITHIN = 2.0  # seconds; a peer that reads no more never lets a connection end by itself


class Outbound:
    """The part that calls other services.

    Nothing is imported, made or counted before one of its names is used. The names for
    clients of the app's own work at any time; `session` only while a Clearway is open.

    Args:
        settings: How many calls at one time, and how long.
        id_header: Header that carries the request id.
        faults: Count what fails in our hooks.
        off: Leave clients of the app's own as they are.
    """

    def __init__(
        self, settings: OutboundSettings, *, id_header: str, faults: Faults, off: bool = False
    ) -> None:
        self._settings = settings
        self._ids = Ids(id_header)
        self._faults = faults
        self._enabled = settings.enabled and not off
        self._open = False
        self._lane: Lane | None = None
        self._session: aiohttp.ClientSession | None = None

    @property
    def lane(self) -> Lane | None:
        """The lane `outbound`; None as long as nothing has asked for it."""
        return self._lane

    async def open(self) -> None:
        """Give the session from now on; it is made when it is first asked for."""
        self._open = True

    async def close(self) -> None:
        """Close the session with all of its connections."""
        self._open = False
        session, self._session = self._session, None
        if session is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_WITHIN):
                    await session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """The shared aiohttp session, which `HttpClient` gives to an endpoint.

        Asked for first on the loop that uses it. It keeps no cookies. `close` belongs to us:
        once it was closed by somebody else, the next who asks gets a new one.

        Raises:
            NotOpen: No Clearway is open, or `outbound.enabled` is off.
            ModuleNotFoundError: The extra `clearway[http]` is not installed.
        """
        if not self._open:
            raise NotOpen(
                "the HTTP client was used while no Clearway was open",
                fix="run the lifespan: a server, `with TestClient(app)`, or `async with road:`; "
                "is outbound.enabled on?",
            )
        if self._session is None or self._session.closed:
            from clearway.outbound.session import make_session

            self._session = make_session(self._settings, self._the_lane(), self._hooks())
        return self._session

    @overload
    def transport(
        self, inner: httpx.AsyncBaseTransport | None = None, *, library: Literal["httpx"] = "httpx"
    ) -> httpx.AsyncBaseTransport: ...

    @overload
    def transport(self, inner: httpx2.AsyncBaseTransport) -> httpx2.AsyncBaseTransport: ...

    @overload
    def transport(
        self, inner: httpx2.AsyncBaseTransport | None = None, *, library: Literal["httpx2"]
    ) -> httpx2.AsyncBaseTransport: ...

    def transport(
        self,
        inner: httpx.AsyncBaseTransport | httpx2.AsyncBaseTransport | None = None,
        *,
        library: Literal["httpx", "httpx2"] | None = None,
    ) -> httpx.AsyncBaseTransport | httpx2.AsyncBaseTransport:
        """Return a transport for an httpx or httpx2 client: lane, deadline, ledger and ids.

        A client that is given a transport leaves `verify`, `http2`, `limits` and proxies to
        it, so give those to `inner`. The client's own timeouts stay as they are.

        Args:
            inner: Does the work; by default an `AsyncHTTPTransport` without options.
            library: Whose transport it is where `inner` does not say; by default httpx, or
                httpx2 where it is the only one installed.

        Raises:
            TypeError: `inner` is no transport of httpx or httpx2.
        """
        name = transports.library_of(inner) if inner is not None else library
        name = name or transports.installed()
        work = transports.default_inner(name) if inner is None else inner
        if not self._enabled:
            return work
        return transports.wrap(
            cast("httpx.AsyncBaseTransport", work), name, self._the_lane(), self._ids
        )

    def trace_config(self) -> aiohttp.TraceConfig:
        """Return trace hooks for an aiohttp session of the app's own.

        They put the ids on each call, write its wait for a connection and its hold into the
        ledger, and count it in the lane while there is a place. Hooks only watch: no call is
        made to wait or refused, one beyond `outbound.max_connections` is not counted, and
        neither the deadline nor `outbound.timeout` bounds it. `middleware` does that.

        Raises:
            ModuleNotFoundError: aiohttp is not installed.
        """
        if not self._enabled:
            from aiohttp import TraceConfig

            return TraceConfig()
        return self._hooks().config()

    def middleware(self) -> aiohttp.ClientMiddlewareType:
        """Return a client middleware for an aiohttp session of the app's own.

        With it the lane and the journey's deadline bound each call. It goes together with
        `trace_config`, which sees what a middleware cannot; a call is counted once.

        Raises:
            ModuleNotFoundError: aiohttp 3.12 or later is not installed.
        """
        from clearway.outbound.middleware import LaneMiddleware, untouched

        return LaneMiddleware(self._the_lane()) if self._enabled else untouched

    def _hooks(self) -> Hooks:
        from clearway.outbound.trace import Hooks

        return Hooks(self._the_lane(), self._ids, self._faults)

    def _the_lane(self) -> Lane:
        if self._lane is None:
            self._lane = Lane(
                LANE,
                self._settings.max_connections,
                queue_limit=self._settings.queue_limit,
                # Half, so that a call that waited has time left. aiohttp's own timer runs since
                # before the wait: with all of it the call would end in a bare TimeoutError.
                wait_timeout=self._settings.timeout / 2,
                busy=OutboundBusy,
                fix="look at who is slow: a call keeps its place until its response is read or "
                "closed; then raise outbound.max_connections",
            )
        return self._lane
