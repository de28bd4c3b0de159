"""Other services for the tests: real servers on 127.0.0.1, each with a port of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from clearway import Clearway
from clearway.core.lane import LaneSnapshot


class Service:
    """A service whose answers the test decides.

    Attributes:
        url: Where it listens, without a slash at the end.
        seen: The headers of every request, in order.
        order: The `n` of every request's query, in order.
        gate: `/wait` answers once it is set.
        waiting: Requests that are at the gate now.
    """

    def __init__(self) -> None:
        self.url = ""
        self.seen: list[dict[str, str]] = []
        self.order: list[str] = []
        self.gate = asyncio.Event()
        self.waiting = 0

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve one request by its path."""
        self.seen.append({name.lower(): value for name, value in request.headers.items()})
        self.order.append(request.query.get("n", ""))
        match request.path:
            case "/wait":
                self.waiting += 1
                try:
                    await self.gate.wait()
                finally:
                    self.waiting -= 1
            case "/redirect":
                raise web.HTTPFound(request.query["to"])
            case "/drop":
                assert request.transport is not None
                request.transport.abort()
            case "/endless":
                return await self._endless(request)
            case "/cookie":
                response = web.Response(text="ok")
                response.set_cookie("who", "alice")
                return response
            case "/large":
                return web.Response(body=b"x" * 300_000)
            case "/error":
                return web.Response(status=500)
        return web.Response(text="ok")

    async def _endless(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begun")
        await self.gate.wait()
        await response.write(b" and ended")
        return response


@asynccontextmanager
async def service() -> AsyncIterator[Service]:
    """Run a service."""
    it = Service()
    runner = web.ServerRunner(web.Server(it.answer), shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    it.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield it
    finally:
        it.gate.set()
        await runner.cleanup()


@asynccontextmanager
async def black_hole() -> AsyncIterator[str]:
    """Accept every connection and never answer."""
    held: list[asyncio.StreamWriter] = []

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        for writer in held:
            writer.transport.abort()
        server.close()
        await server.wait_closed()


async def read(http: aiohttp.ClientSession, url: str) -> str:
    """Return the body at a URL."""
    async with http.get(url) as response:
        return await response.text()


def lane(road: Clearway) -> LaneSnapshot:
    """Return the lane as it stands."""
    return road.lanes["outbound"].snapshot()
