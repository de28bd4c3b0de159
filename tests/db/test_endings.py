"""How connections end: in their own time, in their own task, their place taken until then."""

from __future__ import annotations

import asyncio
import os
import signal

import anyio
import asyncpg
import pytest
import sqlalchemy
from sqlalchemy import text

from clearway.dev.postgres import EmbeddedPostgres
from db.roads import road_to, wired
from support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.mark.skipif(
    sqlalchemy.__version__.startswith("2.0."),
    reason="SQLAlchemy 2.0 loses a connection whose set-up is cancelled",
)
async def test_cancelled_queries_never_leave_more_backends_than_the_pool_has_places(
    database_url: str,
) -> None:
    """A hundred slow queries cancelled through AnyIO's scopes, whose cancellation repeats."""
    # asyncpg leaves an error to nobody where a connect is cancelled while it asks for TLS.
    url = f"{database_url}?sslmode=disable"
    road = road_to(url, pool_size=2, max_overflow=0, client_connection_check_interval=0)
    peak = 0
    done = False

    async def count() -> None:
        nonlocal peak
        watcher = await asyncpg.connect(database_url)
        while not done:
            live = await watcher.fetchval(
                "select count(*) from pg_stat_activity where application_name like 'app#%'"
            )
            peak = max(peak, live)
        await watcher.close()

    async def slow() -> None:
        with anyio.move_on_after(0.03):
            async with road.db.session() as session:
                await session.execute(text("select pg_sleep(20)"))

    async with road:
        watching = asyncio.create_task(count())
        for _ in range(25):
            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(slow)
        await until(lambda: road.lanes["db"].snapshot().in_use == 0)
        done = True
        await watching
        async with road.db.session() as session:
            assert await session.scalar(text("select 1")) == 1

    assert 1 <= peak <= 3


async def test_whoever_was_cancelled_does_not_wait_for_a_server_that_is_frozen() -> None:
    """The backend is stopped; the cancelled caller is back at once, the place in bounded time."""
    with EmbeddedPostgres() as server:
        road = road_to(server.url, pool_size=1, max_overflow=0, wait_timeout=30)
        async with road:
            began = asyncio.get_running_loop().time()
            with anyio.move_on_after(0.5) as scope:
                async with road.db.session() as session:
                    pid = await session.scalar(text("select pg_backend_pid()"))
                    assert isinstance(pid, int)
                    os.kill(pid, signal.SIGSTOP)
                    try:
                        await session.execute(text("select 1"))
                    finally:
                        took = asyncio.get_running_loop().time() - began
            try:
                assert scope.cancelled_caught
                assert took < 2
                async with asyncio.timeout(10), road.db.session() as session:
                    assert await session.scalar(text("select 1")) == 1
            finally:
                os.kill(pid, signal.SIGCONT)


async def test_a_rollback_on_a_wire_that_went_dead_is_given_up(database_url: str) -> None:
    """No answer comes to ROLLBACK: the wait for it is bounded, the connection is not used again."""
    async with wired(database_url) as (wire, url):
        road = road_to(url, pool_size=1, max_overflow=0, statement_timeout=0.2, wait_timeout=30)
        async with road:
            with pytest.raises(ZeroDivisionError):
                async with asyncio.timeout(30), road.db.session() as session:
                    await session.execute(text("select 1"))
                    wire.swallow()
                    raise ZeroDivisionError
            async with asyncio.timeout(30), road.db.session() as session:
                assert await session.scalar(text("select 1")) == 1


async def test_closing_waits_for_what_ends(database_url: str) -> None:
    """After the shutdown the server has none of our connections any more."""
    road = road_to(database_url, pool_size=3, max_overflow=2)

    async def use() -> None:
        async with road.db.session() as session:
            await session.execute(text("select 1"))
            await asyncio.sleep(0.05)

    async with road:
        await asyncio.gather(*(use() for _ in range(5)))
    watcher = await asyncpg.connect(database_url)
    try:
        async with asyncio.timeout(10):
            while await watcher.fetchval(
                "select count(*) from pg_stat_activity where application_name like 'app#%'"
            ):
                await asyncio.sleep(0.01)
    finally:
        await watcher.close()
    assert not [t for t in asyncio.all_tasks() if "clearway" in t.get_name()]


async def test_a_connection_of_the_overflow_gives_its_place_back_once_it_has_ended(
    database_url: str,
) -> None:
    """The lane counts it until then, and not longer."""
    road = road_to(database_url, pool_size=1, max_overflow=1)

    async def use() -> None:
        async with road.db.session() as session:
            await session.execute(text("select pg_sleep(0.02)"))

    async with road:
        for _ in range(20):
            await asyncio.gather(use(), use(), use())
        await until(lambda: road.lanes["db"].snapshot().in_use == 0)
        assert road.lanes["db"].snapshot().admitted == 60


async def test_a_connection_that_is_out_while_its_pool_is_disposed_is_closed(
    database_url: str,
) -> None:
    """It comes back to a pool that nobody asks any more, and ends there."""
    road = road_to(database_url, pool_size=2, budget="off", min_size=0)
    watcher = await asyncpg.connect(database_url)
    try:
        async with road:
            async with road.db.session() as session:
                await session.execute(text("select 1"))
                await road.db.engine.dispose()
            async with asyncio.timeout(15):
                while await watcher.fetchval(
                    "select count(*) from pg_stat_activity where application_name like 'app#%'"
                ):
                    await asyncio.sleep(0.01)
            await until(lambda: road.lanes["db"].snapshot().in_use == 0)
    finally:
        await watcher.close()
