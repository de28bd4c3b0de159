"""The lane for CPU work: worker processes of our own, each of which may die alone."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, TypeVarTuple, Unpack, cast

from clearway.core.lane import Lane, LaneSnapshot
from clearway.errors import NotOpen, WorkerKilled, WorkerUnfit
from clearway.offload import packing
from clearway.offload.functions import name_of, refuse_async
from clearway.offload.limit import Limit
from clearway.offload.obituary import advice, cause, oom_kills
from clearway.offload.pool import ThreadPool
from clearway.offload.wire import Chunk, Frame
from clearway.offload.worker import Lost, Worker
from clearway.settings import OffloadSettings

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Seconds. A killed process is gone in milliseconds, an idle one has 2 s for its clean-up.
CLOSE_WITHIN = 5.0
_REAP_WITHIN = 1.0


@dataclass(frozen=True, slots=True)
class ProcessesSnapshot:
    """The worker processes as they stood when they were asked.

    Attributes:
        lane: Their lane.
        idle: Process ids of the workers that wait for a call.
        busy: Process ids of the workers that run one.
        started: Workers that were ever made ready.
        given_up: Workers killed because of a deadline or a cancelled caller.
        died: Workers that died by themselves or by someone else's hand.
        recycled: Workers that ended after `max_tasks_per_process` calls.
        retried: Calls that were given to a second worker as the first had not begun.
    """

    lane: LaneSnapshot
    idle: tuple[int, ...]
    busy: tuple[int, ...]
    started: int
    given_up: int
    died: int
    recycled: int
    retried: int


class Processes:
    """Run functions in worker processes that are really killed at their deadline.

    The shape is that of `anyio.to_process` and `trio-parallel`: one socket pair for each
    worker, the queue in the parent, no lock or queue that a killed worker could leave broken.
    Workers start on first use and stay warm, with one spare while others are busy, so that a
    kill costs no start.

    Args:
        settings: How many, how nice, and how long they live.
        initializer: `module:function` that every worker calls once at its start.
        initargs: Its arguments.

    Raises:
        NotPicklable: `initargs` cannot travel.
    """

    def __init__(
        self,
        settings: OffloadSettings,
        *,
        initializer: str | None = None,
        initargs: tuple[object, ...] = (),
    ) -> None:
        self.lane = Lane(
            "processes",
            settings.processes,
            queue_limit=settings.queue_limit,
            fix="raise offload.processes if there are processors for them, or shorten the calls",
        )
        self._settings = settings
        self._initializer = initializer
        self._initargs = packing.pickled_arguments(initializer, initargs)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._starter = ThreadPool("clearway-start", 1)
        self._pickler = ThreadPool("clearway-pickle", 2)
        self._idle: list[Worker] = []
        self._busy: set[Worker] = set()
        self._leaving: set[Worker] = set()
        self._starting: dict[Worker, asyncio.Task[None]] = {}
        self._takers: deque[asyncio.Future[Worker]] = deque()
        self._answered = False
        self._started = self._given_up = self._died = self._recycled = self._retried = 0

    async def open(self) -> None:
        """Get ready; no process starts before the first call."""
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._starter = ThreadPool("clearway-start", 1)
        self._pickler = ThreadPool("clearway-pickle", 2)

    async def close(self) -> None:
        """End every worker: a busy one is killed, and its call raises `WorkerKilled`."""
        if self._pid != os.getpid():
            return  # forked: the workers are the parent's
        self._loop = None
        for taker in self._takers:
            if not taker.done():
                taker.set_exception(_not_open())
        for worker in [*self._busy, *self._starting]:
            worker.kill("Clearway was closed")
        while self._idle:
            self._retire(self._idle.pop())
        if starts := list(self._starting.values()):
            await asyncio.wait(starts, timeout=CLOSE_WITHIN)
        if ends := [worker.gone for worker in self._leaving]:
            await asyncio.wait(ends, timeout=CLOSE_WITHIN)
        for pool in (self._starter, self._pickler):
            pool.close()
            await pool.ended(1.0)

    async def run(
        self, fn: Callable[[Unpack[Ts]], T], *args: *Ts, timeout: float | None = None
    ) -> T:
        """Call a function in a worker process; see `clearway.offload.process`."""
        self._require_open()
        refuse_async(fn)
        name = name_of(fn)
        limit = Limit.of(
            f"offload.process({name})",
            timeout,
            "the process was killed: raise the timeout if the call is worth it, or give it less",
        )
        async with limit.bound():
            chunks = await packing.pack(self._pickler, fn, *args)
        with await limit.admit(self.lane):
            frame = await self._deliver(chunks, name, limit)
        async with limit.bound():
            return cast(T, await packing.unpack(self._pickler, frame, name))

    def snapshot(self) -> ProcessesSnapshot:
        """Return the gauges as they stand now."""
        return ProcessesSnapshot(
            lane=self.lane.snapshot(),
            idle=tuple(worker.pid for worker in self._idle),
            busy=tuple(worker.pid for worker in self._busy),
            started=self._started,
            given_up=self._given_up,
            died=self._died,
            recycled=self._recycled,
            retried=self._retried,
        )

    async def _deliver(self, chunks: list[Chunk], name: str, limit: Limit) -> Frame:
        # A worker that had not begun (killed while idle, say) has run nothing, so the call goes
        # to another: all that were idle may be dead, and the next after them is new.
        for _ in range(self._settings.processes + 1):
            try:
                return await self._attempt(chunks, limit)
            except Lost as lost:
                if lost.accepted or self._loop is None:
                    raise await self._obituary(lost, name) from None
            self._retried += 1
        try:
            return await self._attempt(chunks, limit)
        except Lost as lost:
            raise await self._obituary(lost, name) from None

    async def _attempt(self, chunks: list[Chunk], limit: Limit) -> Frame:
        async with limit.bound():
            worker = await self._take()
            self._busy.add(worker)
            self._top_up()
            try:
                return await worker.call(chunks)
            except asyncio.CancelledError:
                self._given_up += 1
                raise
            finally:
                self._put_back(worker)

    async def _take(self) -> Worker:
        self._require_open()
        if self._idle:
            return self._idle.pop()
        taker: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        self._takers.append(taker)
        self._top_up()
        try:
            return await taker
        except asyncio.CancelledError:
            if taker.done() and not taker.cancelled() and taker.exception() is None:
                self._offer(taker.result())
            raise
        finally:
            if taker in self._takers:
                self._takers.remove(taker)

    def _put_back(self, worker: Worker) -> None:
        self._busy.discard(worker)
        if not worker.alive:
            self._top_up()
        elif worker.calls >= self._settings.max_tasks_per_process:
            self._recycled += 1
            self._retire(worker)
            self._top_up()
        else:
            self._answered = True
            self._offer(worker)

    def _offer(self, worker: Worker) -> None:
        """Give a worker to whoever has waited longest for one."""
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(worker)
                return
        if self._loop is None:
            self._retire(worker)
        elif worker.alive:
            self._idle.append(worker)

    def _retire(self, worker: Worker) -> None:
        self._leaving.add(worker)
        worker.retire()

    def _top_up(self) -> None:
        """Start what the waiting calls need, else one spare."""
        if self._loop is None:
            return
        wanted = len(self._takers) or (0 if self._idle else 1)
        most = self._settings.processes + 1
        while len(self._starting) < wanted and len(self._starting) + self._ready < most:
            worker = Worker(self._on_lost)
            self._starting[worker] = self._loop.create_task(self._start(worker))

    @property
    def _ready(self) -> int:
        return len(self._idle) + len(self._busy)

    async def _start(self, worker: Worker) -> None:
        settings = packing.setting(self._settings.nice, self._initializer, self._initargs)
        try:
            await worker.start(self._starter, settings)
        except WorkerUnfit as error:
            self._disappoint(error)
            return
        finally:
            self._starting.pop(worker, None)
        self._started += 1
        self._offer(worker)

    def _disappoint(self, error: WorkerUnfit) -> None:
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_exception(error)
                return

    def _on_lost(self, worker: Worker) -> None:
        """Count a worker out, and replace the last idle one.

        Only once for each answered call: workers that die of their own start would go on so.
        """
        leaving = worker in self._leaving
        self._leaving.add(worker)
        worker.gone.add_done_callback(lambda _: self._leaving.discard(worker))
        if worker.reason is None and not leaving:
            self._died += 1
        if worker in self._idle:
            self._idle.remove(worker)
            if self._answered and not self._idle:
                self._answered = False
                self._top_up()

    async def _obituary(self, lost: Lost, name: str) -> WorkerKilled:
        """Return the error that says how the worker died; the exit code follows at once."""
        worker = lost.worker
        await asyncio.wait([worker.gone], timeout=_REAP_WITHIN)
        if worker.reason is not None or not worker.gone.done():
            why, fix = worker.reason or "nobody knows how", ""
        else:
            out_of_memory = await self._pickler.run(oom_kills) > worker.kills_before
            code = worker.gone.result()
            why, fix = cause(code, out_of_memory), advice(code, out_of_memory)
        when = "while it ran" if lost.accepted else "before it began"
        return WorkerKilled(f"worker process {worker.pid} died {when} {name}: {why}", fix=fix)

    def _require_open(self) -> None:
        # The process first: in a forked child asyncio may know of no running loop.
        if self._pid != os.getpid() or self._loop is not asyncio.get_running_loop():
            raise _not_open()


def _not_open() -> NotOpen:
    return NotOpen(
        "offload.process was used where its workers are not open: after the close, on another "
        "event loop, or in a process that was forked",
        fix="open Clearway (its lifespan) in the process and on the loop that uses it",
    )
