"""Count round trips on a real wire: a loopback proxy between a client and its server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Wire:
    """What went through the proxy.

    Attributes:
        port: Where the proxy listens.
        trips: How often the client spoke after the server had last spoken.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.port = 0
        self.trips = 0
        self._carrying: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._dead: set[asyncio.Task[None]] = set()
        self._cut_at: tuple[re.Pattern[bytes], bool] | None = None

    def cut_at(self, word: bytes, *, arrives: bool) -> None:
        """Cut the next connection over which a client sends a word, once.

        Args:
            word: Such as `COMMIT`.
            arrives: The server still gets it, and only its answer does not arrive.
        """
        self._cut_at = re.compile(rb"\b" + word + rb"\b"), arrives

    def swallow(self) -> None:
        """From now on carry nothing over the connections that there are, and keep them open."""
        self._dead.update(self._carrying)

    async def close(self) -> None:
        """Cut what is still connected: a client that was killed has said no goodbye."""
        for writer in self._carrying.values():
            writer.close()  # both directions then read their end
        await asyncio.gather(*self._carrying, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._carrying[task] = writer
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        try:
            await self._carry(reader, writer, far_reader, far_writer)
        finally:
            for end in (writer, far_writer):
                end.close()
                with suppress(OSError):
                    await end.wait_closed()
            del self._carrying[task]

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        state = {"client_spoke": False, "cut": False}
        task = asyncio.current_task()

        async def forward(
            source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, from_client: bool
        ) -> None:
            with suppress(ConnectionError):
                while data := await source.read(65_536):
                    if task in self._dead:
                        continue
                    if state["cut"]:
                        break
                    if from_client and self._cut_at and self._cut_at[0].search(data):
                        (_, arrives), self._cut_at = self._cut_at, None
                        state["cut"] = True
                        if not arrives:
                            break
                    if from_client and not state["client_spoke"]:
                        self.trips += 1
                    state["client_spoke"] = from_client
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(
            forward(reader, far_writer, from_client=True),
            forward(far_reader, writer, from_client=False),
        )


@asynccontextmanager
async def wire_to(host: str, port: int) -> AsyncIterator[Wire]:
    """Run a counting proxy to a server."""
    wire = Wire(host, port)
    server = await asyncio.start_server(wire._accept, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    async with server:
        try:
            yield wire
        finally:
            await wire.close()
