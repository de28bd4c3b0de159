"""The lane for blocking calls."""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from contextvars import ContextVar

import pytest

from clearway.core.deadline import Deadline
from clearway.core.journey import Journey, travelling
from clearway.errors import (
    AsyncFunctionRefused,
    CallRaised,
    CallTimedOut,
    DeadlineExceeded,
    LaneBusy,
    NotOpen,
)
from clearway.offload.threads import Threads
from clearway.settings import OffloadSettings
from offload import errands
from support.waiting import until

pytestmark = pytest.mark.anyio

_colour: ContextVar[str] = ContextVar("colour")


async def test_a_call_runs_in_a_thread_of_ours(threads: Threads) -> None:
    """The function runs off the loop, in a named daemon thread, and its result comes back."""
    thread = await threads.run(threading.current_thread)
    assert thread is not threading.current_thread()
    assert thread.name.startswith("clearway-thread-")
    assert thread.daemon


async def test_threads_are_reused(threads: Threads) -> None:
    """Calls one after another make no more threads than run at one time."""
    for number in range(20):
        assert await threads.run(errands.add, number, 1) == number + 1
    assert 1 <= threads.snapshot().threads <= 2


async def test_an_exception_keeps_its_traceback(threads: Threads) -> None:
    """What the function raises is raised where it was awaited, with the function's line."""
    with pytest.raises(ValueError, match="no luck") as caught:
        await threads.run(errands.fail, "no luck")
    assert "errands.py" in "".join(traceback.format_exception(caught.value))


async def test_stop_iteration_comes_back(threads: Threads) -> None:
    """StopIteration, which a future refuses, becomes a RuntimeError that names it."""
    with pytest.raises(RuntimeError) as caught:
        await threads.run(errands.stop_iteration)
    assert isinstance(caught.value.__cause__, StopIteration)


async def test_system_exit_does_not_end_the_service(threads: Threads) -> None:
    """SystemExit in a thread is an error of the call, not the end of the loop."""
    with pytest.raises(CallRaised, match="SystemExit"):
        await threads.run(errands.leave, 3)


async def test_an_async_function_is_refused(threads: Threads) -> None:
    """An `async def` is a TypeError that says what to do, and so is a coroutine as a result."""
    with pytest.raises(AsyncFunctionRefused, match="await it where you are"):
        _ = await threads.run(errands.coroutine)
    with pytest.raises(TypeError, match="no event loop"):
        _ = await threads.run(lambda: errands.coroutine())
    assert threads.lane.snapshot().in_use == 0


async def test_context_is_copied(threads: Threads) -> None:
    """The thread sees the caller's context variables and does not change them."""
    _colour.set("green")

    def look_and_paint() -> str:
        seen = _colour.get()
        _colour.set("red")
        return seen

    assert await threads.run(look_and_paint) == "green"
    assert _colour.get() == "green"


async def test_the_ledger_has_wait_and_hold(threads: Threads) -> None:
    """What the call waited for and held is written into the journey."""
    journey = Journey("script")
    with travelling(journey):
        await threads.run(errands.nap, 0.02)
    assert journey.ledger["threads"].holds == 1
    assert journey.ledger["threads"].held >= 0.02


async def test_a_timeout_keeps_the_slot_until_the_thread_ends(threads: Threads) -> None:
    """The caller goes on at its timeout, the call is named as abandoned, its slot stays taken."""
    release = threading.Event()
    with pytest.raises(CallTimedOut, match=r"Event\.wait") as caught:
        await threads.run(release.wait, 30.0, timeout=0.05)
    assert "timeout" in str(caught.value)
    snapshot = threads.snapshot()
    assert snapshot.lane.in_use == 1
    assert [call.name for call in snapshot.abandoned] == ["threading:Event.wait"]
    release.set()
    await until(lambda: threads.lane.snapshot().in_use == 0)
    assert threads.snapshot().abandoned == ()
    assert threads.snapshot().abandoned_total == 1


async def test_cancelling_keeps_the_slot_until_the_thread_ends(threads: Threads) -> None:
    """A cancelled caller leaves at once; the next caller waits for the thread all the same."""
    release = threading.Event()
    tasks = [asyncio.create_task(threads.run(release.wait, 30.0)) for _ in range(2)]
    await until(lambda: threads.lane.snapshot().in_use == 2)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=10)
    assert all(task.cancelled() for task in tasks)
    late = asyncio.create_task(threads.run(errands.add, 1, 1))
    await asyncio.sleep(0.05)
    assert not late.done()
    assert threads.snapshot().abandoned_total == 2
    release.set()
    assert await late == 2


async def test_the_timeout_counts_the_wait(threads: Threads) -> None:
    """A call that never got a thread times out as well, and says it is its own timeout."""
    release = threading.Event()
    tasks = [asyncio.create_task(threads.run(release.wait, 30.0)) for _ in range(2)]
    await until(lambda: threads.lane.snapshot().in_use == 2)
    ran: list[int] = []
    with pytest.raises(CallTimedOut):
        await threads.run(ran.append, 1, timeout=0.05)
    release.set()
    await asyncio.gather(*tasks)
    assert ran == []
    assert threads.lane.snapshot().timed_out == 1


async def test_the_journeys_deadline_bounds_the_call(threads: Threads) -> None:
    """The deadline of the request ends the wait, and the error says whose it was."""
    release = threading.Event()
    journey = Journey("script", deadline=Deadline.after(0.05))
    with travelling(journey), pytest.raises(DeadlineExceeded, match=r"Event\.wait"):
        await threads.run(release.wait, 30.0, timeout=20)
    release.set()


async def test_a_timeout_error_of_the_function_is_its_own(threads: Threads) -> None:
    """A TimeoutError that the function raises is not taken for the call's timeout."""

    def time_out() -> None:
        raise TimeoutError("the socket's")

    with pytest.raises(TimeoutError, match="the socket's"):
        await threads.run(time_out, timeout=20)


async def test_the_queue_is_bounded(threads: Threads) -> None:
    """One call more than may wait is refused at once, with the setting to change."""
    release = threading.Event()
    tasks = [asyncio.create_task(threads.run(release.wait, 30.0)) for _ in range(5)]
    await until(lambda: threads.lane.snapshot().waiting == 3)
    with pytest.raises(LaneBusy, match=r"offload\.threads"):
        await threads.run(errands.add, 1)
    release.set()
    assert await asyncio.gather(*tasks) == [True] * 5


async def test_waiting_calls_run_in_order(threads: Threads) -> None:
    """Calls get a thread in the order in which they came."""
    part = Threads(OffloadSettings(threads=1))
    await part.open()
    order: list[int] = []
    await asyncio.gather(*(part.run(order.append, number) for number in range(30)))
    await part.close()
    assert order == list(range(30))


async def test_threads_are_gone_after_close() -> None:
    """Closing ends every thread, and a later call says that nothing is open."""
    part = Threads(OffloadSettings(threads=3))
    await part.open()
    names = await asyncio.gather(*(part.run(_name_after, 0.05) for _ in range(3)))
    await part.close()
    assert set(names).isdisjoint(id(thread) for thread in threading.enumerate())
    assert part.snapshot().threads == 0
    with pytest.raises(NotOpen):
        await part.run(errands.add, 1)
    assert part.lane.snapshot().in_use == 0


async def test_close_does_not_wait_for_ever() -> None:
    """A call that does not return holds up the close for a bounded time only."""
    part = Threads(OffloadSettings(threads=1))
    await part.open()
    release = threading.Event()
    with pytest.raises(CallTimedOut):
        await part.run(release.wait, 60.0, timeout=0.01)
    began = time.monotonic()
    await part.close()
    assert time.monotonic() - began < 20
    assert part.lane.snapshot().in_use == 1
    release.set()
    await until(lambda: part.lane.snapshot().in_use == 0)


async def test_a_part_opens_again() -> None:
    """After a close the part can be opened and used again."""
    part = Threads(OffloadSettings(threads=1))
    for _ in range(3):
        await part.open()
        assert await part.run(errands.add, 2, 3) == 5
        await part.close()


def test_a_call_that_outlives_its_loop_gives_its_slot_back() -> None:
    """A thread that ends after the loop was closed raises nothing and frees its slot."""
    part = Threads(OffloadSettings(threads=1))
    release = threading.Event()

    async def abandon() -> None:
        await part.open()
        with pytest.raises(CallTimedOut):
            await part.run(release.wait, 30.0, timeout=0.01)

    asyncio.run(abandon())
    release.set()
    give_up = time.monotonic() + 10
    while part.lane.snapshot().in_use and time.monotonic() < give_up:
        time.sleep(0.002)
    assert part.lane.snapshot().in_use == 0

    async def close() -> None:
        await part.close()

    asyncio.run(close())


def _name_after(seconds: float) -> int:
    time.sleep(seconds)
    return id(threading.current_thread())
