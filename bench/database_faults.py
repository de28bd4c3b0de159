"""What is left behind by queries that were cancelled, and how soon a restart is over."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import anyio
import asyncpg
import uvloop
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from bench.database_sides import (
    HOLD,
    OURS,
    PLAIN,
    RECIPE,
    ask,
    clearway,
    engine_for,
    recipe,
    running,
)
from bench.rounds import in_turn
from clearway.dev.postgres import EmbeddedPostgres

CANCELLED = 100
AT_ONCE = 4
SIZE = {"pool_size": 2, "max_overflow": 0}
EVERY = 0.02  # seconds between two requests of the steady traffic
AFTER = 4.0  # seconds of it after the restart

Sessions = Callable[[], AbstractAsyncContextManager[AsyncSession]]


async def backends(url: str, name: str, sessions: Sessions) -> int:
    """Return how many backends lived at most while slow queries were cancelled."""
    admin = await asyncpg.connect(url)
    most = 0
    cancelled = 0

    async def watch() -> None:
        nonlocal most
        while True:
            now = await admin.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE $1 || '%'", name
            )
            most = max(most, now)
            await asyncio.sleep(0.005)

    async def give_up() -> None:
        nonlocal cancelled
        while cancelled < CANCELLED:
            with anyio.CancelScope() as scope:
                async with sessions() as session:
                    await session.connection()
                    cancelled += 1
                    scope.deadline = anyio.current_time() + 0.02
                    await session.execute(HOLD, {"seconds": 30})

    watcher = asyncio.create_task(watch())
    await asyncio.gather(*(give_up() for _ in range(AT_ONCE)))
    await asyncio.sleep(0.2)
    watcher.cancel()
    await asyncio.gather(watcher, return_exceptions=True)
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name LIKE $1 || '%'",
        name,
    )
    await admin.close()
    return most


async def cancelled_by_recipe(url: str) -> int:
    """Return the most backends of the recipe."""
    engine = engine_for(url, name="cancelled", pool_pre_ping=True, **SIZE)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    most = await backends(url, "cancelled", sessions)
    await engine.dispose()
    return most


async def cancelled_by_us(url: str) -> int:
    """Return the most backends of ours."""
    app = clearway(url, service="cancelled", **SIZE)
    async with running(app):
        return await backends(url, "cancelled", app.state.road.db.session)


def show_backends(url: str, rounds: int) -> None:
    """Print how many backends live at most behind a pool of two."""
    calls: dict[str, Callable[[], Awaitable[int]]] = {
        RECIPE: partial(cancelled_by_recipe, url),
        OURS: partial(cancelled_by_us, url),
    }
    found = uvloop.run(in_turn(calls, rounds))
    print(f"most live backends, {CANCELLED} cancelled queries of 30 s, pool of 2")
    for name, most in found.items():
        print(f"{name:16}{statistics.median(most):6.0f}   ({min(most)} - {max(most)})")
    print("goal: at most 3")


async def recovery(server: EmbeddedPostgres, make: Callable[[], FastAPI]) -> tuple[int, int, float]:
    """Restart the server under steady traffic.

    Returns:
        Requests that failed, those of them that were asked once the server was back, and
        seconds from then to the first good answer of a request that was asked after it.
    """
    app = make()
    answers: list[tuple[float, float, int]] = []

    async def client() -> None:
        asked = time.monotonic()
        status = await ask(app, "/core/write")
        answers.append((asked, time.monotonic(), status))

    async with running(app), _traffic(client):
        await asyncio.sleep(1)
        await asyncio.to_thread(server.restart)
        back = time.monotonic()
        await asyncio.sleep(AFTER)
    failed = [asked for asked, _, status in answers if status != 200]
    good = [ended - back for asked, ended, status in answers if status == 200 and asked > back]
    return len(failed), sum(asked > back for asked in failed), min(good, default=AFTER)


@asynccontextmanager
async def _traffic(client: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    asking: set[asyncio.Task[None]] = set()

    async def arrive() -> None:
        while True:
            asking.add(asyncio.ensure_future(client()))
            await asyncio.sleep(EVERY)

    arriving = asyncio.create_task(arrive())
    yield
    arriving.cancel()
    await asyncio.wait(asking, timeout=5)
    for task in asking:
        task.cancel()
    await asyncio.gather(arriving, *asking, return_exceptions=True)


def show_recovery(server: EmbeddedPostgres, rounds: int) -> None:
    """Print what a restart of the server costs."""
    url = server.url
    makes: dict[str, Callable[[], FastAPI]] = {
        RECIPE: lambda: recipe(url, pool_pre_ping=True),
        PLAIN: lambda: recipe(url, name=PLAIN),
        OURS: lambda: clearway(url),
    }
    calls = {name: partial(recovery, server, make) for name, make in makes.items()}
    found = uvloop.run(in_turn(calls, rounds))
    print(f"a restart of the server under {1 / EVERY:.0f} requests a second")
    print(f"{'':16}{'failed':>8}{'of them after it':>18}{'first good answer':>20}")
    for name, turns in found.items():
        failed, after, seconds = (statistics.median(values) for values in zip(*turns, strict=True))
        print(f"{name:16}{failed:8.0f}{after:18.0f}{seconds * 1e3:17.0f} ms")
