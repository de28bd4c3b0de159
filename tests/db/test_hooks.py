"""What waits for a COMMIT."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest
from fastapi import FastAPI, HTTPException
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

from clearway import Clearway, DbSession, Settings, after_commit
from clearway.errors import SessionUnknown
from db.schema import Item, names
from support.asgi import serving

pytestmark = pytest.mark.anyio


class Said:
    """What the hooks were called with, and what another connection saw by then."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.words: list[str] = []
        self.seen: list[list[str]] = []

    async def say(self, word: str) -> None:
        """Note a word, and the rows that are there for everybody."""
        self.words.append(word)
        self.seen.append(await names(self.url))


async def test_a_hook_runs_once_after_the_commit(table: str, settings: Settings) -> None:
    """When it runs the row is there for everybody; the answer did not wait for it to fail."""
    app, said = FastAPI(), Said(table)
    Clearway(app, settings)

    @app.post("/")
    async def create(session: DbSession) -> None:
        await session.execute(insert(Item).values(name="a"))
        after_commit(session, said.say, word="stored")

    async with serving(app) as client:
        assert (await client.post("/")).status_code == 200

    assert (said.words, said.seen) == (["stored"], [["a"]])


@pytest.mark.parametrize("how", ["raised", "crashed", "failed commit"])
async def test_a_hook_is_dropped_with_its_transaction(
    table: str, settings: Settings, how: str
) -> None:
    """A 4xx, an exception and a COMMIT that fails drop it."""
    app, said = FastAPI(), Said(table)
    Clearway(app, settings)

    @app.post("/")
    async def create(session: DbSession) -> None:
        parent = 99 if how == "failed commit" else None
        await session.execute(insert(Item).values(name="a", parent_id=parent))
        after_commit(session, said.say, "stored")
        if how == "raised":
            raise HTTPException(409)
        if how == "crashed":
            raise ZeroDivisionError

    async with serving(app) as client:
        assert (await client.post("/")).status_code >= 400

    assert said.words == []


async def test_a_hook_is_dropped_with_its_savepoint(table: str, settings: Settings) -> None:
    """What was asked for in a savepoint that was rolled back is dropped, also one level deeper."""
    app, said = FastAPI(), Said(table)
    road = Clearway(app, settings)

    async with road, road.db.session() as session:
        after_commit(session, said.say, "before")
        await session.execute(insert(Item).values(name="a"))
        with pytest.raises(ZeroDivisionError):
            async with session.begin_nested():
                after_commit(session, said.say, "lost")
                async with session.begin_nested():
                    after_commit(session, said.say, "deeper")
                raise ZeroDivisionError
        async with session.begin_nested():
            after_commit(session, said.say, "kept")

    assert said.words == ["before", "kept"]


async def test_an_explicit_commit_makes_it_due_whatever_follows(
    table: str, settings: Settings
) -> None:
    """What was committed has happened, even where the request fails later."""
    app, said = FastAPI(), Said(table)
    Clearway(app, settings)

    @app.post("/")
    async def create(session: DbSession) -> None:
        await session.execute(insert(Item).values(name="a"))
        after_commit(session, said.say, "first")
        await session.commit()
        await session.execute(insert(Item).values(name="b"))
        after_commit(session, said.say, "second")
        raise ZeroDivisionError

    async with serving(app) as client:
        assert (await client.post("/")).status_code == 500

    assert (said.words, said.seen) == (["first"], [["a"]])


async def test_one_that_fails_skips_no_other_and_changes_no_answer(
    table: str, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged by its name."""
    app, said = FastAPI(), Said(table)
    Clearway(app, settings)

    async def explode() -> None:
        raise ZeroDivisionError

    @app.post("/")
    async def create(session: DbSession) -> None:
        after_commit(session, explode)
        after_commit(session, said.say, "still")

    with caplog.at_level(logging.ERROR, "clearway.db"):
        async with serving(app) as client:
            assert (await client.post("/")).status_code == 200

    assert said.words == ["still"]
    (record,) = caplog.records
    assert "explode failed" in record.getMessage()


async def test_a_plain_function_runs_in_a_thread(table: str, settings: Settings) -> None:
    """It may block: the loop is not its place."""
    app = FastAPI()
    road = Clearway(app, settings)
    ran: list[str] = []

    async with road, road.db.session() as session:
        after_commit(session, lambda: ran.append(threading.current_thread().name))

    (thread,) = ran
    assert thread != threading.main_thread().name
    assert thread.startswith("clearway")


async def test_a_script_has_them_too(table: str, settings: Settings) -> None:
    """They run at the end of the journey's block."""
    said = Said(table)
    road = Clearway(FastAPI(), settings)

    async with road, road.journey("import") as journey:
        session = road.db.unit(journey).session
        await session.execute(insert(Item).values(name="a"))
        after_commit(session, said.say, "stored")
        assert said.words == []

    assert said.seen == [["a"]]


async def test_a_session_that_is_not_ours_is_refused() -> None:
    """Nobody would tell us of its COMMIT."""
    async with AsyncSession() as session:
        with pytest.raises(SessionUnknown, match="nobody tells us"):
            after_commit(session, print)


@pytest.mark.parametrize("how", ["close", "invalidate", "reset", "rollback"])
async def test_a_hook_is_dropped_however_the_transaction_is_given_up(
    table: str, settings: Settings, how: str
) -> None:
    """Nothing was committed, so nothing is due, although the block ends well."""
    said = Said(table)
    road = Clearway(FastAPI(), settings)

    async with road, road.db.session() as session:
        await session.execute(insert(Item).values(name="a"))
        after_commit(session, said.say, "stored")
        await getattr(session, how)()

    assert said.words == []
    assert await names(table) == []


async def test_a_hook_of_a_cancelled_task_is_an_error_like_any_other(
    table: str, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody has cancelled us: it is logged, and the next one runs."""
    said = Said(table)
    road = Clearway(FastAPI(), settings)

    async def awaits_a_cancelled_task() -> None:
        task = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with caplog.at_level(logging.ERROR, "clearway.db"):
        async with road, road.db.session() as session:
            after_commit(session, awaits_a_cancelled_task)
            after_commit(session, said.say, "still")

    assert said.words == ["still"]
    assert "awaits_a_cancelled_task failed" in caplog.text
