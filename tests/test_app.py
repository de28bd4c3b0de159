"""Composition: what opens, what closes, and what is left behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
import structlog
from fastapi import FastAPI

from clearway import Clearway, DbSession, Settings, current_journey, get_logger, offload
from clearway.errors import DatabaseUrlInvalid, NotOpen, SeveralOpen
from support.asgi import StartFailed, running, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
def full(database_url: str) -> Settings:
    """Return settings under which every part opens."""
    return Settings.model_validate(
        {"database": {"url": database_url}, "logs": {"take_over": "on", "target": os.devnull}}
    )


def everything(settings: Settings) -> tuple[FastAPI, Clearway]:
    """Return an app that uses every part in one request."""
    app = FastAPI()
    road = Clearway(app, settings)

    @app.get("/")
    async def read(session: DbSession) -> int:
        await session.connection()
        await offload.thread(time.sleep, 0)
        get_logger().info("read")
        return await offload.process(os.getpid)

    return app, road


class Inventory:
    """What a process has that somebody could have left behind."""

    def __init__(self) -> None:
        gc.collect()
        self.threads = {thread.name for thread in threading.enumerate()}
        self.tasks = len(asyncio.all_tasks())
        self.children = {child.pid for child in psutil.Process().children()}
        self.connections = len(psutil.Process().net_connections("tcp"))
        self.descriptors = len(os.listdir("/proc/self/fd"))
        self.root = (list(logging.root.handlers), logging.root.level)
        self.uvicorn = list(logging.getLogger("uvicorn").handlers)
        self.structlog = structlog.is_configured()
        watched = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
        self.signals = [signal.getsignal(number) for number in watched]
        self.factory = logging.getLogRecordFactory()


async def test_nothing_is_left_behind_after_the_shutdown(full: Settings) -> None:
    """Threads, tasks, processes, sockets, descriptors, handlers, signals: as before."""
    app, _ = everything(full)
    async with serving(app) as client:  # what the first use of a library leaves is not ours
        await client.get("/")
    before = vars(Inventory())

    async with serving(app) as client:
        answers = await asyncio.gather(*(client.get("/") for _ in range(10)))
        assert {answer.status_code for answer in answers} == {200}
        during = vars(Inventory())

    after = vars(Inventory())
    assert after == before
    assert during["children"] > before["children"]
    assert during["root"] != before["root"]


async def test_a_clearway_starts_and_stops_a_hundred_times() -> None:
    """The same object opens and closes as often as it is asked."""
    app = FastAPI()
    road = Clearway(app, Settings())

    for _ in range(100):
        async with running(app):
            assert await offload.thread(lambda: 1) == 1
    with pytest.raises(NotOpen):
        await offload.thread(lambda: 1)
    assert road.faults == {}


async def test_two_apps_in_one_process_have_each_their_own() -> None:
    """In a request each app finds its own Clearway; outside, two are an error."""
    apps = []
    for _ in range(2):
        app = FastAPI()
        road = Clearway(app, Settings())

        @app.get("/")
        async def read(expected: int) -> bool:
            return id(Clearway.current()) == expected

        apps.append((app, road))

    async with serving(apps[0][0]) as one, serving(apps[1][0]) as two:
        assert (await one.get("/", params={"expected": id(apps[0][1])})).json() is True
        assert (await two.get("/", params={"expected": id(apps[1][1])})).json() is True
        with pytest.raises(SeveralOpen):
            Clearway.current()


async def test_a_part_that_cannot_open_fails_the_start_and_closes_the_others() -> None:
    """The code and the fix reach the server's log, and nothing stays open."""
    app = FastAPI()
    Clearway(app, Settings.model_validate({"database": {"url": "mysql://h/d"}}))

    @app.get("/")
    async def read(session: DbSession) -> None: ...

    with pytest.raises(StartFailed, match=r"(?s)\[CW202\].*fix:.*clearway explain CW202"):
        async with running(app):
            raise AssertionError("the app came up")
    with pytest.raises(NotOpen):
        Clearway.current()


async def test_a_script_opens_the_parts_by_itself() -> None:
    """`async with road` opens outside a server, and raises the error itself."""
    road = Clearway(FastAPI(), Settings())
    async with road:
        assert Clearway.current() is road
        assert set(road.lanes) == {"requests", "threads", "processes", "background"}

    broken = Clearway(FastAPI(), Settings.model_validate({"database": {"url": "mysql://h/d"}}))
    assert broken.db is not None
    with pytest.raises(DatabaseUrlInvalid):
        await broken.open()


async def test_a_script_has_a_journey_of_its_own() -> None:
    """`road.journey` names it, settles what hangs on it, and keeps a ledger."""
    road = Clearway(FastAPI(), Settings())
    verdicts: list[bool] = []

    async def settle(commit: bool) -> None:
        verdicts.append(commit)

    async with road:
        async with road.journey("import") as journey:
            assert current_journey() is journey
            assert journey.route == "import"
            journey.before_response.append(settle)
            await offload.thread(time.sleep, 0.001)
        with pytest.raises(KeyError):
            async with road.journey("import") as broken:
                broken.before_response.append(settle)
                raise KeyError

    assert verdicts == [True, False]
    assert journey.ledger["threads"].holds == 1


@pytest.fixture(autouse=True)
def _fresh_logging() -> Iterator[None]:
    """Give every test a process that has configured nothing."""
    handlers = list(logging.root.handlers)
    logging.root.handlers[:] = []
    yield
    logging.root.handlers[:] = handlers
