"""Count round trips on a real wire: a loopback proxy before a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Wire:
    """A proxy.

    Attributes:
        port: Where it listens.
        trips: How often a client spoke after the server had last spoken.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.port = 0
        self.trips = 0
        self._target = target
        self._ends: set[asyncio.StreamWriter] = set()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection in both directions until one side ends it."""
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._ends |= {writer, far_writer}
        asked = False

        async def out() -> None:
            nonlocal asked
            while data := await reader.read(65_536):
                self.trips += not asked
                asked = True
                far_writer.write(data)
            far_writer.close()

        async def back() -> None:
            nonlocal asked
            while data := await far_reader.read(65_536):
                asked = False
                writer.write(data)
            writer.close()

        await asyncio.gather(out(), back(), return_exceptions=True)
        self._ends -= {writer, far_writer}

    def cut(self) -> None:
        """Cut what is still connected."""
        for writer in self._ends:
            with suppress(RuntimeError):
                writer.close()


@asynccontextmanager
async def wire_to(host: str, port: int) -> AsyncIterator[Wire]:
    """Run a counting proxy before a server."""
    wire = Wire((host, port))
    server = await asyncio.start_server(wire.carry, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
        wire.cut()
        await asyncio.sleep(0.05)
