"""The lane for CPU work: what comes back, and what is refused."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import pickle
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from clearway.core.deadline import Deadline
from clearway.core.journey import Journey, travelling
from clearway.errors import (
    AsyncFunctionRefused,
    CallRaised,
    LaneBusy,
    NotOpen,
    NotPicklable,
    WorkerUnfit,
)
from clearway.offload.packing import RemoteTraceback
from clearway.offload.processes import Processes
from clearway.settings import OffloadSettings
from offload import errands
from support.process import workers

pytestmark = pytest.mark.anyio


async def test_a_call_runs_in_another_process(processes: Processes) -> None:
    """The function runs in a child of this process, and its result comes back."""
    pid = await processes.run(os.getpid)
    assert pid != os.getpid()
    assert psutil.Process(pid).ppid() == os.getpid()


async def test_nothing_starts_before_the_first_call(processes: Processes) -> None:
    """Opening starts no process."""
    assert workers() == []
    await processes.run(os.getpid)
    assert workers() != []


async def test_keywords_and_methods_travel(processes: Processes) -> None:
    """Partials, bound methods and builtins are called like plain functions."""
    assert await processes.run(functools.partial(errands.add, third=4), 1, 2) == 7
    assert await processes.run(errands.Sum(5).plus, 1) == 6
    assert await processes.run(sorted, [3, 1, 2]) == [1, 2, 3]


async def test_a_worker_stays_warm(processes: Processes) -> None:
    """Calls one after another use one worker, and one spare is kept while it is busy."""
    pids = {await processes.run(os.getpid) for _ in range(20)}
    assert len(pids) == 1
    assert len(workers()) <= 2


async def test_calls_run_side_by_side(processes: Processes) -> None:
    """As many calls run at one time as there are processes."""
    pids = await asyncio.gather(*(processes.run(_pid_after, 0.3) for _ in range(2)))
    assert len(set(pids)) == 2


async def test_an_exception_comes_back_as_itself(processes: Processes) -> None:
    """What the function raises is raised here, and its cause shows the line in the worker."""
    with pytest.raises(ValueError, match="no luck") as caught:
        await processes.run(errands.fail, "no luck")
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    text = "".join(traceback.format_exception(caught.value))
    assert "errands.py" in text
    assert "clearway/offload/child.py" not in text


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (errands.fail_oddly, "Odd: 1 and 2"),
        (errands.fail_clingily, "Clingy: <unlocked"),
        (functools.partial(errands.leave, 3), "SystemExit: 3"),
    ],
)
async def test_what_cannot_travel_back_is_told(
    processes: Processes, fn: functools.partial[None], says: str
) -> None:
    """An exception that cannot travel is told by type, message and traceback; the worker lives."""
    pid = await processes.run(os.getpid)
    with pytest.raises(CallRaised, match=says) as caught:
        await processes.run(fn)
    assert "errands.py" in str(caught.value.__cause__)
    assert await processes.run(os.getpid) == pid


async def test_stop_iteration_comes_back(processes: Processes) -> None:
    """StopIteration becomes a RuntimeError that names it."""
    with pytest.raises(RuntimeError) as caught:
        await processes.run(errands.stop_iteration)
    assert isinstance(caught.value.__cause__, StopIteration)


async def test_async_functions_are_refused(processes: Processes) -> None:
    """An `async def` is refused before it travels, a coroutine as a result after the call."""
    with pytest.raises(AsyncFunctionRefused, match="await it where you are"):
        _ = await processes.run(errands.coroutine)
    with pytest.raises(AsyncFunctionRefused, match="errands:promise returned a coroutine"):
        await processes.run(errands.promise)


async def test_functions_without_a_name_are_refused(processes: Processes) -> None:
    """Lambdas and closures are refused with the way out, and start no process."""

    def closure() -> None:
        """Do nothing."""

    with pytest.raises(NotPicklable, match=r"is a lambda(.|\n)*write it as a `def`"):
        await processes.run(lambda: 1)
    with pytest.raises(NotPicklable, match=r"inside a function(.|\n)*move it to the top level"):
        await processes.run(closure)
    with pytest.raises(NotPicklable, match="inside a function"):
        await processes.run(functools.partial(closure))
    assert processes.snapshot().started == 0


async def test_a_decorated_function_is_refused(processes: Processes) -> None:
    """A function that its module knows by another object is refused with the reason."""
    original = errands.add
    replaced = functools.wraps(original)(functools.partial(original))
    impostor = type("Impostor", (), {})
    impostor.__module__, impostor.__qualname__ = errands.__name__, "add"
    assert replaced is not original
    with pytest.raises(NotPicklable, match=r"offload\.errands:add(.|\n)*decorator"):
        await processes.run(impostor)


async def test_an_argument_that_cannot_travel_is_named(processes: Processes) -> None:
    """The refusal says which argument of which function it is."""
    held = errands.lock()
    with pytest.raises(NotPicklable, match=r"argument 2 of .*errands:add \(lock\)"):
        await processes.run(errands.add, 1, held)  # type: ignore[arg-type]  # what is tested


async def test_a_result_that_cannot_travel_is_named(processes: Processes) -> None:
    """The refusal names the function and the type, and the worker goes on."""
    pid = await processes.run(os.getpid)
    with pytest.raises(NotPicklable, match=r"result of .*errands:lock \(lock\)"):
        await processes.run(errands.lock)
    with pytest.raises(NotPicklable, match=r"result of .*errands:grenade cannot be unpickled"):
        await processes.run(errands.grenade)
    assert await processes.run(os.getpid) == pid


async def test_large_bytes_make_the_round_trip(processes: Processes) -> None:
    """20 MB of bytes go there and back unchanged, inside other objects as well."""
    data = os.urandom(20_000_000)
    assert await processes.run(errands.echo, data) == data
    half = data[:1_000_000]
    assert await processes.run(errands.echo, {"a": [half, bytearray(half)]}) == {"a": [half, half]}


async def longest_gap(call: Awaitable[object]) -> float:
    """Return the longest time in seconds for which the loop ran nothing during a call."""
    loop = asyncio.get_running_loop()
    moments = [time.perf_counter()]
    done = False

    def tick() -> None:
        moments.append(time.perf_counter())
        if not done:
            loop.call_later(0.001, tick)

    tick()
    await call
    done = True
    tick()
    return max(later - earlier for earlier, later in itertools.pairwise(moments))


@pytest.mark.parametrize("fn", [len, errands.echo])
async def test_much_is_pickled_off_the_loop(
    processes: Processes, fn: Callable[[list[dict[str, str]]], object]
) -> None:
    """The loop goes on while a large graph of objects goes out, and while one comes in."""
    rows = [{"number": str(n), "name": f"name {n}"} for n in range(200_000)]
    began = time.perf_counter()
    pickle.loads(pickle.dumps(rows, 5))
    held = time.perf_counter() - began
    await processes.run(os.getpid)
    gaps = [await longest_gap(processes.run(fn, rows)) for _ in range(3)]
    # On the loop it would be half of that time at least, each time.
    assert min(gaps) < held / 3


async def test_waiting_calls_run_in_order(tmp_path: Path) -> None:
    """Calls get a process in the order in which they came."""
    part = Processes(OffloadSettings(processes=1, nice=0))
    await part.open()
    finished: list[int] = []

    async def call(number: int) -> None:
        finished.append(await part.run(errands.add, number))

    await asyncio.gather(*(call(number) for number in range(30)))
    await part.close()
    assert finished == list(range(30))


async def test_the_queue_is_bounded(tmp_path: Path) -> None:
    """One call more than may wait is refused at once, with the setting to change."""
    part = Processes(OffloadSettings(processes=1, queue_limit=2, nice=0))
    await part.open()
    go = tmp_path / "go"
    tasks = [asyncio.create_task(part.run(errands.wait_for, str(go))) for _ in range(3)]
    async with asyncio.timeout(10):
        while part.lane.snapshot().waiting < 2:
            await asyncio.sleep(0.005)
    with pytest.raises(LaneBusy, match=r"offload\.processes"):
        await part.run(errands.add, 1)
    go.touch()
    assert len(set(await asyncio.gather(*tasks))) == 1
    await part.close()


async def test_workers_are_recycled(tmp_path: Path) -> None:
    """After `max_tasks_per_process` calls a worker ends and another goes on."""
    part = Processes(OffloadSettings(processes=1, max_tasks_per_process=3, nice=0))
    await part.open()
    pids = [await part.run(os.getpid) for _ in range(9)]
    assert [len(set(pids[i : i + 3])) for i in (0, 3, 6)] == [1, 1, 1]
    assert len(set(pids)) == 3
    assert part.snapshot().recycled == 3
    assert part.snapshot().died == 0
    await part.close()
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_the_journey_travels(processes: Processes) -> None:
    """The worker sees the request's id, route and deadline; outside a journey it sees none."""
    journey = Journey("request", id="abc", route="/x", deadline=Deadline.after(60))
    with travelling(journey):
        assert await processes.run(errands.journey_of_the_call) == ("abc", "/x", True)
    assert await processes.run(errands.journey_of_the_call) is None
    assert journey.ledger["processes"].holds == 1


async def test_the_initializer_runs_once_in_each_worker() -> None:
    """The initializer has run before the first call, once, with its arguments."""
    part = Processes(
        OffloadSettings(processes=1, nice=0), initializer="offload.errands:set_up", initargs=(7,)
    )
    await part.open()
    assert await part.run(errands.remember, 8) == [7, 8]
    assert await part.run(errands.remember, 9) == [7, 8, 9]
    await part.close()


@pytest.mark.parametrize(
    ("initializer", "says"),
    [
        ("offload.errands:fail_to_set_up", "no set-up today"),
        ("offload.errands:missing", "missing"),
        ("offload.missing:set_up", r"offload\.missing"),
    ],
)
async def test_a_failing_initializer_is_told(initializer: str, says: str) -> None:
    """Every call says that no worker can be made ready, and why; none waits for ever."""
    part = Processes(OffloadSettings(processes=1, nice=0), initializer=initializer)
    await part.open()
    for _ in range(2):
        with pytest.raises(WorkerUnfit, match=says):
            await part.run(errands.add, 1)
    await part.close()
    assert workers() == []


async def test_arguments_of_the_initializer_are_checked() -> None:
    """Arguments that cannot travel are refused when the part is made."""
    with pytest.raises(NotPicklable, match=r"initializer offload\.errands:set_up"):
        Processes(
            OffloadSettings(), initializer="offload.errands:set_up", initargs=(errands.lock(),)
        )


async def test_a_worker_imports_only_what_the_function_needs(processes: Processes) -> None:
    """Neither the framework nor this test is imported into a worker process."""
    loaded = await processes.run(errands.modules)
    assert "offload.errands" in loaded
    heavy = {"fastapi", "starlette", "pydantic", "sqlalchemy", "structlog", "pytest"}
    assert heavy.isdisjoint(loaded)
    assert await processes.run(_version) != ""


async def test_workers_are_nice_and_know_the_path() -> None:
    """The niceness of the settings and this process's import path hold in a worker."""
    part = Processes(OffloadSettings(processes=1, nice=3))
    await part.open()
    assert await part.run(errands.niceness) == min(19, os.nice(0) + 3)
    assert await part.run(errands.path_of_python) == sys.path
    await part.close()


async def test_after_close_nothing_is_open() -> None:
    """A call after the close is refused, and the part opens again."""
    part = Processes(OffloadSettings(processes=1, nice=0))
    for _ in range(2):
        await part.open()
        assert await part.run(errands.add, 2, 3) == 5
        await part.close()
        with pytest.raises(NotOpen, match="after the close"):
            await part.run(errands.add, 1)
    assert workers() == []


def _pid_after(seconds: float) -> int:
    errands.nap(seconds)
    return os.getpid()


def _version() -> str:
    """Open the package itself, which a worker has not done yet."""
    import clearway

    return clearway.__version__
