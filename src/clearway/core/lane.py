"""A bounded resource that work passes through, first come first served."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from clearway.core.deadline import Deadline
from clearway.core.histogram import Histogram, HistogramSnapshot
from clearway.core.journey import Journey, current_journey
from clearway.errors import DeadlineExceeded, LaneBusy


@dataclass(frozen=True, slots=True)
class LaneSnapshot:
    """A lane as it stood when it was asked; the same questions for every lane.

    Attributes:
        capacity: Most permits at one time; None for a lane that only counts.
        in_use: Permits that are out now.
        waiting: Journeys that wait now.
        longest_wait_now: Seconds that the first of them has waited so far.
        admitted: Permits given out since the start.
        rejected: Refused at once because too many were waiting.
        timed_out: Gave up at the wait limit or at their deadline.
        waits: Seconds from asking to getting a permit (0.0 when it was free).
        holds: Seconds from getting to giving back a permit.
    """

    name: str
    capacity: int | None
    in_use: int
    waiting: int
    longest_wait_now: float
    admitted: int
    rejected: int
    timed_out: int
    waits: HistogramSnapshot
    holds: HistogramSnapshot


class Permit:
    """The right to be in a lane; give it back with `release`, or by leaving a `with` block.

    Attributes:
        since: When it was given, on the monotonic clock. From then on its place is taken, even
            if the loop is late to run its holder.
    """

    __slots__ = ("_journey", "_lane", "since")

    def __init__(self, lane: Lane, journey: Journey | None) -> None:
        self._lane: Lane | None = lane
        self._journey = journey
        self.since = time.monotonic()

    def release(self) -> None:
        """Give the permit to whoever has waited longest. A second call does nothing."""
        lane, self._lane = self._lane, None
        if lane is None:
            return
        held = time.monotonic() - self.since
        if self._journey is not None:
            self._journey.ledger.hold(lane.name, held)
        lane._leave(held)

    def leave_behind(self) -> None:
        """Write the hold so far into the journey, which goes on while the place stays taken."""
        journey, self._journey = self._journey, None
        if journey is not None and self._lane is not None:
            journey.ledger.hold(self._lane.name, time.monotonic() - self.since)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class _Reserve(Permit):
    """A place that is kept free for a moment; no journey passed, so nothing is counted."""

    __slots__ = ()

    def release(self) -> None:
        lane, self._lane = self._lane, None
        if lane is not None:
            lane._pass_on()


class _Waiter:
    """One journey in the queue. Its future ends with its permit or with the refusal."""

    __slots__ = ("future", "journey", "since")

    def __init__(self, loop: asyncio.AbstractEventLoop, journey: Journey | None) -> None:
        self.future: asyncio.Future[Permit] = loop.create_future()
        self.journey = journey
        self.since = time.monotonic()


class Lane:
    """A bounded, strictly first-come-first-served resource with bounded waiting.

    The invariants, whatever is cancelled and whenever: never more than `capacity` permits are
    out; a permit that comes free goes to the first waiter in the same step, so nobody can
    overtake; a waiter that leaves passes on what it had been given.

    One event loop uses a lane at a time. A thread gives a permit back through
    `loop.call_soon_threadsafe`.

    Args:
        name: The lane's name in ledgers, snapshots and metrics.
        capacity: Most permits at one time; None counts without a bound.
        queue_limit: Most waiters at one time; None for no limit.
        wait_timeout: Longest wait in seconds; None for no limit but the deadline's.
        busy: The error for a refusal, a `LaneBusy`.
        fix: What to advise in that error.

    Attributes:
        on_wait: Told of each wait that ended with a permit, in seconds; None for nobody. It must
            not raise.
        on_hold: Told of each hold when it ends, in seconds; it must not raise either.
    """

    def __init__(
        self,
        name: str,
        capacity: int | None = None,
        *,
        queue_limit: int | None = None,
        wait_timeout: float | None = None,
        busy: type[LaneBusy] = LaneBusy,
        fix: str = "",
    ) -> None:
        self.name = name
        self.capacity = capacity
        self.queue_limit = queue_limit
        self.wait_timeout = wait_timeout
        self.on_wait: Callable[[float], object] | None = None
        self.on_hold: Callable[[float], object] | None = None
        self._busy = busy
        self._fix = fix
        self._waiters: OrderedDict[_Waiter, None] = OrderedDict()
        self._in_use = 0
        self._admitted = 0
        self._rejected = 0
        self._timed_out = 0
        self._waits = Histogram()
        self._holds = Histogram()

    def try_acquire(self) -> Permit | None:
        """Return a permit if one is free and nobody waits, else None."""
        if self._waiters or (self.capacity is not None and self._in_use >= self.capacity):
            return None
        self._in_use += 1
        self._admitted += 1
        self._waits.observe(0.0)
        if self.on_wait is not None:
            self.on_wait(0.0)
        return Permit(self, current_journey())

    def reserve(self) -> Permit | None:
        """Keep one place free for upkeep, if one is free and nobody waits; it is not counted."""
        if self._waiters or (self.capacity is not None and self._in_use >= self.capacity):
            return None
        self._in_use += 1
        return _Reserve(self, None)

    async def acquire(self, deadline: Deadline | None = None) -> Permit:
        """Wait for a permit.

        Args:
            deadline: Bounds the wait; by default the current journey's.

        Raises:
            LaneBusy: `queue_limit` journeys wait already, or `wait_timeout` was reached.
            DeadlineExceeded: The deadline passed first.
        """
        journey = current_journey()
        if deadline is None and journey is not None:
            deadline = journey.deadline
        if deadline is not None and deadline.passed:
            self._timed_out += 1
            raise DeadlineExceeded(f"the deadline passed before lane {self.name!r} was reached")
        permit = self.try_acquire()
        if permit is not None:
            return permit
        if self.queue_limit is not None and len(self._waiters) >= self.queue_limit:
            self._rejected += 1
            raise self._refusal(f"{len(self._waiters)} are waiting, the most that it allows")
        return await self._queue(journey, deadline)

    async def _queue(self, journey: Journey | None, deadline: Deadline | None) -> Permit:
        loop = asyncio.get_running_loop()
        waiter = _Waiter(loop, journey)
        self._waiters[waiter] = None
        timer = self._arm(loop, waiter, deadline)
        try:
            return await waiter.future
        except BaseException:
            self._withdraw(waiter)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _withdraw(self, waiter: _Waiter) -> None:
        """Take a waiter out that has left, or pass on the permit it got in the same step."""
        if waiter.future.cancelled() or not waiter.future.done():
            self._waiters.pop(waiter, None)
            self._waited(waiter)
        elif waiter.future.exception() is None:
            waiter.future.result().release()

    def _arm(
        self, loop: asyncio.AbstractEventLoop, waiter: _Waiter, deadline: Deadline | None
    ) -> asyncio.TimerHandle | None:
        limit = math.inf if self.wait_timeout is None else waiter.since + self.wait_timeout
        if deadline is not None and deadline.at < limit:
            return loop.call_at(deadline.at, self._expire, waiter, self._late)
        if self.wait_timeout is None:
            return None
        return loop.call_at(limit, self._expire, waiter, self._tired)

    def _expire(self, waiter: _Waiter, error: Callable[[], Exception]) -> None:
        if not waiter.future.done():
            del self._waiters[waiter]
            self._timed_out += 1
            self._waited(waiter)
            waiter.future.set_exception(error())

    def _late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"the deadline passed in the queue of lane {self.name!r}")

    def _tired(self) -> LaneBusy:
        return self._refusal(f"nothing came free within {self.wait_timeout:g} s")

    def _waited(self, waiter: _Waiter) -> float:
        waited = time.monotonic() - waiter.since
        if waiter.journey is not None:
            waiter.journey.ledger.wait(self.name, waited)
        return waited

    def _refusal(self, why: str) -> LaneBusy:
        return self._busy(
            f"lane {self.name!r} is busy: all {self.capacity} are in use and {why}",
            fix=self._fix,
            retry_after=self._expected_wait(),
        )

    def _expected_wait(self) -> float:
        """Return a guess, in whole seconds from 1 to 30, of when a newcomer would get in."""
        mean = self._holds.snapshot().mean
        ahead = (len(self._waiters) + 1) / (self.capacity or 1)
        return float(min(30, max(1, math.ceil(mean * ahead))))

    def _leave(self, held: float) -> None:
        self._holds.observe(held)
        if self.on_hold is not None:
            self.on_hold(held)
        self._pass_on()

    def resize(self, capacity: int) -> None:
        """Have another number of places: more wake who waits, fewer count as permits come back."""
        self.capacity = capacity
        while self._waiters and self._in_use < capacity:
            self._in_use += 1
            self._pass_on()

    def _pass_on(self) -> None:
        """Give one permit to the first waiter that still wants it, else to nobody."""
        fits = self.capacity is None or self._in_use <= self.capacity
        while self._waiters and fits:
            waiter, _ = self._waiters.popitem(last=False)
            # A loop that was closed under its waiters (a test that ended) wants nothing.
            if not waiter.future.done() and not waiter.future.get_loop().is_closed():
                self._admitted += 1
                waited = self._waited(waiter)
                self._waits.observe(waited)
                if self.on_wait is not None:
                    self.on_wait(waited)
                waiter.future.set_result(Permit(self, waiter.journey))
                return
        self._in_use -= 1

    def _first_waiter(self) -> _Waiter | None:
        while True:
            try:
                return next(iter(self._waiters), None)
            except RuntimeError:  # an exporter's thread asks while the loop changes the queue
                continue

    def snapshot(self) -> LaneSnapshot:
        """Return the lane's gauges as they stand now; any thread may ask."""
        first = self._first_waiter()
        return LaneSnapshot(
            name=self.name,
            capacity=self.capacity,
            in_use=self._in_use,
            waiting=len(self._waiters),
            longest_wait_now=0.0 if first is None else time.monotonic() - first.since,
            admitted=self._admitted,
            rejected=self._rejected,
            timed_out=self._timed_out,
            waits=self._waits.snapshot(),
            holds=self._holds.snapshot(),
        )
