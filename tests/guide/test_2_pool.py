"""Recipe 2, `create_async_engine(pool_size=..., pool_pre_ping=True)`, and what it costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx2
import pytest
from sqlalchemy.engine import make_url

from support.guide import Recipe, observed, query
from support.wire import wire_to

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


async def trips_of_one_select(url: str, way: str) -> int:
    """Return the round trips that one request with one SELECT makes, counted on the wire."""
    target = make_url(url)
    assert target.host is not None
    assert target.port is not None
    async with wire_to(target.host, target.port) as wire:
        through = target.set(port=wire.port).render_as_string(hide_password=False)
        # One connection, so that what a request does after its answer precedes the next one.
        recipe = Recipe("pool", DATABASE_URL=through, POOL_SIZE="1")
        with recipe.served(way) as service:
            async with httpx2.AsyncClient(base_url=service.url, timeout=30) as client:
                await client.get("/items")  # connects, and prepares the statement
                before = wire.trips
                for _ in range(20):
                    assert (await client.get("/items")).json() == []
                return round((wire.trips - before) / 20)


@asynccontextmanager
async def locked(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Hold the lock 1, at which `/slow` waits, until it is given back."""
    connection = await asyncpg.connect(url)
    await connection.execute("select pg_advisory_lock(1)")
    try:
        yield connection
    finally:
        await connection.close()


async def waits_for_the_lock(url: str) -> None:
    """Wait until somebody stands at the lock."""
    waiting = "select pid from pg_locks where locktype = 'advisory' and not granted"
    while not await query(url, waiting):
        await asyncio.sleep(0.02)


async def answer_of_a_full_pool(url: str, app_url: str, way: str) -> httpx2.Response:
    """Return what a request is told while the only connection is in use."""
    recipe = Recipe(
        "pool",
        DATABASE_URL=app_url,
        POOL_SIZE="1",
        POOL_TIMEOUT="0.3",
        CLEARWAY_DATABASE__WAIT_TIMEOUT="0.3",
    )
    with recipe.served(way) as service:
        async with (
            locked(url) as lock,
            httpx2.AsyncClient(base_url=service.url, timeout=30) as client,
        ):
            holder = asyncio.create_task(client.get("/slow"))
            await waits_for_the_lock(url)
            answer = await client.get("/items")
            await lock.execute("select pg_advisory_unlock(1)")
            assert (await holder).json() == "done"
    return answer


async def test_the_recipe_asks_twice_for_everything_and_fails_when_it_is_full(
    table: str, app_url: str
) -> None:
    """The ping makes six round trips of three; a full pool is a 500 that says nothing."""
    assert await trips_of_one_select(app_url, "before") == 6

    answer = await answer_of_a_full_pool(table, app_url, "before")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert "retry-after" not in answer.headers


async def test_the_line_alone_touches_no_engine(table: str, app_url: str) -> None:
    """Answers, lines and round trips are what they were; there is no lane `db`."""
    recipe = Recipe("pool", DATABASE_URL=app_url)
    lanes = observed(recipe, "GET /items", "GET /missing")
    assert await trips_of_one_select(app_url, "observed") == 6
    assert "requests" in lanes
    assert "db" not in lanes, "an engine has a lane once it is handed over"


async def test_the_line_alone_leaves_a_full_pool_as_it_was(table: str, app_url: str) -> None:
    """It is still a 500 that says nothing."""
    answer = await answer_of_a_full_pool(table, app_url, "observed")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")


async def test_with_the_engine_handed_over_it_asks_once_and_says_when_to_return(
    table: str, app_url: str
) -> None:
    """Three round trips for one SELECT; a full pool is a 503 with a time to return."""
    assert await trips_of_one_select(app_url, "after") == 3

    busy = await answer_of_a_full_pool(table, app_url, "after")
    assert (busy.status_code, busy.json()["code"]) == (503, "CW211")
    assert int(busy.headers["retry-after"]) >= 1


async def test_with_the_engine_handed_over_a_wait_for_a_connection_has_its_name(
    table: str, app_url: str
) -> None:
    """In development the answer says how long it had waited: `db-wait`."""
    recipe = Recipe("pool", DATABASE_URL=app_url, POOL_SIZE="1", FASTAPI_ENV="development")
    with recipe.served("after", CLEARWAY_DATABASE__WAIT_TIMEOUT="30") as service:
        async with (
            locked(table) as lock,
            httpx2.AsyncClient(base_url=service.url, timeout=30) as client,
        ):
            holder = asyncio.create_task(client.get("/slow"))
            await waits_for_the_lock(table)
            waiter = asyncio.create_task(client.get("/items"))
            while (await client.get("/waiting")).json() == 0:
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.2)
            await lock.execute("select pg_advisory_unlock(1)")
            assert (await holder).json() == "done"
            marks = dict(
                mark.split(";dur=") for mark in (await waiter).headers["server-timing"].split(", ")
            )
    assert 200 <= float(marks["db-wait"]) <= float(marks["total"])


async def test_what_the_ping_was_for_holds_without_it(table: str, app_url: str) -> None:
    """The server ends every connection of the pool: the next request notices, and has no error."""
    recipe = Recipe("pool", DATABASE_URL=app_url)
    with recipe.served("after") as service:
        async with httpx2.AsyncClient(base_url=service.url, timeout=30) as client:
            await client.get("/items")
            ended = await query(
                table,
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()",
            )
            assert ended == [True]
            assert (await client.get("/items")).status_code == 200
