"""Background tasks: after the commit, bounded, isolated, drained."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI, Response
from sqlalchemy import text

from clearway import Background, Clearway, DbSession, Settings, current_journey
from clearway.background.tasks import (
    BackgroundSnapshot,
    BackgroundTasks,
    background_dependency,
)
from clearway.core.current import find
from clearway.core.journey import Journey
from clearway.errors import NotOpen
from support.asgi import serving
from support.waiting import until

pytestmark = pytest.mark.anyio


def road_of(app: FastAPI, **background: object) -> Clearway:
    """Return a Clearway with these settings of the lane."""
    return Clearway(app, Settings.model_validate({"background": background}))


def snapshot() -> BackgroundSnapshot:
    """Return the gauges of the only open Clearway."""
    return find(BackgroundTasks, "a test").snapshot()


async def test_a_task_sees_the_row_that_its_request_has_committed(database_url: str) -> None:
    """It runs after the COMMIT, under the request's id, with a journey of its own."""
    app = FastAPI()
    road = Clearway(app, Settings.model_validate({"database": {"url": database_url}}))
    seen: list[object] = []

    async def look(*, table: str) -> None:
        journey = current_journey()
        assert journey is not None
        async with road.db.session() as session:
            seen.append(await session.scalar(text(f"SELECT count(*) FROM {table}")))
        seen.extend([journey.kind, journey.id, journey.deadline])

    @app.post("/")
    async def create(session: DbSession, background: Background) -> None:
        await session.execute(text("CREATE TABLE noted AS SELECT 1"))
        background.add(look, table="noted")
        await asyncio.sleep(0)
        assert not seen

    async with serving(app) as client:
        answer = await client.post("/", headers={"X-Request-ID": "abc-1"})
        await until(lambda: len(seen) == 4)

    assert answer.status_code == 200
    assert seen == [1, "background", "abc-1", None]


@pytest.mark.parametrize("how", ["status", "raise", "commit"])
async def test_a_rollback_drops_the_tasks_and_counts_them(how: str, database_url: str) -> None:
    """What a request leaves behind goes with what it wrote, also when COMMIT itself fails."""
    app = FastAPI()
    Clearway(app, Settings.model_validate({"database": {"url": database_url}}))
    ran: list[str] = []

    @app.post("/")
    async def create(background: Background, session: DbSession) -> Response:
        background.add(ran.append, "x")
        await session.execute(text("CREATE TABLE t (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
        if how == "raise":
            raise ValueError
        if how == "commit":
            await session.execute(text("INSERT INTO t VALUES (1), (1)"))
        return Response(status_code=404 if how == "status" else 201)

    async with serving(app) as client:
        answer = await client.post("/")
        after = snapshot()

    assert answer.status_code == (404 if how == "status" else 500)
    assert (after.dropped, after.reserved) == (1, 0)
    assert ran == []


async def test_one_failure_skips_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """Each is isolated; the failure is logged by name, with its traceback, and counted."""
    app = FastAPI()
    road_of(app)
    ran: list[str] = []

    async def fail() -> None:
        raise ValueError("no webhook")

    async def go() -> None:
        ran.append("async")

    @app.get("/")
    async def read(background: Background) -> None:
        background.add(fail)
        background.add(go)
        background.add(lambda: ran.append(threading.current_thread().name))

    async with serving(app) as client:
        assert (await client.get("/")).status_code == 200
        await until(lambda: not snapshot().reserved)
        assert snapshot().failed == 1

    assert "async" in ran
    assert any(name.startswith("clearway-thread") for name in ran)  # never on the loop
    (record,) = [r for r in caplog.records if r.name == "clearway.background"]
    assert "fail failed" in record.getMessage()
    assert record.exc_info is not None


async def test_a_full_lane_is_a_503_at_add() -> None:
    """The place is reserved by `add`; with the task's end it is free again."""
    app = FastAPI()
    road = road_of(app, capacity=1, queue_limit=1)
    gate = asyncio.Event()
    order: list[int] = []

    async def wait(number: int) -> None:
        order.append(number)
        await gate.wait()

    @app.get("/{number}")
    async def read(number: int, background: Background) -> None:
        background.add(wait, number)

    async with serving(app) as client:
        assert [(await client.get(f"/{n}")).status_code for n in (1, 2)] == [200, 200]
        await until(lambda: road.lanes["background"].snapshot().waiting == 1)
        refused = await client.get("/3")
        assert order == [1]
        gate.set()
        await until(lambda: not snapshot().reserved)
        assert (await client.get("/4")).status_code == 200
        await until(lambda: not snapshot().reserved)
        assert snapshot().refused == 1

    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["content-type"] == "application/problem+json"
    assert order == [1, 2, 4]


async def test_shutdown_waits_for_tasks_before_the_app_closes_its_own() -> None:
    """What the app opened in its lifespan is there while tasks finish; new ones are refused."""
    log: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        log.append("app closed")

    app = FastAPI(lifespan=lifespan)
    road_of(app, capacity=1, drain_within=20)
    begun = asyncio.Event()

    async def slow(number: int) -> None:
        begun.set()
        await asyncio.sleep(0.05)
        log.append(f"task {number}")

    @app.get("/")
    async def read(background: Background) -> None:
        background.add(slow, 1)
        background.add(slow, 2)  # waits for the first

    async with serving(app) as client:
        await client.get("/")
        await begun.wait()
        tasks = find(BackgroundTasks, "a test")

    assert log == ["task 1", "task 2", "app closed"]
    with pytest.raises(NotOpen, match="shutdown"):
        tasks.add(Journey("request"), lambda: None, "late")


async def test_what_the_shutdown_cuts_off_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """The drain is bounded; a task that is cancelled, or never began, is logged by name."""
    app = FastAPI()
    road_of(app, capacity=1, drain_within=0.05)
    begun = asyncio.Event()
    ended: list[str] = []

    async def endless() -> None:
        begun.set()
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    @app.get("/")
    async def read(background: Background) -> None:
        background.add(endless)
        background.add(endless)

    async with serving(app) as client:
        await client.get("/")
        await begun.wait()
        tasks = find(BackgroundTasks, "a test")

    assert ended == ["cancelled"]
    assert (tasks.snapshot().cancelled, tasks.snapshot().reserved) == (2, 0)
    said = [r.getMessage() for r in caplog.records if r.name == "clearway.background"]
    assert len(said) == 2
    assert all("endless was cut off by the shutdown" in line for line in said)


async def test_a_heavy_task_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """Longer than `warn_after` is too heavy for this process."""
    app = FastAPI()
    road_of(app, warn_after=0.01)

    @app.get("/")
    async def read(background: Background) -> None:
        background.add(time.sleep, 0.05)

    async with serving(app) as client:
        await client.get("/")
        await until(lambda: not snapshot().reserved)

    assert [r.levelno for r in caplog.records if r.name == "clearway.background"] == [
        logging.WARNING
    ]


async def test_a_script_leaves_tasks_behind_too() -> None:
    """At the end of the block of `road.journey`, and not when it raises."""
    road = road_of(FastAPI())
    ran: list[int] = []

    async with road:
        async with road.journey("import"):
            (await background_dependency()).add(ran.append, 1)
        with pytest.raises(ValueError, match="no"):
            async with road.journey("import"):
                (await background_dependency()).add(ran.append, 2)
                raise ValueError("no")
        await until(lambda: not snapshot().reserved)
        assert snapshot().dropped == 1

    assert ran == [1]
