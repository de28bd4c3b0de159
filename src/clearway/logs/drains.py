"""Who moves queued lines on when the target takes them again: the loop, the caller, a thread."""

from __future__ import annotations

import asyncio
import select
import threading
from collections.abc import Callable
from contextvars import Context
from queue import SimpleQueue
from typing import Protocol

PATIENCE = 0.05
"""Seconds that a caller without a loop waits for a full target, until it once waited in vain."""


class Drain(Protocol):
    """Somebody who moves queued lines on."""

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the loop that threads may wake, before anything has been logged in it."""

    def wake(self) -> None:
        """See to it that the queue is moved on; called after every line that was queued."""

    def idle(self) -> None:
        """Learn that the queue is empty; called while the writer is held."""

    def stop(self, release: Callable[[], None]) -> None:
        """Stop for good, then call `release`, from wherever the descriptor is last used."""

    def abandon(self) -> None:
        """Forget everything, in a forked child that has inherited it."""


class LoopDrain:
    """Let the running loop move the queue on, else the caller, who waits only a little.

    The descriptor sits in an epoll of our own, and the loop watches that: given the
    descriptor itself, uvloop would leave the shared stdout non-blocking for ever.

    Args:
        fd: The descriptor that must become writable.
        pump: Moves on what the target takes, and says whether that was anything.
        follow_up: Looks after lines that came while the pump ran.
    """

    def __init__(self, fd: int, pump: Callable[[], bool], follow_up: Callable[[], None]) -> None:
        self._fd = fd
        self._pump = pump
        self._follow_up = follow_up
        self._epoll: select.epoll | None = None
        self._home: asyncio.AbstractEventLoop | None = None
        self._watching: asyncio.AbstractEventLoop | None = None
        self._patience = PATIENCE

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the loop that threads may wake, before anything has been logged in it."""
        self._home = loop

    def wake(self) -> None:
        """Have the loop watch, from any thread; without a loop, wait a little and move on."""
        watching = self._watching
        if watching is not None and watching.is_running():
            return
        loop = self._loop()
        if loop is None:
            self._wait()
            return
        self._watching = loop
        try:
            # Never add_reader from here: the caller may be a thread, or a signal handler that
            # interrupted the loop inside its selector. The empty context keeps no journey alive.
            loop.call_soon_threadsafe(self._watch, loop, context=Context())
        except RuntimeError:  # closed since we looked
            self._watching = self._home = None

    def idle(self) -> None:
        """Let the loop stop watching."""
        self._watching = None

    def stop(self, release: Callable[[], None]) -> None:
        """Take the epoll out of the loop before its number can belong to something else."""
        loop, self._watching, self._home = self._watching, None, None
        epoll, self._epoll = self._epoll, None
        if epoll is not None:
            if loop is not None and not loop.is_closed():
                _unwatch(loop, epoll)
            else:
                epoll.close()
        release()

    def abandon(self) -> None:
        """Close the child's copy of the epoll; the parent's stays as it is."""
        if self._epoll is not None:
            self._epoll.close()

    def _loop(self) -> asyncio.AbstractEventLoop | None:
        try:
            self._home = asyncio.get_running_loop()
        except RuntimeError:
            if self._home is not None and self._home.is_closed():
                self._home = None
        return self._home if self._home is not None and self._home.is_running() else None

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._watching is not loop:
            return
        if self._epoll is None:
            self._epoll = select.epoll()
            self._epoll.register(self._fd, select.EPOLLOUT)
        loop.add_reader(self._epoll.fileno(), self._ready, loop)

    def _ready(self, loop: asyncio.AbstractEventLoop) -> None:
        self._pump()
        if self._watching is not loop and self._epoll is not None:
            loop.remove_reader(self._epoll.fileno())
        self._follow_up()

    def _wait(self) -> None:
        if self._patience:
            await_room(self._fd, self._patience)
        self._patience = PATIENCE if self._pump() else 0.0


def _unwatch(loop: asyncio.AbstractEventLoop, epoll: select.epoll) -> None:
    def remove() -> None:
        loop.remove_reader(epoll.fileno())
        epoll.close()

    try:
        if asyncio.get_running_loop() is loop:
            remove()
            return
    except RuntimeError:
        pass  # no loop runs in this thread
    try:
        loop.call_soon_threadsafe(remove, context=Context())
    except RuntimeError:
        epoll.close()  # the loop was closed since we looked


def await_room(fd: int, seconds: float) -> None:
    """Wait until a descriptor takes bytes, at most `seconds`."""
    ready = select.poll()
    ready.register(fd, select.POLLOUT)
    ready.poll(seconds * 1000)


class ThreadDrain:
    """Move the queue on in a daemon thread that starts with the first line.

    Args:
        step: Writes one batch, waiting for it; False when there was nothing to write.
    """

    def __init__(self, step: Callable[[], bool]) -> None:
        self._step = step
        # No condition and no event: their locks deadlock in a signal handler, a SimpleQueue
        # does not, and it is rung only when the thread sleeps (0.1 us instead of 3 to 17).
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._unstarted = threading.Lock()
        self._asleep = False
        self._stopped = False
        self._release: Callable[[], None] | None = None

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Do nothing: no loop is needed."""

    def wake(self) -> None:
        """Start or ring the thread."""
        if self._unstarted.acquire(False):
            try:
                threading.Thread(target=self._run, name="clearway-logs", daemon=True).start()
            except RuntimeError:  # the interpreter is going down
                self._unstarted.release()
                while self._step():
                    pass
        elif self._asleep:
            self._asleep = False
            self._bell.put(None)

    def idle(self) -> None:
        """Do nothing: the thread finds out by itself."""

    def stop(self, release: Callable[[], None]) -> None:
        """End the thread after its current write; it gives the descriptor back itself."""
        self._release = release
        self._stopped = True
        if self._unstarted.acquire(False):
            release()
        else:
            self._bell.put(None)

    def abandon(self) -> None:
        """Do nothing: the child has no such thread."""

    def _run(self) -> None:
        while not self._stopped:
            if self._step():
                continue
            self._asleep = True
            # A line that came before `_asleep` was set rang no bell: look once more.
            if self._step():
                self._asleep = False
            else:
                self._bell.get()
        if self._release is not None:
            self._release()
