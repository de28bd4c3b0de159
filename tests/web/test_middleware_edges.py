"""The edges of the layer: starts that fail, deadlines that end, cancellations that repeat."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import fastapi.routing
import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount
from starlette.testclient import TestClient

from clearway import Clearway, Settings, current_journey, offload
from clearway.errors import LaneBusy, NotOpen
from support.asgi import StartFailed, running, serving

pytestmark = pytest.mark.anyio


class Broken:
    """A part that cannot open, for a reason that is no error of ours."""

    async def open(self) -> None:
        raise ZeroDivisionError("a bug")

    async def close(self) -> None: ...


async def test_any_error_at_the_start_refuses_it() -> None:
    """An exception would be taken by uvicorn for an app without a lifespan, which then serves."""
    app = FastAPI()
    road = Clearway(app, Settings())
    open_logs = road._open_logs

    async def broken() -> None:
        await open_logs()
        await road._parts.open(Broken())

    road._open_logs = broken  # type: ignore[method-assign]  # the fault is injected here
    with pytest.raises(StartFailed, match="ZeroDivisionError: a bug"):
        async with running(app):
            raise AssertionError("the app came up")
    with pytest.raises(NotOpen):
        Clearway.current()


async def test_an_inner_user_does_not_close_the_outer_ones_parts() -> None:
    """Each `open` wants its own `close`."""
    road = Clearway(FastAPI(), Settings())
    async with road:
        async with road:
            pass
        assert await offload.thread(lambda: 1) == 1
    with pytest.raises(NotOpen):
        await offload.thread(lambda: 1)


async def test_bodies_tasks_and_sockets_are_not_bound_by_the_deadline() -> None:
    """In mode `enforce` the deadline ends where the response begins; sockets never have one."""
    settings = Settings.model_validate({"request": {"timeout": 0.5, "timeout_mode": "enforce"}})
    app = FastAPI()
    Clearway(app, settings)

    @app.get("/")
    async def stream() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"a"
            await asyncio.sleep(0.7)
            yield await offload.thread(lambda: b"b")

        return StreamingResponse(body())

    @app.websocket("/ws")
    async def socket(ws: WebSocket) -> None:
        await ws.accept()
        await asyncio.sleep(0.7)
        await ws.send_json(await offload.thread(lambda: 1))

    async with serving(app) as client:
        assert (await client.get("/")).text == "ab"
    with TestClient(app) as sync, sync.websocket_connect("/ws") as ws:
        assert ws.receive_json() == 1


async def test_a_second_cancellation_leaves_no_request_behind() -> None:
    """A server that loses patience cancels twice: the rollback ends, the gauge goes down."""
    app = FastAPI()
    road = Clearway(app, Settings())
    entered, rolled_back = asyncio.Event(), asyncio.Event()

    @app.get("/")
    async def read() -> None:
        journey = current_journey()
        assert journey is not None

        async def settle(commit: bool) -> None:
            entered.set()
            await asyncio.sleep(0.1)
            if not commit:
                rolled_back.set()

        journey.before_response.append(settle)
        entered.set()
        await asyncio.sleep(60)

    async with serving(app) as client:
        request = asyncio.create_task(client.get("/"))
        await entered.wait()
        entered.clear()
        request.cancel()
        await entered.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    assert rolled_back.is_set()
    assert road.lanes["requests"].snapshot().in_use == 0
    assert current_journey() is None


async def test_a_rollback_that_hangs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its time it is cancelled itself, and counted."""
    monkeypatch.setattr("clearway.web.middleware.SETTLE_WITHIN", 0.05)
    app = FastAPI()
    road = Clearway(app, Settings())

    @app.get("/")
    async def read() -> None:
        journey = current_journey()
        assert journey is not None

        async def settle(commit: bool) -> None:
            await asyncio.sleep(60)

        journey.answered = True
        journey.before_response.append(settle)
        raise asyncio.CancelledError

    async with serving(app) as client:
        async with asyncio.timeout(10):
            with pytest.raises(asyncio.CancelledError):
                await client.get("/")

    assert road.faults == {"rollback": 1}


async def test_a_script_that_fails_or_is_cancelled_rolls_back_and_tells_its_afterthoughts() -> None:
    """`fail` rolls back and drops them; a cancelled block never commits, whatever `keep` says."""
    road = Clearway(FastAPI(), Settings())
    log: list[object] = []

    async def settle(commit: bool) -> None:
        log.append(commit)

    async def after(committed: bool) -> None:
        assert not committed
        log.append("after")

    async with road:
        async with road.journey("failed") as journey:
            journey.before_response.append(settle)
            journey.after_response.append(after)
            journey.fail()
        with pytest.raises(asyncio.CancelledError):
            async with road.journey("cancelled") as journey:
                journey.before_response.append(settle)
                journey.keep()
                raise asyncio.CancelledError

    assert log == [False, "after", False]


def refusing() -> FastAPI:
    """Return an app whose one route is refused by a lane."""
    app = FastAPI()

    @app.get("/")
    async def read() -> None:
        raise LaneBusy("busy", retry_after=1)

    return app


# Older versions leave the mounts of an included router out, with us and without us.
MOUNTS = ["with middleware", "in a mount"]
MOUNTS += ["in a router"] if hasattr(fastapi.routing, "iter_route_contexts") else []


@pytest.mark.parametrize("kind", MOUNTS)
async def test_every_mounted_app_answers_our_errors_as_problems(kind: str) -> None:
    """However it is mounted, a refusal is a 503 and not a 500."""
    app = FastAPI()
    if kind == "with middleware":
        app.router.routes.append(
            Mount("/sub", app=refusing(), middleware=[Middleware(GZipMiddleware)])
        )
    elif kind == "in a mount":
        app.router.routes.append(Mount("/sub", routes=[Mount("/", app=refusing())]))
    else:
        router = APIRouter()
        router.mount("/sub", refusing())
        app.include_router(router)
    Clearway(app, Settings())

    async with serving(app) as client:
        answer = await client.get("/sub/")

    assert (answer.status_code, answer.json()["code"]) == (503, "CW301")


async def test_an_error_after_the_response_is_settled_keeps_the_commit() -> None:
    """What hangs on the journey after a commit is not undone by a body that fails."""
    app = FastAPI()
    Clearway(app, Settings())
    log: list[str] = []

    @app.get("/")
    async def read() -> StreamingResponse:
        journey = current_journey()
        assert journey is not None

        async def after(committed: bool) -> None:
            log.append(f"after {committed}")

        journey.after_response.append(after)

        async def body() -> AsyncIterator[bytes]:
            yield b"a"
            raise RuntimeError("cut off")

        return StreamingResponse(body())

    async with serving(app) as client:
        await client.get("/")

    assert log == ["after True"]
