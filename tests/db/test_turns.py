"""One task at a time in a session, and none after its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from clearway import Clearway, DbSession, ReadDbSession, Settings
from clearway.errors import SessionEnded, SessionShared
from db.schema import Item, names
from support.asgi import serving
from support.waiting import until

pytestmark = pytest.mark.anyio

SLOW = text("select pg_sleep(0.3)")


async def first_query(session: AsyncSession) -> None:
    """Be inside of the session for a while."""
    await session.execute(SLOW)


async def second_query(session: AsyncSession) -> None:
    """Come in meanwhile."""
    await asyncio.sleep(0.1)
    await session.execute(text("select 1"))


async def test_two_tasks_at_once_are_refused_and_both_are_named(settings: Settings) -> None:
    """The second one is told, before it does anything; the first goes on undisturbed."""
    road = Clearway(FastAPI(), settings)
    async with road, road.db.session() as session:
        await session.execute(text("select 1"))
        first, second = await asyncio.gather(
            first_query(session), second_query(session), return_exceptions=True
        )
        assert await session.scalar(text("select 7")) == 7

    assert first is None
    assert isinstance(second, SessionShared)
    assert "test_turns.py" in second.what
    assert "in second_query, while" in second.what
    assert "in first_query waits" in second.what


async def test_a_read_and_a_write_side_by_side_are_refused(table: str, settings: Settings) -> None:
    """The journey has one connection, so its two sessions take turns as well."""
    app = FastAPI()
    Clearway(app, settings)
    errors: list[object] = []

    @app.get("/")
    async def both(read: ReadDbSession, session: DbSession) -> None:
        await session.execute(text("select 1"))
        errors.extend(
            await asyncio.gather(first_query(session), second_query(read), return_exceptions=True)
        )

    async with serving(app) as client:
        await client.get("/")

    assert errors[0] is None
    assert isinstance(errors[1], SessionShared)


async def test_one_after_the_other_is_fine_from_any_task(table: str, settings: Settings) -> None:
    """Tasks that take turns, a flush within a statement, a cancelled one before: all are legal."""
    road = Clearway(FastAPI(), settings)
    async with road, road.db.session() as session:
        for name in "abc":
            await asyncio.create_task(session.execute(insert(Item).values(name=name)))
        session.add(Item(name="d"))
        assert len((await session.scalars(select(Item))).all()) == 4  # flushes first
        await session.run_sync(lambda sync: sync.add(Item(name="e")))
        streamed = await session.stream_scalars(select(Item.name).order_by(Item.id))
        assert [name async for name in streamed] == list("abcde")


async def test_a_task_that_was_cancelled_leaves_its_turn(settings: Settings) -> None:
    """The next one comes in."""
    road = Clearway(FastAPI(), settings)
    async with road, road.db.session() as session:
        task = asyncio.create_task(first_query(session))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait([task])
        await session.rollback()
        assert await session.scalar(text("select 1")) == 1


@pytest.mark.parametrize("late", ["execute", "add", "connection", "read"])
async def test_a_session_after_its_end_says_whose_it_was(
    table: str, settings: Settings, late: str
) -> None:
    """A task that outlives the request is told the route, and what to use."""
    app = FastAPI()
    Clearway(app, settings)
    sessions: list[tuple[AsyncSession, AsyncSession]] = []

    @app.get("/orders")
    async def orders(session: DbSession, read: ReadDbSession) -> None:
        await session.execute(text("select 1"))
        sessions.append((session, read))

    async with serving(app) as client:
        await client.get("/orders")
        session, read = sessions[0]
        with pytest.raises(SessionEnded, match=r"a session of /orders \([0-9a-f]+\)") as raised:
            if late == "execute":
                await session.execute(text("select 1"))
            elif late == "read":
                await read.execute(text("select 1"))
            elif late == "add":
                session.add(Item(name="late"))
            else:
                await session.connection()
        assert "road.db.session()" in raised.value.fix

    assert await names(table) == []


async def test_a_stream_that_uses_the_requests_session_is_told_so(settings: Settings) -> None:
    """The session has ended before the first chunk."""
    app = FastAPI()
    Clearway(app, settings)
    errors: list[Exception] = []

    @app.get("/")
    async def stream(session: DbSession) -> StreamingResponse:
        await session.execute(text("select 1"))

        async def body() -> AsyncIterator[str]:
            yield "a"
            try:
                await session.execute(text("select 1"))
            except SessionEnded as error:
                errors.append(error)

        return StreamingResponse(body())

    async with serving(app) as client:
        await client.get("/")

    assert len(errors) == 1


async def test_an_old_get_db_that_still_commits_and_closes_changes_nothing(
    table: str, settings: Settings
) -> None:
    """The usual recipe's last lines, left in place under ours, do no harm."""
    app = FastAPI()
    road = Clearway(app, settings)

    async def get_db() -> AsyncIterator[AsyncSession]:
        session = await road.db.dependency()
        try:
            yield session
            await session.commit()
        except Exception:
            await session.rollback()
            raise
        finally:
            await session.close()

    @app.post("/{name}")
    async def create(name: str, session: AsyncSession = Depends(get_db)) -> None:
        session.add(Item(name=name))
        if name == "bad":
            raise ZeroDivisionError

    async with serving(app) as client:
        assert (await client.post("/good")).status_code == 200
        assert (await client.post("/bad")).status_code == 500

    assert await names(table) == ["good"]


async def test_a_block_that_outlives_the_app_is_named(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """At the shutdown the log says where it is."""
    road = Clearway(FastAPI(), settings)
    release = asyncio.Event()

    async def forgotten() -> None:
        async with road.db.session():
            await release.wait()

    with caplog.at_level(logging.WARNING, "clearway.db"):
        async with road:
            task = asyncio.create_task(forgotten())
            await asyncio.sleep(0.05)
    release.set()
    await task

    (record,) = caplog.records
    assert "outlives the app" in record.getMessage()
    assert (
        "in test_a_block_that_outlives_the_app_is_named.<locals>.forgotten" in record.getMessage()
    )


async def test_a_task_that_is_left_behind_while_it_connects_keeps_nothing(
    table: str, settings: Settings
) -> None:
    """The handler answers while the orphan is at it: a 500, nothing stored, nothing kept."""
    app = FastAPI()
    road = Clearway(app, settings)
    left: list[asyncio.Task[object]] = []

    @app.post("/")
    async def create(session: DbSession) -> None:
        orphan = asyncio.create_task(session.execute(insert(Item).values(name="orphan")))
        left.append(orphan)
        await asyncio.sleep(0)

    async with serving(app) as client:
        answer = await client.post("/")
        await asyncio.wait(left)
        await until(lambda: road.lanes["db"].snapshot().in_use == 0)
        assert answer.status_code == 500
    assert await names(table) == []
