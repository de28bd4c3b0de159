"""Measure what a call in a worker process costs, and how soon a late one is killed.

The median warm round trip of `offload.process` against `anyio.to_process` and
`ProcessPoolExecutor` (spawn); then the time from a deadline to the death of a process that
spins, and to the return of its caller.

    python -m bench.offload [--rounds 15] [--calls 150] [--kills 30]
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import select
import statistics
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor

import anyio.to_process
import uvloop

from bench.rounds import Spread, interleaved, machine, ratios
from clearway.errors import CallTimedOut
from clearway.offload.processes import Processes
from clearway.settings import OffloadSettings

OURS = "offload.process"


async def round_trip(call: Callable[[], Awaitable[int]], calls: int) -> float:
    """Return the median time of one call, in milliseconds."""
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        await call()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


def round_trips(
    runner: asyncio.Runner, part: Processes, rounds: int, calls: int
) -> dict[str, list[float]]:
    """Return the median of each round, by the name of the side."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        loop = runner.get_loop()
        calls_by_name: dict[str, Callable[[], Awaitable[int]]] = {
            OURS: lambda: part.run(abs, -1),
            "anyio.to_process": lambda: anyio.to_process.run_sync(abs, -1),
            "ProcessPoolExecutor": lambda: loop.run_in_executor(executor, abs, -1),
        }

        def side(call: Callable[[], Awaitable[int]]) -> Callable[[], float]:
            return lambda: runner.run(round_trip(call, calls))

        sides = {name: side(call) for name, call in calls_by_name.items()}
        interleaved(sides, 1)  # every side is warm after this
        return interleaved(sides, rounds)


async def kill(part: Processes) -> tuple[float, float]:
    """Return milliseconds from a deadline to the return of the caller and to the death."""
    pid = await part.run(os.getpid)
    watch = os.pidfd_open(pid)
    deadline = time.monotonic() + 0.1
    death = asyncio.get_running_loop().run_in_executor(None, moment_of_death, watch)
    back = 0.0
    try:
        await part.run(sum, range(1 << 42), timeout=deadline - time.monotonic())
    except CallTimedOut:
        back = time.monotonic()
    dead = await death
    os.close(watch)
    return (back - deadline) * 1000, (dead - deadline) * 1000


def moment_of_death(watch: int) -> float:
    """Return the moment at which a process ends."""
    select.select([watch], [], [])
    return time.monotonic()


def show(spread: Spread, unit: str) -> str:
    """Return a median with its range."""
    return f"{spread.median:7.3f} {unit} ({spread.low:.3f} to {spread.high:.3f})"


def measure(loop: str, runner: asyncio.Runner, options: argparse.Namespace) -> None:
    """Measure everything on one kind of loop and print it."""
    part = Processes(OffloadSettings(processes=1, max_tasks_per_process=1_000_000))
    runner.run(part.open())
    figures = round_trips(runner, part, options.rounds, options.calls)
    kills = [runner.run(kill(part)) for _ in range(options.kills)]
    runner.run(part.close())
    for name, spread in ratios(figures, OURS).items():
        trip = show(Spread.of(figures[name]), "ms")
        print(f"{loop:8} {name:20} {trip}, {show(spread, f'x {OURS}')}")
    for what, values in zip(("caller back", "process dead"), zip(*kills, strict=True), strict=True):
        print(f"{loop:8} {what:20} {show(Spread.of(list(values)), 'ms after the deadline')}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="measure the process lane")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=150)
    parser.add_argument("--kills", type=int, default=30)
    chosen = parser.parse_args()
    print(machine())
    for title, factory in (("asyncio", None), ("uvloop", uvloop.new_event_loop)):
        with asyncio.Runner(loop_factory=factory) as running:
            measure(title, running, chosen)
