"""The unit of work: one session, one transaction, and its COMMIT before the first byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException
from fastapi.responses import JSONResponse, StreamingResponse
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.types import Message, Receive, Scope, Send

from clearway import Clearway, DbSession, ReadDbSession, Settings, current_journey
from clearway.errors import CommitFailed, ReadOnlySession, SessionEnded
from db.roads import settings_for
from db.schema import Item, names
from support.asgi import serving
from support.waiting import until

pytestmark = pytest.mark.anyio


async def test_the_row_is_there_when_the_answer_begins(table: str, settings: Settings) -> None:
    """Another connection sees the row at the very first byte of the 2xx."""
    app = FastAPI()
    seen: list[list[str]] = []

    @app.post("/items", status_code=201)
    async def create(session: DbSession) -> None:
        session.add(Item(name="one"))

    Clearway(app, settings)

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        async def look(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.append(await names(table))
            await send(message)

        await app(scope, receive, look)

    async with serving(watched) as client:
        assert (await client.post("/items")).status_code == 201

    assert seen == [["one"]]


async def test_a_commit_that_fails_is_a_500_and_no_byte_of_the_2xx_leaves(
    table: str, settings: Settings
) -> None:
    """A deferred constraint fails at COMMIT: the client gets a problem, the row is not there."""
    app = FastAPI()

    @app.post("/orphans", status_code=201)
    async def create(session: DbSession) -> dict[str, bool]:
        session.add(Item(name="orphan", parent_id=4711))
        await session.flush()
        return {"created": True}

    Clearway(app, settings)

    async with serving(app) as client:
        answer = await client.post("/orphans")

    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "CW221"
    assert "violates foreign key constraint" in answer.json()["detail"]
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    assert await names(table) == []


async def test_a_swallowed_statement_error_never_becomes_a_2xx(
    table: str, settings: Settings
) -> None:
    """PostgreSQL answers ROLLBACK to that COMMIT; SQLAlchemy returns as if all were well."""
    app = FastAPI()

    @app.post("/items", status_code=201)
    async def create(session: DbSession) -> None:
        await session.execute(insert(Item).values(name="first"))
        with suppress(IntegrityError):
            await session.execute(insert(Item).values(name="first"))

    Clearway(app, settings)

    async with serving(app) as client:
        answer = await client.post("/items")

    assert answer.status_code == 500
    assert answer.json()["code"] == "CW223"
    assert "begin_nested" in answer.json()["fix"]
    assert await names(table) == []


async def test_a_refused_commit_leaves_the_connection_fit_for_the_next(
    table: str,
) -> None:
    """The next request is served by the same connection, outside of the failed transaction."""
    app = FastAPI()

    @app.post("/swallows")
    async def swallow(session: DbSession) -> None:
        with suppress(IntegrityError):
            await session.execute(insert(Item).values(id=1, name=None))

    @app.post("/items")
    async def create(session: DbSession) -> None:
        session.add(Item(name="next"))

    Clearway(app, settings_for(table, pool_size=1, max_overflow=0))

    async with serving(app) as client:
        assert (await client.post("/swallows")).json()["code"] == "CW223"
        assert (await client.post("/items")).status_code == 200

    assert await names(table) == ["next"]


async def test_a_savepoint_keeps_the_transaction_alive(table: str, settings: Settings) -> None:
    """What failed in a savepoint is undone alone, and the rest commits."""
    app = FastAPI()

    @app.post("/items", status_code=201)
    async def create(session: DbSession) -> None:
        await session.execute(insert(Item).values(name="first"))
        try:
            async with session.begin_nested():
                await session.execute(insert(Item).values(name="first"))
        except IntegrityError:
            await session.execute(insert(Item).values(name="second"))

    Clearway(app, settings)

    async with serving(app) as client:
        assert (await client.post("/items")).status_code == 201

    assert await names(table) == ["first", "second"]


@pytest.mark.parametrize("way", ["returned", "raised", "crashed", "invalid"])
async def test_an_error_answer_rolls_back(table: str, settings: Settings, way: str) -> None:
    """A 4xx that is returned, one that is raised, a crash, an answer that does not validate."""
    app = FastAPI()
    statuses = {"returned": 409, "raised": 404, "crashed": 500, "invalid": 500}

    @app.post("/items", response_model=int)
    async def create(session: DbSession) -> object:
        await session.execute(insert(Item).values(name="never"))
        if way == "returned":
            return JSONResponse({"detail": "exists"}, status_code=409)
        if way == "raised":
            raise HTTPException(404)
        if way == "crashed":
            raise RuntimeError("boom")
        return "no number"

    Clearway(app, settings)

    async with serving(app) as client:
        assert (await client.post("/items")).status_code == statuses[way]

    assert await names(table) == []


async def test_keep_commits_an_error_answer_and_fail_rolls_a_2xx_back(
    table: str, settings: Settings
) -> None:
    """A failed login is counted; a GraphQL error answered with 200 is not stored."""
    app = FastAPI()

    @app.post("/{verdict}")
    async def create(verdict: str, session: DbSession) -> JSONResponse:
        await session.execute(insert(Item).values(name=verdict))
        journey = current_journey()
        assert journey is not None
        getattr(journey, verdict)()
        return JSONResponse({}, status_code=401 if verdict == "keep" else 200)

    Clearway(app, settings)

    async with serving(app) as client:
        assert (await client.post("/keep")).status_code == 401
        assert (await client.post("/fail")).status_code == 200

    assert await names(table) == ["keep"]


async def test_every_dependency_of_a_request_gets_the_same_session(
    table: str, settings: Settings
) -> None:
    """An auth dependency, an existing `get_db` and the handler share one transaction."""
    app = FastAPI()
    road = Clearway(app, settings)

    async def get_db() -> AsyncSession:
        return await road.db.dependency()

    async def user(session: DbSession) -> AsyncSession:
        return session

    @app.get("/")
    async def read(
        c: DbSession, a: AsyncSession = Depends(user), b: AsyncSession = Depends(get_db)
    ) -> bool:
        return a is b is c

    async with serving(app) as client:
        answers = [(await client.get("/")).json() for _ in range(2)]

    assert answers == [True, True]


async def test_a_session_that_runs_no_statement_takes_no_connection(settings: Settings) -> None:
    """The connection is taken at the first statement, not at the dependency."""
    app = FastAPI()
    road = Clearway(app, settings)

    @app.get("/")
    async def read(session: DbSession) -> int:
        return road.lanes["db"].snapshot().admitted

    async with serving(app) as client:
        assert (await client.get("/")).json() == 0
        assert road.lanes["db"].snapshot().admitted == 0


async def test_the_connection_is_back_before_a_streaming_body_begins(
    table: str, settings: Settings
) -> None:
    """COMMIT and release come before the first chunk; the session is closed for good."""
    app = FastAPI()
    road = Clearway(app, settings)
    seen: list[object] = []

    @app.get("/")
    async def stream(session: DbSession) -> StreamingResponse:
        await session.execute(insert(Item).values(name="before"))

        async def body() -> AsyncIterator[bytes]:
            seen.append(await names(table))
            seen.append(road.lanes["db"].snapshot().in_use)
            with pytest.raises(SessionEnded):
                await session.execute(select(Item))
            yield b"done"

        return StreamingResponse(body())

    async with serving(app) as client:
        assert (await client.get("/")).text == "done"

    assert seen == [["before"], 0]


async def test_fastapis_background_tasks_run_after_the_commit(
    table: str, settings: Settings
) -> None:
    """A task that looks at the database from outside finds the row."""
    app = FastAPI()
    seen: list[list[str]] = []

    @app.post("/")
    async def create(session: DbSession, tasks: BackgroundTasks) -> None:
        session.add(Item(name="row"))

        async def look() -> None:
            seen.append(await names(table))

        tasks.add_task(look)

    Clearway(app, settings)
    async with serving(app) as client:
        await client.post("/")

    assert seen == [["row"]]


async def test_a_read_and_a_write_in_one_journey_hold_one_connection(
    table: str, settings: Settings
) -> None:
    """Twenty at once on a pool of four, each with both sessions, both ways round."""
    app = FastAPI()
    road = Clearway(app, settings)

    @app.post("/{number}")
    async def create(number: int, read: ReadDbSession, session: DbSession) -> int:
        if number % 2:
            await read.execute(select(Item))
        await session.execute(insert(Item).values(name=f"row {number}"))
        found = (await read.execute(select(Item).where(Item.name == f"row {number}"))).all()
        return len(found)

    async with serving(app) as client:
        answers = await asyncio.gather(*(client.post(f"/{number}") for number in range(20)))
        await until(lambda: road.lanes["db"].snapshot().in_use == 0)

    assert [answer.status_code for answer in answers] == [200] * 20
    assert {answer.json() for answer in answers} == {1}
    assert len(await names(table)) == 20


@pytest.mark.parametrize("statement", ["insert", "text", "flush", "driver", "after a write"])
async def test_a_read_session_refuses_to_write(
    table: str, settings: Settings, statement: str
) -> None:
    """DML, raw text, a pending object, and what goes by `connection()` are refused."""
    app = FastAPI()
    Clearway(app, settings)

    @app.get("/")
    async def read(session: ReadDbSession, unit: DbSession) -> None:
        if statement == "insert":
            await session.execute(insert(Item).values(name="no"))
        elif statement == "text":
            await session.execute(text("delete from item"))
        elif statement == "driver":
            connection = await session.connection()
            await connection.exec_driver_sql("truncate item")
        elif statement == "after a write":
            await unit.execute(insert(Item).values(name="kept out"))
            await session.execute(text("delete from item"))
        else:
            session.add(Item(name="no"))
            await session.flush()

    async with serving(app) as client:
        answer = await client.get("/")

    assert (answer.status_code, answer.json()["code"]) == (500, ReadOnlySession.code)
    assert await names(table) == []


@pytest.mark.parametrize(
    "sql",
    [
        "select 1; insert into item (name) values ('x')",
        "select ';'; delete from item",
        "with x as (insert into item (name) values ('x') returning id) select * from x",
        "with x as (select 1) delete from item",
        "with x as materialized ( Update item set name = 'x' returning id) select 1",
    ],
)
async def test_a_write_behind_a_read_is_refused(table: str, settings: Settings, sql: str) -> None:
    """A second statement, and a part of a WITH that writes, which AUTOCOMMIT would store."""
    app = FastAPI()
    Clearway(app, settings)

    @app.get("/")
    async def read(session: ReadDbSession) -> None:
        await session.execute(text(sql))

    async with serving(app) as client:
        answer = await client.get("/")

    assert answer.json()["code"] == ReadOnlySession.code
    assert await names(table) == []


@pytest.mark.parametrize(
    "sql", ["select 1; ", "select 'a; delete', \"a;b\" from (select 1 as \"a;b\") x",
            "select $$;x$$", "with x as (select 'a (insert b' as y) select * from x",
            "select 1", "  WITH x as (select 1) select * from x", "(values (1))", "show all",
            "-- why\n select 1", "/* a\n b */ select 1"]
)  # fmt: skip
async def test_a_read_session_reads(table: str, settings: Settings, sql: str) -> None:
    """SELECT, WITH, VALUES and SHOW pass, with comments and parentheses before them."""
    app = FastAPI()
    Clearway(app, settings)

    @app.get("/")
    async def read(session: ReadDbSession) -> int:
        return len((await session.execute(text(sql))).all())

    async with serving(app) as client:
        assert (await client.get("/")).json() >= 1


async def test_a_script_commits_at_the_end_of_the_block(table: str, settings: Settings) -> None:
    """`road.db.session()` commits, or rolls back when the block raises, and says what failed."""
    app = FastAPI()
    road = Clearway(app, settings)

    async with road:
        async with road.db.session() as session:
            session.add(Item(name="kept"))
        with pytest.raises(KeyError):
            async with road.db.session() as session:
                session.add(Item(name="dropped"))
                await session.flush()
                raise KeyError
        with pytest.raises(CommitFailed, match="violates foreign key"):
            async with road.db.session() as session:
                session.add(Item(name="orphan", parent_id=4711))

    assert await names(table) == ["kept"]


async def test_an_explicit_commit_keeps_its_meaning(table: str, settings: Settings) -> None:
    """What the handler commits stays, even if it then answers an error."""
    app = FastAPI()
    Clearway(app, settings)

    @app.post("/")
    async def create(session: DbSession) -> None:
        session.add(Item(name="explicit"))
        await session.commit()
        session.add(Item(name="pending"))
        await session.flush()
        raise HTTPException(409)

    async with serving(app) as client:
        assert (await client.post("/")).status_code == 409

    assert await names(table) == ["explicit"]
