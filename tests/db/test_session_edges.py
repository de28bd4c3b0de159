"""The edges of the unit of work, each of which has lost data or a connection before."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress

import asyncpg
import pytest
from fastapi import BackgroundTasks, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from sqlalchemy import event, insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from clearway import Clearway, DbSession, ReadDbSession, Settings
from clearway.db.faults import commit_error, connect_error
from clearway.errors import CommitFailed, CommitUnknown, DatabaseUrlMissing, NotOpen
from db.schema import Item, names
from support.asgi import serving

pytestmark = pytest.mark.anyio


async def test_a_read_inside_the_units_savepoint_costs_no_connection(
    table: str, settings: Settings
) -> None:
    """The read runs on the unit's connection and begins nothing that the savepoint could end."""
    app = FastAPI()
    road = Clearway(app, settings)

    @app.get("/{number}")
    async def mixed(number: int, read: ReadDbSession, session: DbSession) -> int:
        async with session.begin_nested():
            await session.execute(insert(Item).values(name=f"row {number}"))
            found = (await read.execute(select(Item))).all()
        await read.execute(select(Item))
        return len(found)

    async with serving(app) as client:
        answers = [(await client.get(f"/{n}")).json() for n in range(6)]
        in_use = road.lanes["db"].snapshot().in_use

    assert answers == [1, 2, 3, 4, 5, 6]
    assert in_use == 0


async def test_a_read_session_ends_with_the_response(table: str, settings: Settings) -> None:
    """A streaming body that goes on reading gets an error, and no connection leaks."""
    app = FastAPI()
    road = Clearway(app, settings)

    @app.get("/")
    async def stream(read: ReadDbSession) -> StreamingResponse:
        await read.execute(select(Item))

        async def body() -> AsyncIterator[bytes]:
            try:
                await read.execute(select(Item))
            except Exception as error:  # noqa: BLE001 - its name is the answer
                yield type(error).__name__.encode()

        return StreamingResponse(body())

    async with serving(app) as client:
        assert (await client.get("/")).text == "SessionEnded"
        assert road.lanes["db"].snapshot().in_use == 0


async def test_objects_that_were_read_survive_a_write(table: str, settings: Settings) -> None:
    """The read session gives its connection back, not its objects; its rollback ends nothing."""
    app = FastAPI()
    Clearway(app, settings)

    @app.post("/")
    async def create(read: ReadDbSession, session: DbSession) -> list[str]:
        session.add(Item(name="one"))
        await session.commit()
        item = await read.scalar(select(Item))
        assert item is not None
        await session.execute(insert(Item).values(name="two"))
        await read.refresh(item)
        await read.rollback()
        found = await read.scalars(select(Item.name).order_by(Item.id))
        return list(found)

    async with serving(app) as client:
        assert (await client.post("/")).json() == ["one", "two"]

    assert await names(table) == ["one", "two"]


async def test_a_joined_read_session_gives_no_connection_away(
    table: str, settings: Settings
) -> None:
    """Otherwise raw SQL on it would write in the unit's transaction."""
    app = FastAPI()
    Clearway(app, settings)

    @app.post("/")
    async def create(read: ReadDbSession, session: DbSession) -> None:
        await session.execute(insert(Item).values(name="one"))
        await (await read.connection()).exec_driver_sql("delete from item")

    async with serving(app) as client:
        assert (await client.post("/")).json()["code"] == "CW231"

    assert await names(table) == []


@pytest.mark.parametrize("when", ["background", "stream"])
async def test_a_session_asked_for_after_the_response_says_what_to_use(
    table: str, settings: Settings, when: str
) -> None:
    """Nothing would commit it: it is refused, by name, instead of losing the write."""
    app = FastAPI()
    road = Clearway(app, settings)
    refused: list[NotOpen] = []

    async def late() -> None:
        try:
            await road.db.dependency()
        except NotOpen as error:
            refused.append(error)

    @app.post("/")
    async def create(tasks: BackgroundTasks) -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            if when == "stream":
                await late()
            yield b""

        if when == "background":
            tasks.add_task(late)
        return StreamingResponse(body(), background=tasks)

    async with serving(app) as client:
        await client.post("/")

    assert "road.db.session()" in refused[0].fix


async def test_a_failed_commit_ends_the_body_and_runs_no_background_task(
    table: str, settings: Settings
) -> None:
    """A body that would never end is ended; a mail is not sent for what was not stored."""
    app = FastAPI()
    Clearway(app, settings)
    mails: list[str] = []

    @app.post("/")
    async def create(session: DbSession, tasks: BackgroundTasks) -> StreamingResponse:
        session.add(Item(name="orphan", parent_id=4711))
        tasks.add_task(mails.append, "sent")

        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 1000

        return StreamingResponse(endless(), background=tasks)

    async with serving(app) as client:
        async with asyncio.timeout(10):
            answer = await client.post("/")

    assert answer.json()["code"] == "CW221"
    assert mails == []


async def test_the_error_of_a_failed_commit_is_not_masked(table: str, settings: Settings) -> None:
    """What the app raises when its answer was replaced follows from the COMMIT, which is raised."""
    app = FastAPI()
    Clearway(app, settings)

    @app.post("/")
    async def create(session: DbSession) -> StreamingResponse:
        session.add(Item(name="orphan", parent_id=4711))

        async def body() -> AsyncIterator[bytes]:
            await session.execute(select(Item))
            yield b""

        return StreamingResponse(body())

    with TestClient(app) as client, pytest.raises(CommitFailed, match="foreign key"):
        client.post("/")


def engine_for(url: str, **options: object) -> AsyncEngine:
    """Return an engine as an app would make it."""
    return create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"), **options)


@pytest.mark.parametrize("kind", ["open before", "of its own making"])
async def test_a_commit_that_was_a_rollback_is_seen_on_any_adopted_connection(
    table: str, kind: str
) -> None:
    """Also on a connection that we did not open: there a statement before COMMIT tells."""
    if kind == "open before":
        engine = engine_for(table)
        async with engine.connect() as connection:
            await connection.execute(text("select 1"))
    else:

        async def connect() -> asyncpg.Connection:
            return await asyncpg.connect(table)

        engine = create_async_engine("postgresql+asyncpg://", async_creator=connect)
    app = FastAPI()
    Clearway(app, Settings(), engine=engine)

    @app.post("/", status_code=201)
    async def create(session: DbSession) -> None:
        await session.execute(insert(Item).values(name="never"))
        with suppress(IntegrityError):
            await session.execute(insert(Item).values(name="never"))

    async with serving(app) as client:
        answer = await client.post("/")

    assert (answer.status_code, answer.json()["code"]) == (500, "CW223")
    assert await names(table) == []
    await engine.dispose()


@pytest.mark.parametrize("at", ["flush", "commit"])
async def test_a_serialisation_conflict_is_a_409(table: str, settings: Settings, at: str) -> None:
    """Two transactions read and write the same: the second is told to come again."""
    app = FastAPI()
    Clearway(app, settings)
    both = asyncio.Barrier(2)

    @app.post("/{name}")
    async def create(name: str, session: DbSession) -> None:
        await session.connection(execution_options={"isolation_level": "SERIALIZABLE"})
        await session.execute(select(Item))
        if at == "commit":
            await session.execute(insert(Item).values(name=name))
        else:
            session.add(Item(name=name))
        await both.wait()
        if name == "b":
            await asyncio.sleep(0.2)

    async with serving(app) as client:
        answers = await asyncio.gather(client.post("/a"), client.post("/b"))

    conflict = next(answer for answer in answers if answer.status_code != 200)
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    assert conflict.json()["code"] == "CW222"
    assert conflict.headers["retry-after"] == "1"
    assert len(await names(table)) == 1


async def test_a_connection_that_died_before_commit_stored_nothing_for_sure(
    table: str, settings: Settings
) -> None:
    """The outcome is not `unknown` where COMMIT was never sent."""
    app = FastAPI()
    Clearway(app, settings)

    @app.post("/")
    async def create(session: DbSession) -> None:
        await session.execute(insert(Item).values(name="never"))
        pid = await session.scalar(text("select pg_backend_pid()"))
        assert isinstance(pid, int)
        os.kill(pid, signal.SIGTERM)
        await asyncio.sleep(0.3)

    async with serving(app) as client:
        answer = await client.post("/")

    assert (answer.status_code, answer.json()["code"]) == (500, "CW221")
    assert "before COMMIT: nothing was stored" in answer.json()["detail"]


async def test_a_read_whose_connection_died_does_not_undo_the_answer(
    table: str, settings: Settings
) -> None:
    """The read had been answered; that its connection is gone afterwards concerns nobody."""
    app = FastAPI()
    road = Clearway(app, settings)

    @app.get("/")
    async def read(session: ReadDbSession) -> bool:
        pid = await session.scalar(text("select pg_backend_pid()"))
        assert isinstance(pid, int)
        os.kill(pid, signal.SIGTERM)
        await asyncio.sleep(0.3)
        return True

    async with serving(app) as client:
        answers = [await client.get("/") for _ in range(2)]
        in_use = road.lanes["db"].snapshot().in_use

    assert [answer.status_code for answer in answers] == [200, 200]
    assert in_use == 0


def test_a_connection_lost_during_commit_leaves_the_outcome_open() -> None:
    """Only once COMMIT was sent; before that nothing was stored."""
    assert isinstance(commit_error(ConnectionResetError(), sent=True), CommitUnknown)
    assert not isinstance(commit_error(ConnectionResetError(), sent=False), CommitUnknown)


def test_an_error_that_is_none_of_the_databases_comes_back_as_it_was() -> None:
    """A mistake in the code is not `the database cannot be reached`."""
    mistake = TypeError("unexpected keyword")

    assert connect_error(mistake, "h:5432/d", None) is mistake


async def test_a_script_that_never_imported_a_session_has_the_database(table: str) -> None:
    """`road.db` alone opens it, before or after the start."""
    road = Clearway(FastAPI(), Settings.model_validate({"database": {"url": table}}))

    async with road:
        async with road.db.session() as session:
            session.add(Item(name="late"))
        assert road.lanes["db"].snapshot().admitted == 1

    assert await names(table) == ["late"]


async def test_without_a_url_a_script_is_told_so() -> None:
    """`road.db.session()` names what is missing."""
    road = Clearway(FastAPI(), Settings())

    async with road:
        with pytest.raises((DatabaseUrlMissing, NotOpen)):
            async with road.db.session():
                raise AssertionError("it opened")


async def test_two_clearways_share_an_engine_and_its_lane(table: str) -> None:
    """The lane stays until the last of them is closed."""
    engine = engine_for(table, pool_size=2, max_overflow=0)
    one, two = (Clearway(FastAPI(), Settings(), engine=engine) for _ in range(2))

    async with one:
        async with two:
            assert one.lanes["db"] is two.lanes["db"]
        async with one.db.session() as session:
            await session.execute(select(1))
        assert one.lanes["db"].snapshot().admitted == 1
    await engine.dispose()


def test_a_mounted_app_with_a_clearway_of_its_own_uses_its_own(table: str) -> None:
    """The outer database is not written to by accident: the inner one was never opened."""
    app, inner = FastAPI(), FastAPI()
    Clearway(app, Settings.model_validate({"database": {"url": table}}))
    Clearway(inner, Settings.model_validate({"database": {"url": "postgresql://h:1/other"}}))

    @app.get("/")
    async def outer(session: DbSession) -> None: ...

    @inner.post("/")
    async def create(session: DbSession) -> None:
        session.add(Item(name="astray"))

    app.mount("/inner", inner)
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.post("/inner/")

    assert answer.json()["code"] == "CW103"


def test_a_websocket_takes_a_session_for_each_message(table: str, settings: Settings) -> None:
    """`road.db.session()` commits at the end of its block, while the socket goes on."""
    app = FastAPI()
    road = Clearway(app, settings)

    @app.websocket("/ws")
    async def socket(ws: WebSocket) -> None:
        await ws.accept()
        for _ in range(2):
            name = await ws.receive_text()
            async with road.db.session() as session:
                session.add(Item(name=name))
            await ws.send_json(await names(table))

    with TestClient(app) as client, client.websocket_connect("/ws") as ws:
        ws.send_text("one")
        assert ws.receive_json() == ["one"]
        ws.send_text("two")
        assert ws.receive_json() == ["one", "two"]


async def test_a_listener_of_the_apps_own_that_fails_after_the_commit_denies_nothing(
    table: str, settings: Settings
) -> None:
    """The row is stored, so the answer does not say that nothing was."""
    app = FastAPI()
    Clearway(app, settings)

    @app.post("/")
    async def create(session: DbSession) -> None:
        def fails(session: Session) -> None:
            raise ZeroDivisionError

        event.listen(session.sync_session, "after_commit", fails)
        await session.execute(insert(Item).values(name="a"))

    async with serving(app) as client:
        answer = await client.post("/")

    assert answer.status_code == 500
    assert "nothing was stored" not in answer.text
    assert await names(table) == ["a"]
