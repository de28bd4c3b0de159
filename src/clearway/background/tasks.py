"""The lane for light tasks: reserved in the request, run after its commit, one by one isolated."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, ParamSpec

from fastapi import Depends

from clearway.core.current import find
from clearway.core.journey import Journey, current_journey, travelling
from clearway.core.lane import Lane, LaneSnapshot
from clearway.errors import LaneBusy, NotOpen
from clearway.settings import BackgroundSettings

P = ParamSpec("P")
InThread = Callable[[Callable[[], object]], Awaitable[object]]

_log = logging.getLogger("clearway.background")

_CANCEL_WITHIN = 1.0  # seconds that a cancelled task has for its clean-up
_RETRY_AFTER = 1.0  # seconds; tasks are light, so a place comes free soon


@dataclass(frozen=True, slots=True)
class BackgroundSnapshot:
    """The background tasks as they stood when they were asked.

    Attributes:
        lane: Their lane: how many run and wait now, and for how long they did.
        reserved: Tasks that were added and have not ended; some wait for their response.
        refused: Tasks that `add` refused because the lane was full.
        dropped: Tasks that never began, because their request was rolled back.
        failed: Tasks that raised.
        cancelled: Tasks that the shutdown cut off.
    """

    lane: LaneSnapshot
    reserved: int
    refused: int
    dropped: int
    failed: int
    cancelled: int


@dataclass(frozen=True, slots=True, eq=False)
class _Errand:
    """One call that was added, and the journey that added it."""

    name: str
    call: Callable[[], object]
    journey: Journey


class BackgroundTasks:
    """The part that runs what requests leave behind.

    A place is reserved by `add` and given back when the task has ended, so that what is
    accepted is bounded also while requests are still on their way.

    Args:
        settings: How many run and wait, and for how long at shutdown.
        in_thread: Calls a plain function off the event loop.
    """

    def __init__(self, settings: BackgroundSettings, in_thread: InThread) -> None:
        self.lane = Lane("background", settings.capacity)
        self._settings = settings
        self._in_thread = in_thread
        self._open = False
        self._reserved = self._refused = self._dropped = self._failed = self._cancelled = 0
        self._running: dict[asyncio.Task[None], str] = {}

    async def open(self) -> None:
        """Accept tasks from now on."""
        self._open = True

    async def drain(self) -> None:
        """Accept no more, and wait for the others; then cancel and name what is left."""
        self._open = False
        if self._running:
            await asyncio.wait(self._running, timeout=self._settings.drain_within)
        for task, name in self._running.items():
            self._cancelled += 1
            _log.error("background task %s was cut off by the shutdown", name)
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=_CANCEL_WITHIN)

    async def close(self) -> None:
        """Drain what the lifespan has not drained."""
        await self.drain()

    def add(self, journey: Journey, call: Callable[[], object], name: str) -> None:
        """Reserve a place for a call; see `RequestTasks.add`."""
        if not self._open:
            raise NotOpen(
                f"{name} was added as a background task after the shutdown had begun",
                fix="what must not be lost is a job, not a background task",
            )
        most = self._settings.capacity + self._settings.queue_limit
        if self._reserved >= most:
            self._refused += 1
            raise LaneBusy(
                f"lane 'background' is busy: {self._reserved} tasks run or wait, the most that "
                f"it allows, and {name} would be one more",
                fix="raise background.capacity if the tasks wait for others, or give heavy work "
                "to offload.process",
                retry_after=_RETRY_AFTER,
            )
        self._reserved += 1
        errand = _Errand(name, call, journey)
        if journey.answered or journey.kind == "websocket":
            self._begin(errand, journey.committed or journey.kind == "websocket")
        else:
            journey.after_response.append(functools.partial(self._after, errand))

    async def _after(self, errand: _Errand, committed: bool) -> None:
        self._begin(errand, committed)

    def _begin(self, errand: _Errand, committed: bool) -> None:
        """Start a task of our own for a call, or drop it with what its request wrote."""
        if not committed:
            self._dropped += 1
            self._reserved -= 1
            return
        task = asyncio.create_task(self._run(errand), name=f"clearway background {errand.name}")
        self._running[task] = errand.name
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._reserved -= 1

    async def _run(self, errand: _Errand) -> None:
        cause = errand.journey
        own = Journey(
            "background",
            id=cause.id,
            route=errand.name,
            parts=cause.parts,
            traceparent=cause.traceparent,
        )
        with travelling(own), await self.lane.acquire():
            began = time.monotonic()
            try:
                await self._call(errand.call)
            except Exception:  # noqa: BLE001 - the user's code raises anything; it is logged
                self._failed += 1
                _log.exception("background task %s failed", errand.name)
            took = time.monotonic() - began
        if took > self._settings.warn_after:
            _log.warning("background task %s took %.1f s", errand.name, took)

    async def _call(self, call: Callable[[], object]) -> None:
        # To `inspect` a partial of an `async def` function is one as well.
        result = call() if inspect.iscoroutinefunction(call) else await self._in_thread(call)
        if inspect.isawaitable(result):
            await result

    def snapshot(self) -> BackgroundSnapshot:
        """Return the gauges as they stand now."""
        return BackgroundSnapshot(
            lane=self.lane.snapshot(),
            reserved=self._reserved,
            refused=self._refused,
            dropped=self._dropped,
            failed=self._failed,
            cancelled=self._cancelled,
        )


class RequestTasks:
    """What one request leaves behind: `background: Background` in an endpoint."""

    __slots__ = ("_journey", "_lane")

    def __init__(self, lane: BackgroundTasks, journey: Journey) -> None:
        self._lane = lane
        self._journey = journey

    def add(self, fn: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call a function after the response and after the COMMIT; never if that fails.

        Each task is isolated: one that raises is logged and skips no other. Right for what is
        short and may be lost in a crash. At shutdown tasks have `background.drain_within`
        seconds; what is cut off is logged by name.

        Args:
            fn: An `async def` function, or a plain one, which runs in a thread.
            args: Its positional arguments.
            kwargs: Its keyword arguments.

        Raises:
            LaneBusy: Too many tasks run or wait; unhandled, it is a 503 answer.
            NotOpen: The shutdown has begun.
        """
        name = f"{fn.__module__}:{getattr(fn, '__qualname__', type(fn).__qualname__)}"
        self._lane.add(self._journey, functools.partial(fn, *args, **kwargs), name)


async def background_dependency() -> RequestTasks:
    """Return what the journey may leave behind."""
    journey = current_journey()
    if journey is None:
        raise NotOpen(
            "Background was asked for outside a request that Clearway sees",
            fix="is there a Clearway(app), and not CLEARWAY=off?",
        )
    return RequestTasks(find(BackgroundTasks, "Background"), journey)


Background = Annotated[RequestTasks, Depends(background_dependency)]
"""Light tasks after the response and after the COMMIT: `background.add(notify, invoice_id)`."""
