"""What happens when more want in than the pool serves: who waits longest, what still comes out."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import asyncpg
import uvloop
from fastapi import FastAPI
from sqlalchemy import text

from bench.database_sides import (
    ASYNCPG,
    OURS,
    PLAIN,
    PSYCOPG,
    RECIPE,
    ask,
    clearway,
    engine_for,
    psycopg_pool,
    recipe,
    running,
)
from bench.rounds import Spread, in_turn, ratios

WORKERS = 60
CONNECTIONS = 6
HOLD = 0.02
_SLEEP = f"SELECT pg_sleep({HOLD})"
IDEAL = HOLD * (WORKERS / CONNECTIONS - 1)

POOL = 4
SLOW = 0.2  # seconds that a request of the overload keeps its connection
PEAK_CLIENTS = 2 * POOL
OVERLOAD = 10
WAIT_LIMIT = 1.0
PATIENCE = 2.0  # seconds after which a client has given up: an answer then is worth nothing

Use = Callable[[], AbstractAsyncContextManager[Callable[[], Awaitable[object]]]]
"""Takes a connection and gives what runs the slow statement on it."""


async def waits(take: Use, seconds: float) -> list[float]:
    """Return how long each of many workers waited each time for one of few connections."""
    found: list[float] = []
    end = time.monotonic() + seconds

    async def work() -> None:
        while (asked := time.monotonic()) < end:
            async with take() as query:
                found.append(time.monotonic() - asked)
                await query()

    async with asyncio.TaskGroup() as group:
        for _ in range(WORKERS):
            group.create_task(work())
    # Nobody waits while the first come in, so they say nothing about the rest.
    return sorted(found[WORKERS:])


@asynccontextmanager
async def pools(url: str) -> AsyncIterator[dict[str, Use]]:
    """Give the pools of every side, as large as each other."""
    async with AsyncExitStack() as stack:
        app = clearway(url, pool_size=CONNECTIONS, max_overflow=0)
        await stack.enter_async_context(running(app))
        plain = engine_for(url, name=PLAIN, pool_size=CONNECTIONS, max_overflow=0)
        stack.push_async_callback(plain.dispose)
        raw = asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS)
        await stack.enter_async_context(raw)
        fair = await stack.enter_async_context(psycopg_pool(url, CONNECTIONS))
        yield {
            OURS: partial(_use, app.state.road.db.engine.connect, text(_SLEEP)),
            PLAIN: partial(_use, plain.connect, text(_SLEEP)),
            ASYNCPG: partial(_use, raw.acquire, _SLEEP),
            PSYCOPG: partial(_use, fair.connection, _SLEEP),
        }


@asynccontextmanager
async def _use(
    take: Callable[[], AbstractAsyncContextManager[Any]], statement: object
) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    async with take() as connection:
        yield partial(connection.execute, statement)


async def fairness(url: str, rounds: int, seconds: float = 2.0) -> dict[str, list[list[float]]]:
    """Return the waits of every side, sorted, round by round."""
    async with pools(url) as takes:
        calls = {name: partial(waits, take, seconds) for name, take in takes.items()}
        await in_turn({name: partial(waits, take, 0.3) for name, take in takes.items()}, 1)
        return await in_turn(calls, rounds)


def show_waits(url: str, rounds: int) -> None:
    """Print the waits of each side."""
    found = uvloop.run(fairness(url, rounds))
    longest = {name: [values[-1] for values in turns] for name, turns in found.items()}
    against = ratios(longest, PSYCOPG)
    print(f"waits of {WORKERS} workers for {CONNECTIONS} connections, ms (ideal {IDEAL * 1e3:.0f})")
    print(
        f"{'':16}{'median':>8}{'p99':>8}{'longest':>9}{'longest/median':>18}{'x psycopg_pool':>22}"
    )
    for name, turns in found.items():
        own = Spread.of([values[-1] / statistics.median(values) for values in turns])
        middle = statistics.median(statistics.median(values) for values in turns)
        late = statistics.median(values[int(len(values) * 0.99)] for values in turns)
        print(
            f"{name:16}{middle * 1e3:8.0f}{late * 1e3:8.0f}"
            f"{statistics.median(longest[name]) * 1e3:9.0f}{_range(own):>18}"
            f"{_range(against[name]):>22}"
        )
    print("goal: longest/median at most 1.4, at most 1.3x psycopg_pool's longest")


def _range(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f}-{spread.high:.2f})"


@dataclass
class Overloaded:
    """What came out.

    Attributes:
        peak: Good answers a second while as many clients ask as can be served.
        good: Good answers a second at many times that rate, each within the clients' patience.
        refused: Answers 503.
        failed: Answers 500.
        late: Answers after the clients' patience, and those that never came.
        slowest_refusal: Seconds that the slowest 503 took.
    """

    peak: float
    good: float
    refused: int = 0
    failed: int = 0
    late: int = 0
    slowest_refusal: float = 0.0


async def peak(app: FastAPI, seconds: float) -> float:
    """Return good answers a second to a few clients that each wait for their answer."""
    end = time.monotonic() + seconds
    good = 0

    async def client() -> None:
        nonlocal good
        while time.monotonic() < end:
            status = await ask(app, "/hold", f"seconds={SLOW}")
            good += status == 200  # apart from the await, which others pass in the meantime

    await asyncio.gather(*(client() for _ in range(PEAK_CLIENTS)))
    return good / seconds


async def overload(make: Callable[[], FastAPI], seconds: float) -> Overloaded:
    """Ask ten times as often as can be served, whatever has become of those before."""
    app = make()
    answers: list[tuple[int, float, float]] = []

    async def client() -> None:
        asked = time.monotonic()
        status = await ask(app, "/hold", f"seconds={SLOW}")
        answers.append((status, asked, time.monotonic()))

    async with running(app):
        best = await peak(app, 2.0)
        asking: set[asyncio.Task[None]] = set()
        begun = time.monotonic()
        arrived = 0
        while (now := time.monotonic()) < begun + seconds:
            while arrived < (now - begun) * OVERLOAD * POOL / SLOW:
                asking.add(asyncio.create_task(client()))
                arrived += 1
            await asyncio.sleep(0.002)
        await asyncio.wait(asking, timeout=PATIENCE)
        for task in asking:
            task.cancel()  # who is still here has a client that left
        await asyncio.gather(*asking, return_exceptions=True)
    in_time = [answer for answer in answers if answer[2] - answer[1] <= PATIENCE]
    good = [ended for status, _, ended in in_time if status == 200]
    refusals = [ended - asked for status, asked, ended in in_time if status == 503]
    return Overloaded(
        best,
        sum(ended <= begun + seconds for ended in good) / seconds,
        len(refusals),
        sum(status == 500 for status, _, _ in in_time),
        arrived - len(in_time),
        max(refusals, default=0.0),
    )


def goodput(url: str, rounds: int, seconds: float = 6.0) -> dict[str, list[Overloaded]]:
    """Return what came out of every side, round by round."""
    size: dict[str, Any] = {"pool_size": POOL, "max_overflow": 0}
    makes: dict[str, Callable[[], FastAPI]] = {
        RECIPE: lambda: recipe(url, pool_pre_ping=True, **size),
        f"{RECIPE}, {WAIT_LIMIT:.0f} s": lambda: recipe(
            url, pool_pre_ping=True, pool_timeout=WAIT_LIMIT, **size
        ),
        OURS: lambda: clearway(url, wait_timeout=WAIT_LIMIT, **size),
    }
    calls: dict[str, Callable[[], Awaitable[Overloaded]]] = {
        name: partial(overload, make, seconds) for name, make in makes.items()
    }
    return uvloop.run(in_turn(calls, rounds))


def show_goodput(url: str, rounds: int) -> None:
    """Print what comes out at ten times the load that can be served."""
    found = goodput(url, rounds)
    print(
        f"{OVERLOAD}x the load that {POOL} connections serve; clients leave after {PATIENCE:.0f} s"
    )
    print(
        f"{'':16}{'peak/s':>8}{'good/s':>8}{'good/peak':>19}{'503':>7}{'500':>7}{'late':>7}"
        f"{'slowest 503':>13}"
    )
    for name, turns in found.items():
        share = Spread.of([turn.good / turn.peak for turn in turns])
        slowest = max(turn.slowest_refusal for turn in turns)
        cells = (
            f"{statistics.median(getattr(turn, field) for turn in turns):{wide}.0f}"
            for field, wide in (("refused", 7), ("failed", 7), ("late", 7))
        )
        print(
            f"{name:16}{statistics.median(turn.peak for turn in turns):8.0f}"
            f"{statistics.median(turn.good for turn in turns):8.0f}{_range(share):>19}"
            + "".join(cells)
            + (f"{slowest:11.2f} s" if slowest else "")
        )
    print(f"goal: good/peak at least 0.9, every refusal a 503 within {WAIT_LIMIT:.0f} s of waiting")
