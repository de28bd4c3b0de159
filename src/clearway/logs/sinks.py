"""The ways to hand bytes to a descriptor that other processes may share."""

from __future__ import annotations

import os
import select
import socket
import stat
from collections.abc import Callable
from typing import Protocol

PIPE_BUF = getattr(select, "PIPE_BUF", 512)
_BULK = 65_536

Probe = Callable[[int], "Sink"]
"""Finds the way to write to a descriptor."""


class Sink(Protocol):
    """A way to write.

    Attributes:
        fd: A descriptor of our own that can be polled.
        batch: Most bytes in one write; longer ones could be torn by other writers.
        blocks: A write may block, so that it belongs in a thread.
    """

    fd: int
    batch: int
    blocks: bool

    def offer(self, data: bytes | memoryview) -> int:
        """Write what can be written, and return how many bytes that was: 0 when full.

        Raises:
            OSError: The target is gone or broken.
        """

    def close(self) -> None:
        """Give the descriptor back."""


class _Owned:
    """A descriptor of our own.

    Never the number that we were given: that one may be closed and given to a database
    connection, and log lines would go there.
    """

    blocks = False

    def __init__(self, fd: int, batch: int) -> None:
        self.fd = fd
        self.batch = batch

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.fd)


class NoWait(_Owned):
    """Ask for each write that it must not wait; the shared description stays as it is."""

    def offer(self, data: bytes | memoryview) -> int:
        """Write what can be written at once."""
        try:
            return os.pwritev(self.fd, (data,), -1, os.RWF_NOWAIT)
        except BlockingIOError:
            return 0


class Reopened(_Owned):
    """Write to a non-blocking description of our own for the same terminal or pipe."""

    def offer(self, data: bytes | memoryview) -> int:
        """Write what can be written at once."""
        try:
            return os.write(self.fd, data)
        except BlockingIOError:
            return 0


class Blocking(_Owned):
    """Write and wait: for files, whose disk may stall, and where nothing else works."""

    blocks = True

    def offer(self, data: bytes | memoryview) -> int:
        """Write, in the writer's thread; a full non-blocking target is awaited a while."""
        try:
            return os.write(self.fd, data)
        except BlockingIOError:  # somebody else has set O_NONBLOCK on what we share
            ready = select.poll()
            ready.register(self.fd, select.POLLOUT)
            ready.poll(100)
            return 0


class Gone:
    """Stand for a descriptor that was closed before we came (`python app.py >&-`)."""

    fd = -1
    batch = PIPE_BUF
    blocks = False

    def __init__(self, why: OSError) -> None:
        self._why = why

    def offer(self, data: bytes | memoryview) -> int:
        """Refuse."""
        raise OSError(self._why.errno, self._why.strerror)

    def close(self) -> None:
        """Do nothing."""


def probe(fd: int) -> Sink:
    """Find the best way to write to a descriptor, without writing to it."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError as error:
        return Gone(error)
    if not stat.S_ISREG(mode) and hasattr(select, "epoll"):
        if _takes_nowait(fd, mode):
            return nowait(fd)
        try:
            return reopened(fd)
        except OSError:
            pass  # some containers forbid it (EACCES), and a socket has no name (ENXIO)
    return blocking(fd)


def nowait(fd: int) -> Sink:
    """Return the way that needs RWF_NOWAIT (Linux; pipes, sockets and /dev/null)."""
    return NoWait(os.dup(fd), _batch(fd))


def reopened(fd: int) -> Sink:
    """Return the way through /proc/self/fd.

    Raises:
        OSError: It cannot be reopened.
    """
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    own = os.open(f"/proc/self/fd/{fd}", flags)
    return Reopened(own, _batch(fd))


def blocking(fd: int) -> Sink:
    """Return the way that works everywhere, in a thread."""
    return Blocking(os.dup(fd), _BULK if stat.S_ISREG(os.fstat(fd).st_mode) else _batch(fd))


def _batch(fd: int) -> int:
    return PIPE_BUF if stat.S_ISFIFO(os.fstat(fd).st_mode) else _BULK


def _takes_nowait(fd: int, mode: int) -> bool:
    """Try RWF_NOWAIT on a private thing of the same kind: an empty write says nothing.

    The kind includes the file system: a pipe with a name (`mkfifo`) refuses what one without
    takes (ENOTSUP, Linux 6.18).
    """
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    if stat.S_ISFIFO(mode):
        reader, writer = os.pipe()
    elif stat.S_ISSOCK(mode):
        reader, writer = (end.detach() for end in socket.socketpair())
    elif stat.S_ISCHR(mode) and os.fstat(fd).st_rdev == os.stat(os.devnull).st_rdev:
        reader, writer = os.dup(fd), os.dup(fd)
    else:
        return False
    try:
        alike = os.fstat(writer).st_dev == os.fstat(fd).st_dev
        return alike and os.pwritev(writer, (b"\n",), -1, os.RWF_NOWAIT) == 1
    except OSError:
        return False
    finally:
        os.close(reader)
        os.close(writer)


def is_pipe(fd: int) -> bool:
    """Say whether lines longer than PIPE_BUF could be torn by other writers."""
    try:
        return stat.S_ISFIFO(os.fstat(fd).st_mode)
    except OSError:
        return True
