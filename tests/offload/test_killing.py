"""Worker processes that are killed, die, or outlive what they belong to."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

from clearway.core.deadline import Deadline
from clearway.core.journey import Journey, travelling
from clearway.errors import CallTimedOut, DeadlineExceeded, NotOpen, WorkerKilled
from clearway.offload.processes import Processes
from clearway.settings import OffloadSettings
from offload import errands
from support.process import workers
from support.waiting import until

pytestmark = pytest.mark.anyio


def is_gone(pid: int) -> bool:
    """Say whether a process has ended, a zombie of somebody else's included."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def all_gone(pids: Iterable[int]) -> bool:
    """Say whether all of them have ended."""
    return all(is_gone(pid) for pid in pids)


async def number_in(path: Path) -> int:
    """Return the number that a worker writes to a file, once it is there."""
    await until(path.exists)
    return int(path.read_text())


@pytest.mark.parametrize("fn", [errands.spin, errands.count_in_c])
async def test_a_timeout_kills(processes: Processes, fn: Callable[[], int | None]) -> None:
    """Neither a loop in Python nor one C call outlives the timeout, and the next call works."""
    pid = await processes.run(os.getpid)
    with pytest.raises(CallTimedOut, match=r"0\.2 s"):
        await processes.run(fn, timeout=0.2)
    assert await processes.run(errands.add, 1, 1) == 2
    await until(lambda: is_gone(pid))
    assert processes.snapshot().given_up == 1
    assert processes.snapshot().died == 0


async def test_the_journeys_deadline_kills(processes: Processes) -> None:
    """The deadline of the request kills as well, and the error says whose it was."""
    await processes.run(os.getpid)
    journey = Journey("script", deadline=Deadline.after(0.2))
    with travelling(journey), pytest.raises(DeadlineExceeded, match="errands:spin"):
        await processes.run(errands.spin, timeout=30)
    assert processes.snapshot().given_up == 1


async def test_cancelling_kills(processes: Processes, tmp_path: Path) -> None:
    """The process of a cancelled caller is killed, and the next call works."""
    path = tmp_path / "pid"
    task = asyncio.create_task(processes.run(errands.announce_and_spin, str(path)))
    pid = await number_in(path)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: is_gone(pid))
    assert await processes.run(errands.add, 1, 1) == 2


async def test_grandchildren_die_too(processes: Processes, tmp_path: Path) -> None:
    """What the call had started is killed with it."""
    path = tmp_path / "pid"
    with pytest.raises(CallTimedOut):
        await processes.run(errands.start_sleep_and_nap, str(path), 60.0, timeout=1.5)
    grandchild = await number_in(path)
    await until(lambda: is_gone(grandchild))


async def test_a_kill_costs_no_cold_start(processes: Processes) -> None:
    """A warm spare takes over from a worker that was killed at its deadline."""
    await processes.run(os.getpid)
    await until(lambda: len(processes.snapshot().idle) == 2)
    spare = processes.snapshot().idle[0]
    with pytest.raises(CallTimedOut):
        await processes.run(errands.spin, timeout=0.05)
    assert await processes.run(os.getpid) == spare


async def test_a_killed_worker_fails_only_its_own_call(
    processes: Processes, tmp_path: Path
) -> None:
    """SIGKILL in mid-call is told with pid and signal, and the neighbour finishes."""
    path, go = tmp_path / "pid", tmp_path / "go"
    neighbour = asyncio.create_task(processes.run(errands.wait_for, str(go)))
    victim = asyncio.create_task(processes.run(errands.announce_and_spin, str(path)))
    pid = await number_in(path)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerKilled, match=rf"{pid} died .*announce_and_spin: killed by SIGKILL"):
        await victim
    go.touch()
    assert await neighbour != pid
    assert await processes.run(errands.add, 1, 1) == 2
    assert processes.snapshot().died == 1


async def test_an_exit_code_is_told(processes: Processes) -> None:
    """A function that ends its process fails its call, with the exit code."""
    with pytest.raises(WorkerKilled, match="exit code 7"):
        await processes.run(errands.vanish, 7)


async def test_a_death_is_seen_though_the_socket_is_held_open(
    processes: Processes, tmp_path: Path
) -> None:
    """A worker that forked and died is noticed, and what it forked is killed."""
    path = tmp_path / "pid"
    async with asyncio.timeout(15):
        with pytest.raises(WorkerKilled, match="SIGKILL"):
            await processes.run(errands.fork_and_vanish, str(path))
    forked = await number_in(path)
    await until(lambda: is_gone(forked))


async def test_an_idle_worker_that_was_killed_is_replaced(processes: Processes) -> None:
    """No call fails for a worker killed while idle, seen in time or not."""
    for _ in range(10):
        await processes.run(os.getpid)
        await until(lambda: len(processes.snapshot().idle) == 2)
        for pid in processes.snapshot().idle:
            os.kill(pid, signal.SIGKILL)
        # At once: the loop has not had a chance to see it.
        assert await processes.run(errands.add, 1, 1) == 2
    assert processes.snapshot().died == 20


async def test_idle_workers_that_were_killed_are_noticed(processes: Processes) -> None:
    """When the last idle worker is killed it is replaced before the next call asks for one."""
    await processes.run(os.getpid)
    await until(lambda: len(processes.snapshot().idle) == 2)
    killed = processes.snapshot().idle
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    await until(lambda: processes.snapshot().died == 2)
    await until(lambda: len(processes.snapshot().idle) == 1)
    assert await processes.run(os.getpid) not in killed


async def test_a_call_that_had_not_begun_runs_on_another_worker(
    processes: Processes, tmp_path: Path
) -> None:
    """A worker stopped before the call and killed after it was sent: run once, elsewhere."""
    path = tmp_path / "lines"
    pid = await processes.run(os.getpid)
    os.kill(pid, signal.SIGSTOP)
    task = asyncio.create_task(processes.run(errands.append_line, str(path)))
    await until(lambda: pid in processes.snapshot().busy)
    os.kill(pid, signal.SIGKILL)
    assert await task != pid
    assert path.read_text().splitlines() == ["called"]
    assert processes.snapshot().retried == 1


async def test_a_large_call_to_a_stopped_worker_is_bounded(processes: Processes) -> None:
    """A worker that takes no bytes is killed at the timeout like any other."""
    pid = await processes.run(os.getpid)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(CallTimedOut):
        await processes.run(len, bytes(20_000_000), timeout=0.5)
    await until(lambda: is_gone(pid))
    assert await processes.run(errands.add, 1, 1) == 2


async def test_a_worker_that_dies_while_it_is_written_to(processes: Processes) -> None:
    """A worker killed with half a call in its socket: the call runs on another."""
    pid = await processes.run(os.getpid)
    os.kill(pid, signal.SIGSTOP)
    task = asyncio.create_task(processes.run(len, bytes(20_000_000)))
    await until(lambda: pid in processes.snapshot().busy)
    await asyncio.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    assert await task == 20_000_000


async def test_random_kills_under_load() -> None:
    """Of many calls only those in killed workers fail, and nothing is left in the lane."""
    part = Processes(OffloadSettings(processes=2, queue_limit=1000, nice=0))
    await part.open()
    dice = random.Random(4)
    kills = 0

    async def call(number: int) -> bool:
        try:
            return await part.run(errands.nap, 0.01, number) == number
        except WorkerKilled:
            return False

    tasks = [asyncio.create_task(call(number)) for number in range(250)]
    while kills < 100 and not all(task.done() for task in tasks):
        snapshot = part.snapshot()
        if pids := [*snapshot.busy, *snapshot.idle]:
            os.kill(dice.choice(pids), signal.SIGKILL)
            kills += 1
        await asyncio.sleep(0.02)
        if len(tasks) < 2000 and sum(not task.done() for task in tasks) < 10:
            tasks += [asyncio.create_task(call(number)) for number in range(50)]
    outcomes = await asyncio.gather(*tasks)
    assert kills == 100
    assert outcomes.count(False) <= part.snapshot().died <= kills
    assert outcomes.count(False) > 0
    assert part.lane.snapshot().in_use == 0
    assert await part.run(errands.add, 1, 1) == 2
    await part.close()
    assert workers() == []


async def test_random_cancellation_leaks_nothing() -> None:
    """Callers that leave at any moment leave no slot taken and no process too many."""
    part = Processes(OffloadSettings(processes=2, queue_limit=1000, nice=0))
    await part.open()
    dice = random.Random(5)

    async def call() -> None:
        await part.run(errands.nap, dice.random() * 0.01, timeout=dice.random() * 0.4 + 0.01)

    tasks = [asyncio.create_task(call()) for _ in range(80)]
    for task in dice.sample(tasks, 40):
        await asyncio.sleep(0.004)
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert part.lane.snapshot().in_use == 0
    assert await asyncio.gather(*(part.run(errands.add, 1) for _ in range(4))) == [1] * 4
    assert len(part.snapshot().idle) <= 3
    await part.close()
    assert workers() == []


async def test_close_ends_busy_workers(tmp_path: Path) -> None:
    """Closing while calls run is bounded, fails them by name, and leaves no process."""
    part = Processes(OffloadSettings(processes=2, nice=0))
    await part.open()
    path = tmp_path / "pid"
    running = asyncio.create_task(part.run(errands.announce_and_spin, str(path)))
    await number_in(path)
    starting = asyncio.create_task(part.run(errands.spin))
    waiting = asyncio.create_task(part.run(errands.spin))
    await asyncio.sleep(0)
    began = time.monotonic()
    await part.close()
    assert time.monotonic() - began < 10
    with pytest.raises(WorkerKilled, match="Clearway was closed"):
        await running
    for task in (starting, waiting):
        with pytest.raises((WorkerKilled, NotOpen)):
            await task
    assert workers() == []
    assert part.lane.snapshot().in_use == 0


async def test_close_while_the_first_worker_starts() -> None:
    """Closing in the middle of a start leaves no process and no descriptor."""
    part = Processes(OffloadSettings(processes=2, nice=0))
    await part.open()
    before = psutil.Process().num_fds()
    for pause in (0, 0.001, 0.005, 0.02):
        await part.open()
        task = asyncio.create_task(part.run(errands.add, 1))
        await asyncio.sleep(pause)
        await part.close()
        await asyncio.gather(task, return_exceptions=True)
        assert workers() == []
    assert psutil.Process().num_fds() <= before


async def test_nothing_leaks_from_call_to_call(processes: Processes) -> None:
    """A hundred kills and restarts leave no descriptor and no process behind."""
    await processes.run(os.getpid)
    await until(lambda: len(processes.snapshot().idle) == 2)
    before = psutil.Process().num_fds()
    for _ in range(20):
        with pytest.raises(CallTimedOut):
            await processes.run(errands.spin, timeout=0.02)
    await until(lambda: len(processes.snapshot().idle) >= 1)
    await until(lambda: len(workers()) <= 2)
    assert psutil.Process().num_fds() <= before


async def test_signals_of_the_terminal_do_not_end_workers(processes: Processes) -> None:
    """SIGINT and SIGTERM, which service managers send to a whole group, leave workers alone."""
    pid = await processes.run(os.getpid)
    task = asyncio.create_task(processes.run(errands.nap, 0.3, 5))
    await until(lambda: pid in processes.snapshot().busy)
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    assert await task == 5
    assert await processes.run(os.getpid) == pid


_PARENT = """
import asyncio, os, sys
from offload import errands
from clearway.offload.processes import Processes
from clearway.settings import OffloadSettings

async def main(folder):
    part = Processes(OffloadSettings(processes=3, nice=0))
    await part.open()
    calls = [
        asyncio.ensure_future(part.run(errands.announce_and_spin, folder + "/spin")),
        asyncio.ensure_future(part.run(errands.start_sleep_and_nap, folder + "/sleep", 600.0)),
        asyncio.ensure_future(part.run(errands.count_in_c)),
    ]
    await asyncio.sleep(1.5)
    while not os.path.exists(folder + "/sleep") or not os.path.exists(folder + "/spin"):
        await asyncio.sleep(0.01)
    print(*part.snapshot().busy, *part.snapshot().idle, flush=True)
    if len(sys.argv) > 2:
        if os.fork() == 0:
            os.close(1)
            import time
            time.sleep(600)
    await asyncio.gather(*calls)

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("forked", [False, True])
def test_nothing_is_left_after_kill_9_of_the_parent(tmp_path: Path, forked: bool) -> None:
    """Busy and idle workers and what they started die with the parent, even if it had forked."""
    path = os.pathsep.join(["tests", *sys.path])
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(tmp_path), *(["forked"] if forked else [])],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    pids.append(int((tmp_path / "sleep").read_text()))
    assert len(pids) >= 4
    assert not any(is_gone(pid) for pid in pids)
    if forked:
        time.sleep(0.3)
    parent.kill()
    parent.wait()
    give_up = time.monotonic() + 10
    while not all_gone(pids) and time.monotonic() < give_up:
        time.sleep(0.01)
    left = [pid for pid in pids if not is_gone(pid)]
    if forked:
        os.killpg(parent.pid, signal.SIGKILL)
    parent.stdout.close()
    assert left == []


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_must_not_use_the_parents_workers() -> None:
    """In a process forked from the parent a call is refused and a close kills nothing."""

    async def main() -> None:
        part = Processes(OffloadSettings(processes=1, nice=0))
        await part.open()
        worker = await part.run(os.getpid)
        child = os.fork()
        if child == 0:
            _leave_the_parents_workers_alone(part)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert await part.run(os.getpid) == worker
        await part.close()

    asyncio.run(main())


def _leave_the_parents_workers_alone(part: Processes) -> NoReturn:
    """Try a call, then close, in a forked process; exit with 0 if both kept off the workers."""
    try:
        with pytest.raises(NotOpen, match="forked"):
            part.run(errands.add, 1).send(None)
        with pytest.raises(StopIteration):
            part.close().send(None)
    except BaseException:  # noqa: BLE001 - a forked test must not go on as a second test run
        os._exit(1)
    os._exit(0)
