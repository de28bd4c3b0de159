"""Lanes: never above capacity, strict order, no wake-up lost, whatever is cancelled."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearway.core.deadline import Deadline
from clearway.core.journey import Journey, travelling
from clearway.core.lane import Lane
from clearway.errors import DeadlineExceeded, LaneBusy, PoolBusy

pytestmark = pytest.mark.anyio


async def spin(steps: int = 5) -> None:
    """Let every task that can run do so."""
    for _ in range(steps):
        await asyncio.sleep(0)


async def test_a_lane_admits_up_to_its_capacity() -> None:
    """Permits are given at once while there are any, then not."""
    lane = Lane("db", 2)
    with await lane.acquire(), await lane.acquire():
        assert lane.try_acquire() is None
        assert lane.snapshot().in_use == 2

    assert lane.snapshot().in_use == 0
    assert lane.snapshot().admitted == 2


async def test_waiters_are_admitted_in_the_order_in_which_they_came() -> None:
    """Nobody overtakes, not even a newcomer at the moment of a release."""
    lane = Lane("db", 1)
    order: list[object] = []

    async def pass_through(name: object) -> None:
        with await lane.acquire():
            order.append(name)
            await asyncio.sleep(0)

    permit = await lane.acquire()
    tasks = [asyncio.create_task(pass_through(number)) for number in range(5)]
    await spin()
    permit.release()
    tasks.append(asyncio.create_task(pass_through("newcomer")))
    await asyncio.gather(*tasks)

    assert order == [0, 1, 2, 3, 4, "newcomer"]


async def test_one_waiter_too_many_is_refused_at_once() -> None:
    """A full queue refuses with the lane's own error, a fix and a time to come back."""
    lane = Lane("db", 1, queue_limit=1, busy=PoolBusy, fix="ask for fewer")
    permit = await lane.acquire()
    waiter = asyncio.create_task(lane.acquire())
    await spin()

    with pytest.raises(
        PoolBusy, match=r"'db' is busy: all 1 .* 1 are waiting[^$]*ask for fewer"
    ) as e:
        await lane.acquire()

    assert e.value.retry_after == 1
    assert lane.snapshot().rejected == 1
    permit.release()
    (await waiter).release()


async def test_a_wait_ends_at_its_limit_and_leaves_the_queue() -> None:
    """The wait limit raises, counts, and the place in the queue is given up."""
    lane = Lane("db", 1, wait_timeout=0.02)
    permit = await lane.acquire()

    with pytest.raises(LaneBusy, match=r"within 0\.02 s"):
        await lane.acquire()

    snapshot = lane.snapshot()
    assert (snapshot.timed_out, snapshot.waiting, snapshot.in_use) == (1, 0, 1)
    permit.release()
    assert lane.snapshot().in_use == 0


async def test_the_journeys_deadline_bounds_the_wait() -> None:
    """An earlier deadline wins over the wait limit, and is told apart from it."""
    lane = Lane("db", 1, wait_timeout=60)
    permit = await lane.acquire()

    deadline = Deadline.after(0.02)
    with travelling(Journey("request", deadline=deadline)):
        with pytest.raises(DeadlineExceeded, match="in the queue of lane 'db'"):
            await lane.acquire()
        while not deadline.passed:  # uvloop's timers are early by up to a millisecond
            await asyncio.sleep(0.001)
        with pytest.raises(DeadlineExceeded, match="before lane 'db' was reached"):
            await lane.acquire()

    permit.release()
    assert lane.snapshot().timed_out == 2


async def test_a_waiter_cancelled_after_being_admitted_passes_its_permit_on() -> None:
    """The permit that was given in the same step as the cancellation is not lost."""
    lane = Lane("db", 1)
    permit = await lane.acquire()
    first = asyncio.create_task(lane.acquire())
    second = asyncio.create_task(lane.acquire())
    await spin()

    permit.release()
    first.cancel()
    await spin()

    assert first.cancelled()
    assert second.done()
    second.result().release()
    assert lane.snapshot().in_use == 0


async def test_a_permit_is_given_back_once() -> None:
    """Releasing twice frees one place, not two."""
    lane = Lane("db", 1)
    permit = await lane.acquire()

    permit.release()
    permit.release()

    assert lane.snapshot().in_use == 0


async def test_a_place_left_behind_is_in_the_ledger_and_still_taken() -> None:
    """A caller that gives up has the time in its ledger, once; the place is freed later."""
    lane = Lane("threads", 1)
    journey = Journey("request")
    with travelling(journey):
        permit = await lane.acquire()
    await asyncio.sleep(0.01)

    permit.leave_behind()

    assert lane.snapshot().in_use == 1
    permit.release()
    assert lane.snapshot().in_use == 0
    assert journey.ledger["threads"].holds == 1
    assert journey.ledger["threads"].held > 0


async def test_waits_and_holds_are_written_into_the_journeys_ledger() -> None:
    """The journey that waited and held has both in its ledger; the lane has them too."""
    lane = Lane("db", 1)
    journey = Journey("request")
    permit = await lane.acquire()

    async def use() -> None:
        with travelling(journey), await lane.acquire():
            await asyncio.sleep(0.01)

    task = asyncio.create_task(use())
    await asyncio.sleep(0.01)
    permit.release()
    await task

    entry = journey.ledger["db"]
    assert (entry.waits, entry.holds) == (1, 1)
    assert entry.waited > 0
    assert entry.held > 0
    snapshot = lane.snapshot()
    assert snapshot.waits.longest == pytest.approx(entry.waited, abs=0.005)
    assert snapshot.holds.count == 2


async def test_a_snapshot_says_how_long_the_first_waiter_has_waited() -> None:
    """The longest wait now is that of the first in the queue."""
    lane = Lane("db", 1)
    assert lane.snapshot().longest_wait_now == 0.0
    with await lane.acquire():
        waiter = asyncio.create_task(lane.acquire())
        await asyncio.sleep(0.01)
        assert lane.snapshot().waiting == 1
        assert lane.snapshot().longest_wait_now > 0
    (await waiter).release()


async def test_a_lane_without_capacity_counts_and_never_waits() -> None:
    """The lane of requests has no bound but knows how many are in flight."""
    lane = Lane("requests")
    permits = [await lane.acquire() for _ in range(100)]

    assert lane.snapshot().in_use == 100
    for permit in permits:
        permit.release()
    assert lane.snapshot().in_use == 0


def test_a_lane_outlives_the_loop_that_its_waiters_died_with() -> None:
    """A waiter of a closed loop does not swallow the permit (TestClient makes a loop a request)."""
    lane = Lane("db", 1)
    loop = asyncio.new_event_loop()
    permit = loop.run_until_complete(lane.acquire())
    waiter = lane.acquire()
    # A step by hand: asyncio would cancel a task, and an orderly end is not what is tested.
    with suppress(StopIteration):
        asyncio.events._set_running_loop(loop)
        try:
            waiter.send(None)
        finally:
            asyncio.events._set_running_loop(None)
    loop.close()

    permit.release()

    assert lane.try_acquire() is not None
    waiter.close()


actions = st.lists(
    st.tuples(
        st.sampled_from(["enter", "enter", "enter", "leave", "cancel", "both", "step", "deadline"]),
        st.integers(min_value=0, max_value=20),
    ),
    max_size=80,
)


@settings(max_examples=150, deadline=None)
@given(actions, st.integers(min_value=1, max_value=4), st.integers(min_value=0, max_value=6))
def test_the_invariants_hold_under_random_cancellation(
    script: list[tuple[str, int]], capacity: int, queue_limit: int
) -> None:
    """Never above capacity, order kept, and at the end nobody sleeps beside a free place."""
    asyncio.run(_random_walk(script, capacity, queue_limit))


async def _random_walk(script: list[tuple[str, int]], capacity: int, queue_limit: int) -> None:
    lane = Lane("any", capacity, queue_limit=queue_limit)
    inside: dict[int, asyncio.Event] = {}
    arrived: list[int] = []
    admitted: list[tuple[float, int]] = []
    tasks: dict[int, asyncio.Task[None]] = {}

    async def visit(number: int, deadline: Deadline | None) -> None:
        leave = asyncio.Event()
        arrived.append(number)
        try:
            permit = await lane.acquire(deadline)
        except (LaneBusy, DeadlineExceeded):
            return
        with permit:
            admitted.append((permit.since, number))
            inside[number] = leave
            assert lane.snapshot().in_use <= capacity
            assert len(inside) <= capacity
            try:
                await leave.wait()
            finally:
                del inside[number]

    for turn, (action, pick) in enumerate(script):
        waiting = [n for n, task in tasks.items() if not task.done()]
        if action in {"enter", "deadline"}:
            deadline = Deadline.after(0.0005) if action == "deadline" else None
            tasks[turn] = asyncio.create_task(visit(turn, deadline))
        if action in {"leave", "both"} and inside:
            list(inside.values())[pick % len(inside)].set()
        if action in {"cancel", "both"} and waiting:
            tasks[waiting[pick % len(waiting)]].cancel()
        if action == "step":
            await asyncio.sleep(0.001 if pick == 0 else 0)
    while any(not task.done() for task in tasks.values()):
        await spin()
        if not inside:
            break
        for leave in list(inside.values()):
            leave.set()
    results = await asyncio.gather(*tasks.values(), return_exceptions=True)

    assert [r for r in results if isinstance(r, Exception)] == []
    snapshot = lane.snapshot()
    assert (snapshot.in_use, snapshot.waiting) == (0, 0)
    assert snapshot.admitted >= len(admitted)
    order = [number for _, number in sorted(admitted)]
    assert order == [number for number in arrived if number in order]
