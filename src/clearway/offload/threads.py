"""The lane for blocking calls: threads of our own, and slots that tell the truth."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar, TypeVarTuple, Unpack

from clearway.core.lane import Lane, LaneSnapshot, Permit
from clearway.errors import NotOpen
from clearway.offload.functions import name_of, refuse_async, refuse_coroutine
from clearway.offload.limit import Limit
from clearway.offload.pool import Outcome, ThreadPool, post, settle
from clearway.settings import OffloadSettings

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Seconds that `close` waits for calls that still run: nothing can stop a thread.
CLOSE_WITHIN = 2.0


@dataclass(frozen=True, slots=True)
class AbandonedCall:
    """A call whose caller has left and whose thread goes on.

    Attributes:
        name: The function, as `module:qualname`.
        since: Seconds since the caller left.
    """

    name: str
    since: float


@dataclass(frozen=True, slots=True)
class ThreadsSnapshot:
    """The threads as they stood when they were asked.

    Attributes:
        lane: Their lane.
        threads: Threads that exist.
        abandoned: Calls that run though nobody waits for them, the oldest first.
        abandoned_total: Calls that were ever abandoned.
    """

    lane: LaneSnapshot
    threads: int
    abandoned: tuple[AbandonedCall, ...]
    abandoned_total: int


class Threads:
    """Run blocking functions in a bounded number of threads.

    They are not AnyIO's 40 tokens, which endpoints, files and validation share, and not the
    loop's default executor, which resolves names.

    Args:
        settings: How many threads, and how many calls may wait for one.
    """

    def __init__(self, settings: OffloadSettings) -> None:
        self.lane = Lane(
            "threads",
            settings.threads,
            queue_limit=settings.queue_limit,
            fix="raise offload.threads, or give the slow calls a timeout of their own",
        )
        self._most = settings.threads
        self._pool: ThreadPool | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._abandoned: dict[object, tuple[str, float]] = {}
        self._abandoned_total = 0

    async def open(self) -> None:
        """Get ready; the first thread starts with the first call."""
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPool("clearway-thread", self._most)

    async def close(self) -> None:
        """End the threads, waiting at most 2 s for calls that still run."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
            await pool.ended(CLOSE_WITHIN)

    async def run(
        self, fn: Callable[[Unpack[Ts]], T], *args: *Ts, timeout: float | None = None
    ) -> T:
        """Call a function in a thread; see `clearway.offload.thread`."""
        refuse_async(fn)
        name = name_of(fn)
        limit = Limit.of(
            f"offload.thread({name})",
            timeout,
            "the thread goes on until the call returns: give the call inside it a timeout too "
            "(of its socket, its driver), or use offload.process, which is killed",
        )
        permit = await limit.admit(self.lane)
        errand = self._submit(permit, fn, *args)
        try:
            async with limit.bound():
                outcome = await errand.future
        except BaseException:
            permit.leave_behind()
            self._abandon(errand, name)
            raise
        return refuse_coroutine(outcome.unwrap(limit.what), name)

    def snapshot(self) -> ThreadsSnapshot:
        """Return the gauges as they stand now."""
        now = time.monotonic()
        return ThreadsSnapshot(
            lane=self.lane.snapshot(),
            threads=0 if self._pool is None else self._pool.alive,
            abandoned=tuple(AbandonedCall(n, now - at) for n, at in self._abandoned.values()),
            abandoned_total=self._abandoned_total,
        )

    def _submit(self, permit: Permit, fn: Callable[[Unpack[Ts]], T], *args: *Ts) -> _Errand[T]:
        try:
            context = contextvars.copy_context()
            errand = _Errand(self, permit, lambda: context.run(fn, *args))
            self._threads().submit(errand)
        except BaseException:
            permit.release()
            raise
        return errand

    def _threads(self) -> ThreadPool:
        if self._pool is None:
            raise NotOpen("offload.thread was used while its threads were not open")
        return self._pool

    def _abandon(self, errand: _Errand[T], name: str) -> None:
        if not errand.ended:
            self._abandoned[errand] = (name, time.monotonic())
            self._abandoned_total += 1

    def _finish(self, errand: _Errand[T], outcome: Outcome[T]) -> None:
        errand.ended = True
        errand.permit.release()
        self._abandoned.pop(errand, None)
        settle(errand.future, outcome)


class _Errand(Generic[T]):
    """One call on its way through a thread; holds its permit until the thread is done."""

    def __init__(self, owner: Threads, permit: Permit, call: Callable[[], T]) -> None:
        self.permit = permit
        self.ended = False
        self.future: asyncio.Future[Outcome[T]] = asyncio.get_running_loop().create_future()
        self._owner = owner
        self._call = call

    def __call__(self) -> None:
        outcome = Outcome.of(self._call)
        del self._call
        if not post(self._owner._loop, self._owner._finish, self, outcome):
            # The loop has closed, so nobody but us touches the lane: the slot is free again.
            self.permit.release()
            self._owner._abandoned.pop(self, None)
