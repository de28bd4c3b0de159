"""Whole JSON messages over a socket, between a worker and the process that runs its jobs."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Mapping
from typing import Any, Self

_LENGTH = struct.Struct("!I")


class Channel:
    """One end of a socket pair.

    `send` never waits: what is under way at one time is bounded by the worker's slots.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> Self:
        """Return the channel over a connected socket."""
        return cls(*await asyncio.open_connection(sock=sock))

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message; nothing happens where the other end is gone."""
        body = json.dumps(message).encode()
        if not self._writer.is_closing():
            self._writer.write(_LENGTH.pack(len(body)) + body)

    async def receive(self) -> dict[str, Any] | None:
        """Return the next message, None at the end."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            message: dict[str, Any] = json.loads(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return message

    def close(self) -> None:
        """Close this end; what was sent still arrives."""
        self._writer.close()
