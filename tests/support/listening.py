"""A real uvicorn on the test's own loop, and clients on real sockets that leave when they like."""

from __future__ import annotations

import asyncio
import socket
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import ASGIApp

OLD = tuple(int(part) for part in uvicorn.__version__.split(".")[:2]) < (0, 50)
"""Whether uvicorn is one of the versions that is tried only with the lowest of everything."""


class Client:
    """One connection, spoken to by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, request: str, body: str = "", length: int | None = None) -> None:
        """Send a request line with a Host and a body, of which `length` may promise more."""
        promised = len(body) if length is None else length
        head = f"{request} HTTP/1.1\r\nhost: test\r\ncontent-length: {promised}\r\n\r\n"
        self._writer.write((head + body).encode())
        await self._writer.drain()

    async def status(self) -> int:
        """Return the status of the answer, once its head is here."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        return int(head.split(maxsplit=2)[1])

    async def read(self, count: int) -> bytes:
        """Return so many bytes."""
        return await self._reader.readexactly(count)

    async def until(self, end: bytes) -> bytes:
        """Return what comes until some bytes have come."""
        return await self._reader.readuntil(end)

    async def rest(self) -> bytes:
        """Return what comes until the server closes the connection."""
        return await self._reader.read()

    def vanish(self) -> None:
        """Reset the connection, as a process that is killed does."""
        self._writer.transport.abort()


class Listening:
    """A server that runs.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, server: uvicorn.Server, port: int) -> None:
        self._server = server
        self.port = port

    def stop(self) -> None:
        """Begin to stop, as at a signal."""
        self._server.should_exit = True

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Open a connection; it is reset at the end of the block if it is still there."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        try:
            yield client
        finally:
            client.vanish()


@asynccontextmanager
async def listening(app: ASGIApp) -> AsyncIterator[Listening]:
    """Serve an app by uvicorn on this loop, with its lifespan."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=5)
        with warnings.catch_warnings():
            # uvicorn before 0.31 asks for what later versions of websockets call legacy.
            warnings.simplefilter("ignore", DeprecationWarning)
            config.load()
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[door]))
        async with asyncio.timeout(20):
            while not server.started and not task.done():
                await asyncio.sleep(0.01)
        if task.done():
            task.result()
            raise AssertionError("the service did not come up")
        try:
            yield Listening(server, door.getsockname()[1])
        finally:
            server.should_exit = True
            await task
