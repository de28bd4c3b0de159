"""The unit of work in every shape that an ASGI app takes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clearway import Clearway, DbSession, Settings, current_journey
from clearway.db.database import session_dependency
from db.roads import settings_for, wired
from db.schema import Item, names
from db.test_unit_cancel import passed_on
from support.asgi import running, serving
from support.listening import listening
from support.waiting import until

pytestmark = pytest.mark.anyio


class Repository:
    """A class that is its own dependency."""

    def __init__(self, session: DbSession) -> None:
        self.session = session


async def audited(session: DbSession) -> AsyncIterator[AsyncSession]:
    """Yield the session, and write once more when the handler has returned."""
    yield session
    session.add(Item(name="audit"))


FreshSession = Annotated[AsyncSession, Depends(session_dependency, use_cache=False)]


@pytest.mark.skipif(
    "scope" not in inspect.signature(Depends).parameters, reason="FastAPI has scopes since 0.121"
)
async def test_every_style_of_dependency_gets_the_one_session(
    table: str, settings: Settings
) -> None:
    """A class, a generator, one in the function's scope, one without a cache, and the request."""
    app = FastAPI()
    Clearway(app, settings)

    @app.post("/")
    async def create(
        fresh: FreshSession,
        repository: Annotated[Repository, Depends()],
        generator: Annotated[AsyncSession, Depends(audited, scope="function")],
        scoped: Annotated[AsyncSession, Depends(session_dependency, scope="function")],
        session: DbSession,
    ) -> bool:
        return fresh is repository.session is generator is scoped is session

    async with serving(app) as client:
        assert (await client.post("/")).json() is True

    assert await names(table) == ["audit"]


@pytest.mark.parametrize("method", ["HEAD", "DELETE"])
async def test_an_answer_without_a_body_commits(
    table: str, settings: Settings, method: str
) -> None:
    """HEAD and 204 begin as any other answer does."""
    app = FastAPI()
    Clearway(app, settings)

    async def create(session: DbSession) -> None:
        session.add(Item(name=method))

    app.add_api_route("/", create, methods=[method], status_code=204, response_model=None)

    async with serving(app) as client:
        assert (await client.request(method, "/")).status_code == 204

    assert await names(table) == [method]


@pytest.mark.parametrize("status", [None, 103])
async def test_what_comes_before_the_answer_does_not_end_the_unit(
    table: str, settings: Settings, status: int | None
) -> None:
    """Hints and debug messages go out, and the answer's own status still decides."""
    app = FastAPI()
    sent: list[Message] = []
    early: Message = {"type": "http.response.debug", "info": {}}
    if status is not None:
        early = {"type": "http.response.start", "status": status, "headers": []}

    async def hinting(scope: Scope, receive: Receive, send: Send) -> None:
        session = await session_dependency()
        await session.execute(insert(Item).values(name="never"))
        await send(early)
        await session.execute(select(Item))
        await JSONResponse({}, status_code=409)(scope, receive, send)

    app.mount("/hinting", hinting)
    road = Clearway(app, settings)
    scope = {"type": "http", "method": "GET", "path": "/hinting/", "headers": [],
             "query_string": b"", "root_path": "", "http_version": "1.1"}  # fmt: skip

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    async with running(app):
        await app(scope, receive, send)
        assert road.lanes["db"].snapshot().in_use == 0

    assert sent[0] == early
    assert sent[1]["status"] == 409
    assert await names(table) == []


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("layer", ["gzip", "above", "below", "pure"])
async def test_middleware_above_and_below_changes_nothing(
    table: str, settings: Settings, layer: str, fails: bool
) -> None:
    """A 2xx has its row, a COMMIT that fails is a 500, whoever passes the answer on."""
    service = FastAPI()
    if layer == "gzip":
        service.add_middleware(GZipMiddleware, minimum_size=1)
    elif layer == "below":
        service.add_middleware(BaseHTTPMiddleware, dispatch=passed_on)
    Clearway(service, settings)

    @service.post("/")
    async def create(session: DbSession) -> str:
        session.add(Item(name="row", parent_id=4711 if fails else None))
        return "x" * 2000

    app: ASGIApp = service
    if layer == "above":
        app = BaseHTTPMiddleware(service, dispatch=passed_on)
    elif layer == "pure":

        async def outer(scope: Scope, receive: Receive, send: Send) -> None:
            await service(scope, receive, send)

        app = outer
    async with serving(app) as client:
        answer = await client.post("/")

    if fails:
        assert (answer.status_code, answer.json()["code"]) == (500, "CW221")
    else:
        assert answer.json() == "x" * 2000
    assert await names(table) == ([] if fails else ["row"])


async def test_fastapis_background_task_waits_for_the_connection_to_be_back(
    table: str, settings: Settings
) -> None:
    """A pool of one serves the task's own block."""
    app = FastAPI()
    road = Clearway(app, settings_for(table, pool_size=1, max_overflow=0))

    async def later() -> None:
        async with road.db.session() as own:
            found = list(await own.scalars(select(Item.name)))
            own.add(Item(name=f"after {found}"))

    @app.post("/")
    async def create(session: DbSession, tasks: BackgroundTasks) -> None:
        session.add(Item(name="row"))
        tasks.add_task(later)

    async with serving(app) as client:
        assert (await client.post("/")).status_code == 200

    assert await names(table) == ["row", "after ['row']"]


@pytest.mark.parametrize("deep", [1, 2])
@pytest.mark.parametrize("way", ["ok", "raised", "returned", "crashed", "commit"])
async def test_a_mounted_app_shares_the_unit_of_the_one_that_mounts_it(
    table: str, settings: Settings, way: str, deep: int
) -> None:
    """Its answer is the answer, however deep it is mounted, and its own errors roll back."""
    app, inner = FastAPI(), FastAPI()
    road = Clearway(app, settings)

    @inner.post("/items/{name}")
    async def create(name: str, session: DbSession) -> object:
        session.add(Item(name=name, parent_id=4711 if way == "commit" else None))
        if way != "commit":
            await session.flush()
        if way == "raised":
            raise HTTPException(404)
        if way == "returned":
            return JSONResponse({}, status_code=409)
        if way == "crashed":
            raise RuntimeError("boom")
        return name

    mounted = inner
    for _ in range(deep - 1):
        outer = FastAPI()
        outer.mount("/deep", mounted)
        mounted = outer
    app.mount("/inner", mounted)
    path = "/inner" + "/deep" * (deep - 1) + "/items/row"
    async with serving(app) as client:
        answer = await client.post(path)
        assert road.lanes["db"].snapshot().in_use == 0

    expected = {"ok": 200, "raised": 404, "returned": 409, "crashed": 500, "commit": 500}
    assert answer.status_code == expected[way]
    assert await names(table) == (["row"] if way == "ok" else [])


async def test_a_refusal_in_a_mounted_app_is_our_answer_as_well(table: str) -> None:
    """A busy pool is a 503 with `Retry-After`, although the mounted app knows no Clearway."""
    app, inner = FastAPI(), FastAPI()
    road = Clearway(app, settings_for(table, pool_size=1, max_overflow=0, wait_timeout=0.1))

    @inner.get("/")
    async def read(session: DbSession) -> None:
        await session.execute(select(Item))

    app.mount("/inner", inner)
    async with serving(app) as client, road.db.session() as holder:
        await holder.execute(select(Item))
        answer = await client.get("/inner/")

    assert (answer.status_code, answer.json()["code"]) == (503, "CW211")
    assert "retry-after" in answer.headers


async def test_a_mounted_app_with_a_clearway_of_its_own_has_a_unit_of_its_own(
    table: str, settings: Settings
) -> None:
    """Both are opened and both commit, each before the answer."""
    app, inner = FastAPI(), FastAPI()
    Clearway(app, settings)
    road = Clearway(inner, settings)

    @app.middleware("http")
    async def before(request: Request, call_next: Any) -> Response:
        (await session_dependency()).add(Item(name="outer"))
        response: Response = await call_next(request)
        return response

    @inner.post("/")
    async def create(session: DbSession) -> None:
        session.add(Item(name="inner"))

    app.mount("/inner", inner)
    async with road, serving(app) as client:
        assert (await client.post("/inner/")).status_code == 200

    assert sorted(await names(table)) == ["inner", "outer"]


class Refused(Exception):
    """What a handler of the app's own answers."""


@pytest.mark.parametrize("status", [200, 409])
@pytest.mark.parametrize("broken", [False, True], ids=["whole", "in a failed transaction"])
async def test_an_exception_handler_may_use_the_session(
    table: str, settings: Settings, status: int, broken: bool
) -> None:
    """It is the same unit, and the status that it answers decides, as everywhere."""
    app = FastAPI()
    Clearway(app, settings)

    @app.exception_handler(Refused)
    async def refuse(request: Request, error: Refused) -> Response:
        session = await session_dependency()
        if broken:
            await session.rollback()
        session.add(Item(name="by the handler"))
        await session.flush()
        return PlainTextResponse("", status_code=status)

    @app.post("/")
    async def create(session: DbSession) -> None:
        session.add(Item(name="before"))
        await session.flush()
        if broken:
            with suppress(IntegrityError):
                await session.execute(insert(Item).values(name=None))
        raise Refused

    async with serving(app) as client:
        assert (await client.post("/")).status_code == status

    stored = ["by the handler"] if broken else ["before", "by the handler"]
    assert await names(table) == (stored if status == 200 else [])


async def test_an_exception_handler_that_fails_rolls_back(table: str, settings: Settings) -> None:
    """The 500 that follows is an error answer like another."""
    app = FastAPI()
    road = Clearway(app, settings)

    @app.exception_handler(Refused)
    async def refuse(request: Request, error: Refused) -> Response:
        raise RuntimeError("the handler is broken")

    @app.post("/")
    async def create(session: DbSession) -> None:
        await session.execute(insert(Item).values(name="never"))
        raise Refused

    async with serving(app) as client:
        assert (await client.post("/")).status_code == 500
        assert road.lanes["db"].snapshot().in_use == 0

    assert await names(table) == []


@pytest.mark.parametrize("status", [200, 409])
async def test_a_task_that_is_left_behind_in_a_statement_leaks_no_connection(
    table: str, status: int
) -> None:
    """Its statement would be a part of a transaction that ends: nothing of it is stored."""
    app = FastAPI()
    road = Clearway(app, settings_for(table, pool_size=1, max_overflow=0))
    tasks: list[asyncio.Task[Any]] = []

    @app.post("/")
    async def create(session: DbSession) -> Response:
        await session.execute(insert(Item).values(name="row"))
        tasks.append(asyncio.create_task(session.execute(text("select pg_sleep(0.5)"))))
        await asyncio.sleep(0.1)
        return Response(status_code=status)

    @app.get("/")
    async def read(session: DbSession) -> int | None:
        return await session.scalar(select(1))

    async with serving(app) as client:
        async with asyncio.timeout(20):
            answer = await client.post("/")
            await asyncio.gather(*tasks, return_exceptions=True)
            await until(lambda: road.lanes["db"].snapshot().in_use == 0)
            assert (await client.get("/")).json() == 1

    assert answer.status_code == (500 if status == 200 else status)
    assert await names(table) == []


async def test_savepoints_inside_each_other_keep_their_meaning(
    table: str, settings: Settings
) -> None:
    """A failed one undoes what is in it, also what was released in it; the rest commits."""
    app = FastAPI()
    Clearway(app, settings)

    @app.post("/")
    async def create(session: DbSession) -> None:
        session.add(Item(name="outermost"))
        with suppress(IntegrityError):
            async with session.begin_nested():
                session.add(Item(name="undone"))
                async with session.begin_nested():
                    session.add(Item(name="undone as well"))
                await session.execute(insert(Item).values(name="undone"))
        async with session.begin_nested():
            session.add(Item(name="released"))
            inner = await session.begin_nested()
            session.add(Item(name="taken back"))
            await session.flush()
            await inner.rollback()
            session.add(Item(name="also released"))

    async with serving(app) as client:
        assert (await client.post("/")).status_code == 200

    assert await names(table) == ["outermost", "released", "also released"]


@pytest.mark.parametrize("verdict", ["keep", "fail"])
async def test_a_verdict_holds_for_an_exception_and_after_a_rollback(
    table: str, settings: Settings, verdict: str
) -> None:
    """`keep` commits what came after the handler's own rollback, also when it then crashes."""
    app = FastAPI()
    Clearway(app, settings)

    @app.post("/")
    async def create(session: DbSession) -> None:
        session.add(Item(name="first"))
        await session.flush()
        await session.rollback()
        session.add(Item(name="second"))
        journey = current_journey()
        assert journey is not None
        getattr(journey, verdict)()
        if verdict == "keep":
            raise RuntimeError("boom")

    async with serving(app) as client:
        answer = await client.post("/")

    assert answer.status_code == (500 if verdict == "keep" else 200)
    assert await names(table) == (["second"] if verdict == "keep" else [])


@pytest.mark.parametrize("arrives", [False, True])
async def test_a_commit_whose_answer_never_came_is_a_500_that_says_so(
    table: str, arrives: bool
) -> None:
    """Nobody can know, so nobody tries again: the row is there or not, once at the most."""
    app = FastAPI()
    calls: list[int] = []

    @app.get("/")
    async def warm(session: DbSession) -> None:
        await session.execute(select(Item))

    @app.post("/")
    async def create(session: DbSession) -> None:
        calls.append(1)
        await session.execute(insert(Item).values(name="perhaps"))

    async with wired(table) as (wire, url):
        road = Clearway(app, settings_for(url, pool_size=1, max_overflow=0))
        async with listening(app) as server:
            async with server.client() as client:
                await client.send("GET /")
                assert await client.status() == 200
            async with server.client() as client:
                wire.cut_at(b"COMMIT", arrives=arrives)
                await client.send("POST /")
                assert await client.status() == 500
                problem = await client.rest()
            await until(lambda: road.lanes["db"].snapshot().in_use == 0)
            async with server.client() as client:
                await client.send("POST /")
                assert await client.status() == (500 if arrives else 200)

    assert b"CW224" in problem
    assert b"unknown" in problem
    assert calls == [1, 1]
    assert await names(table) == ["perhaps"]


async def test_a_stream_of_events_holds_no_connection(table: str) -> None:
    """Twenty open streams on a pool of one, each with a session of its own for a moment."""
    app = FastAPI()
    road = Clearway(app, settings_for(table, pool_size=1, max_overflow=0))
    go = asyncio.Event()

    @app.get("/")
    async def events(session: DbSession) -> StreamingResponse:
        await session.execute(select(Item))

        async def body() -> AsyncIterator[bytes]:
            yield b"data: begun\n\n"
            await go.wait()
            async with road.db.session() as own:
                await own.execute(select(Item))
            yield b"data: ended\n\n"

        return StreamingResponse(body(), media_type="text/event-stream")

    async with listening(app) as server:

        async def follow(begun: asyncio.Semaphore) -> bytes:
            async with server.client() as client:
                await client.send("GET /")
                assert await client.status() == 200
                begun.release()
                return await client.until(b"ended")

        begun = asyncio.Semaphore(0)
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            streams = [group.create_task(follow(begun)) for _ in range(20)]
            for _ in streams:
                await begun.acquire()
            assert road.lanes["db"].snapshot().in_use == 0
            go.set()

    assert len(streams) == 20
