"""Daemon threads that are made on demand, reused, and ended together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar, TypeVarTuple, Unpack

from clearway.errors import CallRaised

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@dataclass(slots=True)
class Outcome(Generic[T]):
    """What a call came to, carried from its thread to the loop as a plain value.

    A future must not carry it as an exception: it refuses `StopIteration`, and it would raise
    `SystemExit` through the event loop.
    """

    values: tuple[T, ...] = ()
    error: BaseException | None = None

    @classmethod
    def of(cls, fn: Callable[[Unpack[Ts]], T], *args: *Ts) -> Outcome[T]:
        """Call a function and keep what it returns or raises."""
        try:
            return cls(values=(fn(*args),))
        except BaseException as error:  # noqa: BLE001 - raised where the caller waits
            return cls(error=error)

    def unwrap(self, what: str) -> T:
        """Return the value, or raise the error with the traceback of its thread.

        Raises:
            CallRaised: The error would end the event loop rather than the call.
        """
        error, self.error = self.error, None
        try:
            if error is None:
                return self.values[0]
            if isinstance(error, Exception):
                raise error
            raise CallRaised(
                f"{what} raised {type(error).__name__}({error}), which must not end the service",
                fix="raise an Exception, or return",
            ) from error
        finally:
            del error  # its traceback leads to this frame: a cycle that would wait for the GC


def post(
    loop: asyncio.AbstractEventLoop | None, call: Callable[[Unpack[Ts]], object], *args: *Ts
) -> bool:
    """Let an event loop make a call; return False where the loop is gone."""
    if loop is None:
        return False
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:
        return False
    return True


def settle(future: asyncio.Future[T], value: T) -> None:
    """Give a future its value unless its waiter has left."""
    if not future.done():
        future.set_result(value)


class ThreadPool:
    """A few threads that take work in order.

    Args:
        name: Prefix of the threads' names.
        most: Most threads at one time; further work waits.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._lock = threading.Lock()
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._idle = 0
        self._started = 0
        self._threads: set[threading.Thread] = set()

    @property
    def alive(self) -> int:
        """Return the number of threads that have not ended."""
        return len(self._threads)

    def submit(self, work: Callable[[], None]) -> None:
        """Let a thread do some work, which must not raise."""
        with self._lock:
            if self._idle:
                self._idle -= 1
            elif len(self._threads) < self._most:
                self._start()
        self._work.put(work)

    async def run(self, fn: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        """Call a function of our own in a thread and return its result."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome[T]] = loop.create_future()

        def work() -> None:
            post(loop, settle, future, Outcome.of(fn, *args))

        self.submit(work)
        return (await future).unwrap(self._name)

    def close(self) -> None:
        """Let every thread end once its work is done. Does not wait."""
        with self._lock:
            for _ in self._threads:
                self._work.put(None)

    async def ended(self, within: float) -> bool:
        """Wait until no thread is left, at most `within` seconds; say whether it came to that."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + within
        while self._threads and loop.time() < give_up:  # noqa: ASYNC110 - no loop sees them end
            await asyncio.sleep(0.005)
        return not self._threads

    def _start(self) -> None:
        self._started += 1
        thread = threading.Thread(
            target=self._serve, name=f"{self._name}-{self._started}", daemon=True
        )
        self._threads.add(thread)
        try:
            thread.start()
        except BaseException:
            self._threads.discard(thread)
            raise

    def _serve(self) -> None:
        while (work := self._next()) is not None:
            work()
            del work  # an idle thread must not keep the last call's arguments alive
        with self._lock:
            self._threads.discard(threading.current_thread())

    def _next(self) -> Callable[[], None] | None:
        try:
            return self._work.get_nowait()
        except Empty:
            with self._lock:
                self._idle += 1
            return self._work.get()
