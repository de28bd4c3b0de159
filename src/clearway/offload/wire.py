"""Pickled objects in frames on a stream socket, the same at both ends.

A frame is a header (kind, number of buffers, length of the body) and a body: the lengths of
the buffers, one pickle of protocol 5, and its out-of-band buffers (PEP 574).
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

Chunk = bytes | memoryview

_HEADER = struct.Struct("!BIQ")
_LENGTH = struct.Struct("!Q")
_SCRATCH = 1 << 16


class Kind(IntEnum):
    """What a frame says."""

    INIT = 1
    CALL = 2
    READY = 3
    UNFIT = 4
    STARTED = 5
    RESULT = 6
    RAISED = 7
    FOREIGN = 8
    STUCK = 9


class TooLarge(Exception):
    """A pickle grew beyond the size that `encode` was allowed."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it arrived."""

    kind: Kind
    buffers: int
    body: memoryview

    @property
    def size(self) -> int:
        """Return the length of the body in bytes."""
        return len(self.body)


class _Sink:
    """Collect what the pickler writes.

    The C pickler holds the GIL from frame to frame (202 ms were measured for 6 MB of dicts) and
    gives it up only in this Python function, once every 64 KiB. It hands over large bytes as
    they are, so they are not copied.
    """

    def __init__(self, most: int | None) -> None:
        self.chunks: list[Chunk] = []
        self.size = 0
        self._most = most

    def write(self, chunk: bytes | bytearray) -> int:
        self.size += len(chunk)
        if self._most is not None and self.size > self._most:
            raise TooLarge
        # A large bytearray comes as itself and may change before it is sent.
        self.chunks.append(bytes(chunk))
        return len(chunk)


class _Source:
    """Feed an unpickler; like `_Sink`, a Python function that gives up the GIL now and then."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def read(self, size: int) -> bytes:
        self._at += size
        return bytes(self._data[self._at - size : self._at])

    def readinto(self, target: bytearray) -> int:
        size = len(target)
        self._at += size
        target[:] = self._data[self._at - size : self._at]
        return size

    def readline(self) -> bytes:
        rest = bytes(self._data[self._at :])
        return self.read(rest.find(b"\n") + 1)


class _Unpickler(pickle.Unpickler):
    """Find classes in the module that plays the part of the named one here."""

    def __init__(
        self, file: io.BytesIO | _Source, buffers: list[memoryview], module: Callable[[str], str]
    ) -> None:
        super().__init__(file, buffers=buffers)
        self._module = module

    def find_class(self, module: str, name: str) -> object:
        return super().find_class(self._module(module), name)


def encode(kind: Kind, content: object, most: int | None = None) -> list[Chunk]:
    """Return the chunks of a frame.

    Args:
        kind: What it says.
        content: Anything that can be pickled.
        most: Largest pickle in bytes; None for no bound.

    Raises:
        TooLarge: It would be larger than `most`.
        Exception: Whatever pickling the content raises.
    """
    sink = _Sink(most)
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> None:
        buffers.append(buffer.raw())

    pickle.Pickler(sink, 5, buffer_callback=keep).dump(content)
    lengths = b"".join(_LENGTH.pack(len(buffer)) for buffer in buffers)
    body = len(lengths) + sink.size + sum(map(len, buffers))
    return [_HEADER.pack(kind, len(buffers), body) + lengths, *sink.chunks, *buffers]


def decode(frame: Frame, module: Callable[[str], str]) -> object:
    """Return the content of a frame.

    Args:
        frame: Where it came in. Buffers stay views of its body.
        module: Says which module to look into for the name of one.

    Raises:
        Exception: Whatever unpickling raises: an import that fails, say.
    """
    table = frame.buffers * _LENGTH.size
    lengths = [length for (length,) in _LENGTH.iter_unpack(frame.body[:table])]
    end = frame.size - sum(lengths)
    data = frame.body[table:end]
    buffers: list[memoryview] = []
    for length in lengths:
        buffers.append(frame.body[end : end + length])
        end += length
    source = io.BytesIO(data) if len(data) <= _SCRATCH else _Source(data)
    return _Unpickler(source, buffers, module).load()


class Decoder:
    """Cut a stream of bytes into frames: receive into `room()`, then call `received`."""

    def __init__(self) -> None:
        self._scratch = memoryview(bytearray(_SCRATCH))
        self._filled = 0
        self._large: Frame | None = None

    def room(self) -> memoryview:
        """Return where the next bytes of the stream belong."""
        target = self._scratch if self._large is None else self._large.body
        return target[self._filled :]

    def received(self, count: int) -> list[Frame]:
        """Return the frames that `count` more bytes in `room()` completed."""
        self._filled += count
        if self._large is None:
            return self._cut()
        if self._filled < self._large.size:
            return []
        frame, self._large, self._filled = self._large, None, 0
        return [frame]

    def _cut(self) -> list[Frame]:
        frames: list[Frame] = []
        at = 0
        while self._filled - at >= _HEADER.size:
            kind, buffers, length = _HEADER.unpack_from(self._scratch, at)
            start, end = at + _HEADER.size, at + _HEADER.size + length
            if end > self._filled:
                if end - at > _SCRATCH:
                    self._begin_large(Kind(kind), buffers, length, start)
                    return frames
                break
            body = memoryview(bytearray(self._scratch[start:end]))
            frames.append(Frame(Kind(kind), buffers, body))
            at = end
        rest = bytes(self._scratch[at : self._filled])
        self._scratch[: len(rest)] = rest
        self._filled = len(rest)
        return frames

    def _begin_large(self, kind: Kind, buffers: int, length: int, start: int) -> None:
        """Receive the rest of a large body where it will stay."""
        body = memoryview(bytearray(length))
        have = self._filled - start
        body[:have] = self._scratch[start : self._filled]
        self._large, self._filled = Frame(kind, buffers, body), have
