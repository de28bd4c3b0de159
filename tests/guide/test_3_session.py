"""Recipe 3, `yield session; await session.commit()`, and what a 201 says."""

from __future__ import annotations

import asyncio

import asyncpg
import httpx2
import pytest

from support.guide import Recipe, commits_late, names, observed, query

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


async def answered_before_commit(recipe: Recipe, way: str, url: str) -> bool:
    """Say whether the 201 of a row arrives while its COMMIT still waits."""
    lock = await asyncpg.connect(url)
    await lock.execute("select pg_advisory_lock(1)")
    with recipe.served(way) as service:
        async with httpx2.AsyncClient(base_url=service.url, timeout=30) as client:
            request = asyncio.create_task(client.post("/items/slow"))
            waits = "select pid from pg_locks where locktype = 'advisory' and not granted"
            while not await query(url, waits):
                await asyncio.sleep(0.02)
            await asyncio.wait({request}, timeout=0.5)
            answered = request.done()
            if way == "observed":
                lane = (await client.get("/lanes")).json()["requests"]
                assert lane["in_use"] == 2, "this look at the lanes, and the one that commits"
            assert await names(url) == []
            await lock.execute("select pg_advisory_unlock(1)")
            assert (await request).status_code == 201
            if not answered:
                assert await names(url) == ["slow"]
            await lock.close()
    return answered


@commits_late
async def test_the_recipe_says_201_and_then_commits(table: str, app_url: str) -> None:
    """The 201 arrives while nobody sees the row yet, and also where COMMIT fails."""
    recipe = Recipe("session", DATABASE_URL=app_url)
    assert await answered_before_commit(recipe, "before", table)
    with recipe.served("before") as service:
        answer = httpx2.post(f"{service.url}/items/orphan", params={"parent": 4711})
        service.stop()

    assert answer.status_code == 201
    assert "orphan" not in await names(table)


@commits_late
async def test_the_line_alone_commits_nothing_and_opens_nothing(table: str, app_url: str) -> None:
    """The same 201 before COMMIT, and the lane `requests` has it until COMMIT is through."""
    recipe = Recipe("session", DATABASE_URL=app_url)
    lanes = observed(recipe, "GET /items/a", "POST /items/a?parent=x")
    assert await answered_before_commit(recipe, "observed", table)
    with recipe.served("observed", CLEARWAY_SERVICE__NAME="ours") as service:
        assert httpx2.get(f"{service.url}/lanes").status_code == 200
        ours = await query(
            table, "select pid from pg_stat_activity where application_name = 'ours'"
        )
    assert "db" not in lanes
    assert ours == []


async def test_with_the_session_of_the_request_a_201_says_stored(table: str, app_url: str) -> None:
    """No answer before COMMIT has returned; where COMMIT fails there is a 500, and no row."""
    recipe = Recipe("session", DATABASE_URL=app_url)
    assert not await answered_before_commit(recipe, "after", table)
    with recipe.served("after") as service:
        answer = httpx2.post(f"{service.url}/items/orphan", params={"parent": 4711})

    assert (answer.status_code, answer.json()["code"]) == (500, "CW221")
    assert await names(table) == ["slow"]
