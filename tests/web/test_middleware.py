"""The one layer: what it leaves alone, what it settles, and what cannot break it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx2
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.testclient import TestClient

from clearway import Clearway, Journey, Settings, current_journey, offload
from clearway.core.observer import Headers, Observer
from clearway.errors import CommitConflict, CommitFailed, LaneBusy, NotOpen
from support.asgi import client_for, serving

pytestmark = pytest.mark.anyio


def busy_app() -> FastAPI:
    """Return an app with every common kind of answer."""
    app = FastAPI()

    @app.get("/json")
    async def json() -> dict[str, int]:
        return {"one": 1}

    @app.get("/sync")
    def sync() -> str:
        return "from a thread"

    @app.get("/error")
    async def error() -> None:
        raise HTTPException(418, headers={"X-Why": "teapot"})

    @app.get("/crash")
    async def crash() -> None:
        raise RuntimeError("boom")

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            for number in range(3):
                yield str(number).encode()

        return StreamingResponse(body(), headers={"X-Kind": "stream"})

    @app.post("/echo")
    async def echo(request: Request) -> Response:
        return Response(await request.body(), media_type="application/octet-stream")

    @app.websocket("/ws")
    async def socket(ws: WebSocket) -> None:
        await ws.accept()
        await ws.send_text((await ws.receive_text()).upper())
        await ws.close()

    return app


async def answers_of(app: FastAPI) -> list[tuple[int, dict[str, str], bytes]]:
    """Return status, headers and body of every route of `busy_app`."""
    async with serving(app) as client:
        responses = [
            await client.get("/json"),
            await client.get("/sync"),
            await client.get("/error"),
            await client.get("/crash"),
            await client.get("/stream"),
            await client.post("/echo", content=b"x" * 10_000),
            await client.get("/nowhere"),
            await client.head("/json"),
            await client.options("/json"),
            await client.get("/openapi.json"),
        ]
    return [(r.status_code, dict(r.headers), r.content) for r in responses]


async def test_the_line_alone_changes_nothing_but_the_request_id() -> None:
    """Statuses, bodies and headers are the same with and without the line."""
    bare = await answers_of(busy_app())
    app = busy_app()
    Clearway(app, Settings())
    ours = await answers_of(app)

    for (_, headers, _), (_, with_id, _) in zip(bare, ours, strict=True):
        assert with_id.pop("x-request-id")
        assert headers == with_id
    assert [(status, body) for status, _, body in bare] == [(s, b) for s, _, b in ours]


class Shouting(BaseHTTPMiddleware):
    """A middleware of the usual kind, which runs the app in a task of its own."""

    async def dispatch(
        self, request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        response = await call_next(request)
        response.headers["X-Shout"] = "HEY"
        return response


@pytest.mark.parametrize("when", ["before", "after"])
async def test_base_http_middleware_above_and_below(when: str) -> None:
    """The journey reaches the handler and the id the answer, wherever the middleware was added."""
    app = busy_app()
    if when == "before":
        app.add_middleware(Shouting)
    Clearway(app, Settings())
    if when == "after":
        app.add_middleware(Shouting)

    @app.get("/who")
    async def who() -> str | None:
        journey = current_journey()
        return journey.id if journey else None

    async with serving(app) as client:
        answer = await client.get("/who")
        crash = await client.get("/crash")

    assert answer.json() == answer.headers["x-request-id"]
    assert answer.headers["x-shout"] == "HEY"
    assert crash.status_code == 500
    assert crash.headers["x-request-id"]


async def test_a_refusal_by_the_apps_own_middleware_has_an_id() -> None:
    """A 401 from middleware that was added later passes through us as well."""
    app = FastAPI()
    Clearway(app, Settings())

    @app.middleware("http")
    async def refuse(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        return JSONResponse({}, 401)

    async with serving(app) as client:
        answer = await client.get("/")

    assert (answer.status_code, bool(answer.headers["x-request-id"])) == (401, True)


async def test_the_users_own_lifespan_runs_inside_ours() -> None:
    """Our parts are open in the user's start-up and still open in the user's shutdown."""
    seen: list[object] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, int]]:
        seen.append(await offload.thread(threading.current_thread))
        yield {"answer": 42}
        seen.append(await offload.thread(threading.current_thread))

    app = FastAPI(lifespan=lifespan)
    Clearway(app, Settings())

    @app.get("/")
    async def read(request: Request) -> int:
        answer: int = request.state.answer
        return answer

    with TestClient(app) as client:
        assert client.get("/").json() == 42

    assert len(seen) == 2
    assert threading.main_thread() not in seen


def test_without_a_lifespan_the_request_path_works_and_the_names_say_what_is_missing() -> None:
    """TestClient without `with`: requests are served; `offload` raises NotOpen with the fix."""
    app = busy_app()
    Clearway(app, Settings())

    @app.get("/offload")
    async def use() -> str:
        with pytest.raises(NotOpen, match=r"with TestClient\(app\)"):
            await offload.thread(time.time)
        return "named"

    client = TestClient(app)

    assert [client.get("/json").status_code for _ in range(3)] == [200] * 3
    assert client.get("/offload").json() == "named"


def test_websockets_travel_too() -> None:
    """A WebSocket works and its handshake carries the id."""
    app = busy_app()
    Clearway(app, Settings())

    with TestClient(app) as client, client.websocket_connect("/ws") as ws:
        ws.send_text("hey")
        assert ws.receive_text() == "HEY"
        handshake: list[tuple[bytes, bytes]] = list(ws.extra_headers)  # type: ignore[call-overload]  # None only before it
        assert b"x-request-id" in dict(handshake)


async def test_dependency_overrides_work() -> None:
    """An override takes the place of a dependency as before."""
    app = FastAPI()
    Clearway(app, Settings())

    async def real() -> str:
        return "real"

    @app.get("/")
    async def read(value: str = Depends(real)) -> str:
        return value

    app.dependency_overrides[real] = lambda: "fake"
    async with serving(app) as client:
        assert (await client.get("/")).json() == "fake"


MOMENTS = ["started", "responding", "finished"]


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_fault_in_an_observer_never_fails_a_request(
    moment: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever an observer raises, the answer is the app's, and the fault is counted."""

    class Broken(Observer):
        def started(self, journey: Journey) -> None:
            self.fail("started")

        def responding(self, journey: Journey, headers: Headers) -> None:
            self.fail("responding")

        def finished(self, journey: Journey) -> None:
            self.fail("finished")

        def fail(self, where: str) -> None:
            if where == moment:
                raise ZeroDivisionError

    app = busy_app()
    road = Clearway(app, Settings())
    async with serving(app) as client:
        road._path.watch([Broken()])
        answer = await client.get("/json")

    assert (answer.status_code, answer.json()) == (200, {"one": 1})
    assert road.faults == {f"Broken.{moment}": 1}
    assert "the request went on" in capfd.readouterr().err


async def test_a_fault_before_the_journey_lets_the_app_serve_alone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A fault in the probes or in making the journey: the app answers as if we were not there."""

    class BrokenRoute:
        def matches(self, scope: object) -> None:
            raise ZeroDivisionError

    app = busy_app()
    road = Clearway(app, Settings())
    async with serving(app) as client:
        road._path.probes._routes = lambda: [BrokenRoute()]  # type: ignore[union-attr,list-item]  # the fault is injected here
        answer = await client.get("/livez")

    assert answer.status_code == 404
    assert road.faults == {"middleware": 1}
    assert "ZeroDivisionError" in capfd.readouterr().err


def hanging(
    error: Exception | None, log: list[str], name: str
) -> Callable[[bool], Awaitable[None]]:
    """Return a hook that remembers its verdict and may fail."""

    async def settle(commit: bool) -> None:
        log.append(f"{name} {'commit' if commit else 'rollback'}")
        if error is not None and commit:
            raise error

    return settle


@pytest.mark.parametrize(
    ("error", "status"),
    [(CommitFailed("no"), 500), (CommitConflict("again", retry_after=1), 409), (OSError(), 500)],
)
async def test_a_failed_settlement_replaces_the_answer_before_its_first_byte(
    error: Exception, status: int
) -> None:
    """The app's whole answer is swallowed, and the error is raised after the app returned."""
    app = FastAPI()
    Clearway(app, Settings())
    log: list[str] = []

    @app.get("/")
    async def read() -> StreamingResponse:
        journey = current_journey()
        assert journey is not None
        journey.before_response.append(hanging(error, log, "unit"))

        async def body() -> AsyncIterator[bytes]:
            log.append("body ran")
            yield b"secret"

        return StreamingResponse(body(), status_code=201)

    async with serving(app) as client:
        answer = await client.get("/")
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as strict:
            if status >= 500:
                with pytest.raises(type(error)):
                    await strict.get("/")
            else:
                assert (await strict.get("/")).status_code == status

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert b"secret" not in answer.content
    assert answer.headers.get("retry-after") == ("1" if status == 409 else None)
    assert log[:2] == ["unit commit", "body ran"]


async def test_after_response_runs_after_the_body_and_knows_of_the_commit() -> None:
    """One failure there is counted and never skips the next; each learns whether it committed."""
    app = FastAPI()
    road = Clearway(app, Settings())
    log: list[str] = []

    @app.get("/{status}")
    async def read(status: int) -> Response:
        journey = current_journey()
        assert journey is not None

        async def broken(committed: bool) -> None:
            log.append("broken")
            raise ValueError

        async def fine(committed: bool) -> None:
            log.append(f"after {status} {committed}")

        journey.after_response.extend([broken, fine])
        return Response(status_code=status)

    async with serving(app) as client:
        await client.get("/204")
        await client.get("/404")

    assert log == ["broken", "after 204 True", "broken", "after 404 False"]
    assert road.faults == {"after_response": 2}


async def test_a_request_that_is_cancelled_is_rolled_back() -> None:
    """The server cancels the task: what hangs on the journey is rolled back, in spite of it."""
    app = FastAPI()
    Clearway(app, Settings())
    log: list[str] = []
    entered = asyncio.Event()

    @app.get("/")
    async def read() -> None:
        journey = current_journey()
        assert journey is not None

        async def settle(commit: bool) -> None:
            await asyncio.sleep(0.01)
            log.append("commit" if commit else "rollback")

        journey.before_response.append(settle)
        entered.set()
        await asyncio.sleep(60)

    async with serving(app) as client:
        request = asyncio.create_task(client.get("/"))
        await entered.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    assert log == ["rollback"]


async def test_our_own_errors_are_answered_as_problems() -> None:
    """A lane's refusal in a handler is a 503 with Retry-After, also in a mounted app."""
    app, sub = FastAPI(), FastAPI()

    async def read() -> None:
        raise LaneBusy("lane 'db' is busy at 10.0.0.7", fix="ask for fewer", retry_after=2.1)

    app.get("/")(read)
    sub.get("/")(read)
    app.mount("/sub", sub)
    Clearway(app, Settings())

    async with serving(app) as client:
        answers = [await client.get("/"), await client.get("/sub/")]

    for answer in answers:
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "3"
        assert answer.json()["code"] == "CW301"
        assert "10.0.0.7" not in answer.text, "details stay in the log outside development"


async def test_a_handler_of_the_app_for_our_errors_wins() -> None:
    """The app's own exception handler is not replaced."""
    app = FastAPI()
    Clearway(app, Settings())

    @app.exception_handler(LaneBusy)
    async def handle(request: Request, error: Exception) -> Response:
        return Response("mine", 429)

    @app.get("/")
    async def read() -> None:
        raise LaneBusy("busy")

    async with serving(app) as client:
        assert (await client.get("/")).text == "mine"


def enforced(seconds: float) -> Settings:
    """Return settings that enforce a timeout."""
    return Settings.model_validate({"request": {"timeout": seconds, "timeout_mode": "enforce"}})


@pytest.mark.parametrize("middleware", [False, True])
async def test_an_enforced_deadline_cancels_the_handler_and_answers_504(middleware: bool) -> None:
    """The handler is cancelled and rolled back, also inside BaseHTTPMiddleware."""
    app = FastAPI()
    Clearway(app, enforced(0.05))
    if middleware:
        app.add_middleware(Shouting)
    log: list[str] = []

    @app.get("/")
    async def read() -> None:
        journey = current_journey()
        assert journey is not None
        journey.before_response.append(hanging(None, log, "unit"))
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    async with serving(app) as client:
        answer = await client.get("/")

    assert (answer.status_code, answer.json()["code"]) == (504, "CW302")
    assert log == ["cancelled", "unit rollback"]


async def test_the_deadline_ends_where_the_response_begins() -> None:
    """A body may take as long as it likes."""
    app = FastAPI()
    Clearway(app, enforced(0.5))

    @app.get("/")
    async def read() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"first "
            await asyncio.sleep(0.7)
            yield b"last"

        return StreamingResponse(body())

    async with serving(app) as client:
        assert (await client.get("/")).text == "first last"


async def test_a_def_endpoint_is_never_cancelled() -> None:
    """Its thread would go on and its token be freed: it is left to end by itself."""
    app = FastAPI()
    Clearway(app, enforced(0.05))

    @app.get("/")
    def read() -> str:
        time.sleep(0.2)
        return "done"

    async with serving(app) as client:
        answer = await client.get("/")

    assert (answer.status_code, answer.json()) == (200, "done")


async def test_observe_counts_what_would_have_expired() -> None:
    """By default nothing is cancelled; what took longer than the timeout is counted."""
    app = FastAPI()
    road = Clearway(app, Settings.model_validate({"request": {"timeout": 0.5}}))

    @app.get("/{seconds}")
    async def read(seconds: float) -> None:
        await asyncio.sleep(seconds)

    async with serving(app) as client:
        assert (await client.get("/0.7")).status_code == 200
        assert (await client.get("/0")).status_code == 200

    assert road._path.would_expire.snapshot().count == 1


async def test_server_timing_is_sent_in_development_only() -> None:
    """The header shows the total and each lane's share, and does not leak from production."""
    app = busy_app()

    @app.get("/work")
    async def work() -> None:
        await offload.thread(time.sleep, 0.01)

    Clearway(app, Settings.model_validate({"service": {"environment": "development"}}))
    async with serving(app) as client:
        timing = (await client.get("/work")).headers["server-timing"]
    marks = dict(mark.split(";dur=") for mark in timing.split(", "))

    assert float(marks["total"]) >= float(marks["threads"]) >= 10

    other = busy_app()
    Clearway(other, Settings())
    async with serving(other) as client:
        assert "server-timing" not in (await client.get("/json")).headers


async def test_requests_are_counted_in_their_lane() -> None:
    """The lane `requests` knows how many are in flight and how long they took."""
    app = busy_app()
    road = Clearway(app, Settings())

    @app.get("/inside")
    async def inside() -> int:
        return road.lanes["requests"].snapshot().in_use

    async with client_for(app) as client:
        assert (await client.get("/inside")).json() == 1
        await client.get("/crash")

    snapshot = road.lanes["requests"].snapshot()
    assert (snapshot.in_use, snapshot.admitted, snapshot.holds.count) == (0, 2, 2)
