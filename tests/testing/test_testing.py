"""Tests that roll back, and their budget of queries, as a user writes them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException
from sqlalchemy import select, text
from starlette.testclient import TestClient

from clearway import Clearway, DbSession, Job, ReadDbSession, Settings
from clearway.db import after_commit
from clearway.dev.postgres import EmbeddedPostgres
from clearway.errors import LifespanFailed, NotOpen
from clearway.jobs import job
from clearway.testing import QueryBudgetExceeded, assert_queries, enqueued, opened, rolled_back
from db import schema
from db.schema import Item, names
from support.asgi import client_for


@job()
async def greet(name: str, times: int = 1) -> None:
    """Stand for work."""


@pytest.fixture
def table(postgres: EmbeddedPostgres, database_url: str) -> str:
    """Return the URL of a database that has the table `item`."""
    subprocess.run([postgres.psql, database_url, "-qXc", schema.DDL], check=True, timeout=20)
    return database_url


@pytest.fixture
def road(table: str, undeclared: dict[str, Job[..., ..., Any]]) -> Clearway:
    """Return the Clearway of a small shop."""
    undeclared[greet.name] = greet
    app = FastAPI()

    @app.post("/items/{name}", status_code=201)
    async def create(name: str, session: DbSession) -> None:
        session.add(Item(name=name))
        await session.commit()

    @app.post("/bad/{name}")
    async def bad(name: str, session: DbSession) -> None:
        session.add(Item(name=name))
        await session.flush()
        await greet.enqueue(session, name)
        raise HTTPException(409)

    @app.post("/greet/{name}")
    async def ask(name: str, session: DbSession) -> None:
        await greet.options(delay=60).enqueue(session, name)

    @app.get("/items")
    async def read(session: ReadDbSession) -> list[str]:
        return list(await session.scalars(select(Item.name).order_by(Item.id)))

    @app.get("/each")
    async def each(session: ReadDbSession) -> int:
        for number in range(4):
            await session.scalar(select(Item.name).where(Item.id == number))
        return 4

    return Clearway(app, Settings.model_validate({"database": {"url": table, "pool_size": 2}}))


@pytest.mark.anyio
async def test_what_the_app_commits_is_seen_by_the_test_and_by_nobody_else(
    road: Clearway, table: str
) -> None:
    """Rows, reads and rollbacks behave as ever, and nothing remains."""
    async with rolled_back(road) as session:
        session.add(Item(name="prepared"))
        await session.commit()
        async with client_for(road.app) as client:
            assert (await client.post("/items/a")).status_code == 201
            assert (await client.post("/bad/b")).status_code == 409
            assert (await client.get("/items")).json() == ["prepared", "a"]
        assert list(await session.scalars(select(Item.name))) == ["prepared", "a"]
        assert await names(table) == []
    assert await names(table) == []
    with pytest.raises(NotOpen):
        _ = road.db.engine


@pytest.mark.anyio
async def test_hooks_run_after_what_would_have_been_a_commit(road: Clearway) -> None:
    """And never after a rollback, as in production."""
    called: list[str] = []
    async with rolled_back(road):
        async with road.db.session() as session:
            session.add(Item(name="a"))
            after_commit(session, called.append, "committed")
        with pytest.raises(LookupError):
            async with road.db.session() as session:
                session.add(Item(name="b"))
                after_commit(session, called.append, "rolled back")
                raise LookupError
    assert called == ["committed"]


@pytest.mark.anyio
async def test_requests_at_once_take_turns(road: Clearway, table: str) -> None:
    """They share one connection, and their savepoints do not mingle."""
    async with rolled_back(road) as session, client_for(road.app) as client:
        calls = [client.post(f"/{'bad' if n % 3 == 0 else 'items'}/{n}") for n in range(12)]
        answers = await asyncio.gather(*calls)
        assert sorted(answer.status_code for answer in answers) == [201] * 8 + [409] * 4
        assert len(list(await session.scalars(select(Item.name)))) == 8
    assert await names(table) == []


@pytest.mark.anyio
async def test_jobs_are_really_enqueued_and_read_back(road: Clearway, table: str) -> None:
    """With their arguments and options; what was rolled back is not among them."""
    async with rolled_back(road) as session, client_for(road.app) as client:
        assert (await client.post("/greet/ada")).status_code == 200
        assert (await client.post("/bad/x")).status_code == 409
        (only,) = await enqueued(road, session)
        assert (only.name, only.arguments) == (greet.name, {"name": "ada", "times": 1})
        assert (only.delay, only.unique, only.queue) == (60.0, None, greet.queue)
    async with rolled_back(road) as session:
        assert await enqueued(road, session) == []


def test_a_test_client_rolls_back_in_its_own_loop(road: Clearway, table: str) -> None:
    """A synchronous test as well."""
    with TestClient(road.app) as client:
        assert client.portal is not None
        with client.portal.wrap_async_context_manager(rolled_back(road)):
            assert client.post("/items/a").status_code == 201
            assert client.get("/items").json() == ["a"]
        assert client.get("/items").json() == []


def test_too_many_queries_are_named_with_their_place(road: Clearway) -> None:
    """The statement, how often, the line; the block alone is counted, savepoints are not."""
    with TestClient(road.app) as client:
        client.get("/each")
        with assert_queries(max=1):
            assert client.post("/items/a").status_code == 201
        with pytest.raises(QueryBudgetExceeded) as caught, assert_queries(max=3):
            client.get("/each")
        client.get("/each")
    said = str(caught.value)
    assert said.startswith("4 statements, 3 allowed:")
    assert "the same statement 4 times, from testing/test_testing.py:" in said
    assert "each" in said
    assert "FROM item" in said
    assert isinstance(caught.value, AssertionError)


@pytest.mark.anyio
async def test_a_budget_holds_on_the_tests_own_connection(road: Clearway) -> None:
    """Also on a connection that was open before the block."""
    async with rolled_back(road) as session, client_for(road.app) as client:
        with assert_queries(max=4):
            await client.get("/each")
        with pytest.raises(QueryBudgetExceeded), assert_queries(max=0):
            await session.execute(text("SELECT 1"))


@pytest.mark.anyio
async def test_a_start_that_fails_is_told() -> None:
    """The reason stands in the error."""

    @asynccontextmanager
    async def broken(_: FastAPI) -> AsyncIterator[None]:
        models: dict[str, str] = {}
        assert models["no such model"]
        yield

    road = Clearway(FastAPI(lifespan=broken), Settings())
    with pytest.raises(LifespanFailed, match="no such model"):
        async with opened(road):
            pass
    assert not road.ready


CONFTEST = """
import pytest
from main import road

pytest_plugins = ["clearway.testing"]

@pytest.fixture
def clearway_road():
    return road
"""
MAIN = """
from clearway import Clearway, DbSession
from fastapi import FastAPI
from sqlalchemy import text

app = FastAPI()
road = Clearway(app)

@app.post("/items")
async def create(session: DbSession) -> int:
    await session.execute(text("INSERT INTO item (name) VALUES ('only')"))
    return (await session.execute(text("SELECT count(*) FROM item"))).scalar_one()
"""
TESTS = """
import pytest

@pytest.mark.parametrize("time", [1, 2])
def test_it(clearway_client, assert_query_budget, time):
    with assert_query_budget(max=2):
        assert clearway_client.post("/items").json() == 1
    assert clearway_client.get("/nothing").status_code == 404

def test_spends_too_much(clearway_client, assert_query_budget):
    with assert_query_budget(max=1):
        clearway_client.post("/items")
"""


def test_the_plugin_in_a_suite_of_its_own(table: str, tmp_path: Path) -> None:
    """Each test begins with an empty table, and the budget's report stands in pytest's output."""
    for name, code in (("conftest.py", CONFTEST), ("main.py", MAIN), ("test_it.py", TESTS)):
        (tmp_path / name).write_text(code)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "."],
        cwd=tmp_path,
        env={**os.environ, "DATABASE_URL": table, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert "1 failed, 2 passed" in ran.stdout, ran.stdout + ran.stderr
    assert "2 statements, 1 allowed" in ran.stdout
    assert "main.py:" in ran.stdout
    assert asyncio.run(names(table)) == []
