"""Resources in a running app: order, sharing, overriding, failing, closing."""

# No `from __future__ import annotations`: resources that a test declares inside itself are
# found in annotations only where Python evaluates them on the spot.

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Annotated, Any

import anyio
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, Response, WebSocket
from sqlalchemy import text

from clearway import Background, Clearway, Settings, current_journey, offload, resource
from clearway.background.tasks import background_dependency
from clearway.core.current import find
from clearway.errors import NotOpen, ResourceFailed
from clearway.state import Resource
from clearway.state.resources import Resources
from support.asgi import StartFailed, client_for, running, serving

pytestmark = pytest.mark.anyio


def tracked(name: str, log: list[str], *, fails: bool = False) -> Resource[str]:
    """Return a resource that writes down its opening and closing."""

    async def opened() -> AsyncIterator[str]:
        if fails:
            raise FileNotFoundError(f"no {name} here")
        log.append(f"+{name}")
        yield name
        log.append(f"-{name}")

    opened.__qualname__ = name
    return resource(opened)


def app_taking(*resources: Resource[Any], **settings: float) -> tuple[FastAPI, Clearway]:
    """Return an app whose only endpoint takes these resources."""
    app = FastAPI(dependencies=list(resources))

    @app.get("/")
    async def read() -> None: ...

    return app, Clearway(app, Settings.model_validate({"state": settings}))


def said(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """Return what the room has logged from this level on."""
    records = [r for r in caplog.records if r.name == "clearway.state" and r.levelno >= level]
    return [record.getMessage() for record in records]


async def start_refusal(app: FastAPI) -> str:
    """Return the message with which the app refuses to start."""
    with pytest.raises(StartFailed) as refusal:
        async with running(app):
            raise AssertionError("the app came up")
    return str(refusal.value)


# Opened once, shared


async def test_every_kind_of_code_takes_the_same_value() -> None:
    """Endpoints, `def` ones too, dependencies, sockets and `await` share what is opened once."""
    opened: list[object] = []

    @resource
    async def thing() -> AsyncIterator[object]:
        opened.append(object())
        yield opened[-1]

    app = FastAPI()
    Clearway(app, Settings())

    def inner(value: Annotated[object, thing]) -> int:
        return id(value)

    @app.get("/async")
    async def read(value: Annotated[object, thing], nested: int = Depends(inner)) -> list[int]:
        return [id(value), nested, id(await thing())]

    @app.get("/def")
    def read_in_thread(value: Annotated[object, thing]) -> list[int]:
        assert threading.current_thread() is not threading.main_thread()
        return [id(value)]

    @app.websocket("/socket")
    async def talk(socket: WebSocket, value: Annotated[object, thing]) -> None: ...

    async with serving(app) as client:
        answers = [(await client.get(path)).json() for path in ("/async", "/def")]
        outside = await thing()

    assert len(opened) == 1
    assert answers == [[id(outside)] * 3, [id(outside)]]


def in_router(app: FastAPI, endpoint: Callable[..., Any]) -> None:
    """An endpoint of an included router."""
    inner, outer = APIRouter(prefix="/inner"), APIRouter()
    inner.get("/deep")(endpoint)
    outer.include_router(inner)
    app.include_router(outer, prefix="/v1")


def in_mount(app: FastAPI, endpoint: Callable[..., Any]) -> None:
    """An endpoint of a mounted application."""
    sub = FastAPI()
    sub.get("/deep")(endpoint)
    app.mount("/sub", sub)


def in_socket(app: FastAPI, endpoint: Callable[..., Any]) -> None:
    """A WebSocket."""
    app.websocket("/socket")(endpoint)


@pytest.mark.parametrize(
    ("build", "path"),
    [(in_router, "/v1/inner/deep"), (in_mount, "/sub/deep"), (in_socket, "/socket")],
)
async def test_what_any_route_takes_opens_at_the_start(
    build: Callable[[FastAPI, Callable[..., Any]], None], path: str, caplog: Any
) -> None:
    """It is open before the first request, and shows who needs it and how long it took."""
    caplog.set_level(logging.INFO, "clearway.state")
    log: list[str] = []
    thing, unused = tracked("thing", log), tracked("unused", log)

    async def endpoint(value: Annotated[str, thing]) -> None: ...

    app = FastAPI()
    build(app, endpoint)
    road = Clearway(app, Settings())
    assert road.resources == {}

    async with running(app):
        assert log == ["+thing"]
        assert list(road.resources) == [thing.name]
        snapshot = road.resources[thing.name]

    assert snapshot.needed_by == f"{endpoint.__qualname__} ({path})"
    assert snapshot.seconds > 0
    assert [line.rpartition(" in ")[0] for line in said(caplog, logging.INFO)] == [
        f"resource {thing.name} opened"
    ]
    assert road.resources == {}
    assert unused.name not in road.resources


async def test_what_is_needed_opens_before_and_closes_after() -> None:
    """A resource asks for others by parameter, each opened once whoever needs it."""
    log: list[str] = []
    base = tracked("base", log)

    @resource
    async def left(below: Annotated[str, base]) -> AsyncIterator[str]:
        log.append("+left")
        yield f"{below}.left"
        log.append("-left")

    @resource
    async def top(
        one: Annotated[str, left], two: Annotated[str, Depends(base)]
    ) -> AsyncIterator[str]:
        log.append(f"+top of {one} and {two}")
        yield "top"
        log.append("-top")

    app, road = app_taking(top, base)

    async with running(app):
        assert list(road.resources) == [base.name, left.name, top.name]
        assert road.resources[base.name].needed_by == left.name

    assert log == ["+base", "+left", "+top of base.left and base", "-top", "-left", "-base"]


async def test_a_resource_stands_between_our_parts_and_the_apps_own_lifespan(
    database_url: str,
) -> None:
    """It may query and offload; the app's `lifespan=` finds it open, `app.state` works as ever."""
    log: list[object] = []

    @resource
    async def rows() -> AsyncIterator[int]:
        async with road.db.session() as session:
            value = await session.scalar(text("SELECT 41"))
        yield await offload.thread(lambda: value + 1)
        async with road.db.session() as session:
            log.append(await session.scalar(text("SELECT 'closed'")))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, int]]:
        app.state.rows = await rows()
        log.append("app opened")
        yield {"from_lifespan": app.state.rows}
        log.append(("app closes", await rows()))

    app = FastAPI(lifespan=lifespan)
    road = Clearway(app, Settings.model_validate({"database": {"url": database_url}}))

    @app.get("/")
    async def read(request: Request, value: Annotated[int, rows]) -> int:
        assert request.app.state.rows == value
        return value

    async with serving(app) as client:
        assert (await client.get("/")).json() == 42

    assert log == ["app opened", ("app closes", 42), "closed"]


async def test_nothing_in_a_resource_waits_for_a_response(database_url: str) -> None:
    """There is none: a request's session is refused with the way out, a task begins at once."""
    ran = asyncio.Event()

    async def finish() -> None:
        ran.set()

    @resource
    async def thing() -> AsyncIterator[str]:
        (await background_dependency()).add(finish)
        with pytest.raises(NotOpen) as refusal:
            await road.db.dependency()
        yield refusal.value.fix

    road = Clearway(FastAPI(), Settings.model_validate({"database": {"url": database_url}}))
    async with road, asyncio.timeout(20):
        assert "async with road.db.session() as session" in await thing()
        await ran.wait()


async def test_while_it_opens_its_own_clearway_is_the_current_one() -> None:
    """With two open in one process each resource finds its own, and has a journey of its own."""
    seen: list[tuple[str, Clearway]] = []

    @resource
    async def who() -> AsyncIterator[Clearway]:
        journey = current_journey()
        assert journey is not None
        assert journey.route == who.name
        seen.append((journey.kind, Clearway.current()))
        yield Clearway.current()

    @resource
    async def through_call() -> AsyncIterator[Clearway]:
        yield await who()

    (one, road_of_one), (two, road_of_two) = app_taking(through_call), app_taking(through_call)

    async with running(one), running(two):
        async with road_of_one.journey("script"):
            assert await through_call() is road_of_one
        async with road_of_two.journey("script"):
            assert await through_call() is road_of_two

    assert seen == [("script", road_of_one), ("script", road_of_two)]


async def test_what_a_request_has_bound_does_not_live_on_in_a_resource() -> None:
    """One that a request opens runs in the context of the start, not in that of the request."""
    bound: ContextVar[str] = ContextVar("bound", default="nothing")

    @resource
    async def late() -> AsyncIterator[str]:
        yield bound.get()

    app = FastAPI()
    road = Clearway(app, Settings())

    @app.get("/late/{id}")
    async def read(id: str) -> str:
        bound.set("the request")
        return await late()

    bound.set("the start")
    async with serving(app) as client:
        assert (await client.get("/late/1")).json() == "the start"
        assert road.resources[late.name].needed_by == "/late/{id}"


async def test_a_task_group_may_span_the_value() -> None:
    """It is entered and left by one task, so anyio's scopes hold inside a resource."""
    ticks: list[int] = []

    @resource
    async def ticker() -> AsyncIterator[list[int]]:
        async def tick() -> None:
            while True:
                ticks.append(await offload.thread(lambda: 1))
                await asyncio.sleep(0.001)

        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            yield ticks
            group.cancel_scope.cancel()

    app, _ = app_taking(ticker)

    async with running(app), asyncio.timeout(20):
        while not ticks:
            await asyncio.sleep(0.001)
    count = len(ticks)
    await asyncio.sleep(0.01)

    assert len(ticks) == count


# Opened later


async def test_first_calls_at_one_time_open_it_once() -> None:
    """What no route takes opens when it is first asked for, once for all who ask."""
    opened: list[int] = []
    gate = asyncio.Event()

    @resource
    async def late() -> AsyncIterator[int]:
        opened.append(1)
        await gate.wait()
        yield len(opened)

    async with Clearway(FastAPI(), Settings()) as road:
        assert opened == []
        waiters = [asyncio.create_task(late()) for _ in range(10)]
        await asyncio.sleep(0.01)
        waiters.pop().cancel()  # one who leaves takes nothing from the others
        gate.set()
        assert await asyncio.gather(*waiters) == [1] * 9
        assert road.resources[late.name].needed_by == "a call"


async def test_a_failure_reaches_every_waiter_and_the_next_call_tries_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The cause is kept and logged once with its traceback."""
    attempts: list[int] = []
    gate = asyncio.Event()

    @resource
    async def flaky() -> AsyncIterator[int]:
        attempts.append(1)
        await gate.wait()
        if len(attempts) == 1:
            raise ConnectionError("not there yet")
        yield len(attempts)

    async with Clearway(FastAPI(), Settings()):
        waiters = [asyncio.create_task(flaky()) for _ in range(3)]
        await asyncio.sleep(0.01)
        gate.set()
        failures = await asyncio.gather(*waiters, return_exceptions=True)
        assert await flaky() == 2

    for failure in failures:
        assert isinstance(failure, ResourceFailed)
        assert isinstance(failure.__cause__, ConnectionError)
        assert "ConnectionError: not there yet" in failure.what
    assert said(caplog) == [f"resource {flaky.name} could not be opened"]
    assert "ConnectionError: not there yet" in caplog.text


async def test_a_script_leaves_background_tasks_that_still_have_it() -> None:
    """At the end of `async with road` the tasks are drained before resources close."""
    log: list[str] = []
    thing = tracked("thing", log)
    road = Clearway(FastAPI(), Settings())

    async def use() -> None:
        await asyncio.sleep(0.01)
        log.append(f"task has {await thing()}")

    app = road.app

    @app.get("/")
    async def read(background: Background) -> None:
        background.add(use)

    async with road, client_for(app) as client:
        await client.get("/")
        await thing()

    assert log == ["+thing", "task has thing", "-thing"]


# Failing at the start


async def test_one_that_raises_fails_the_start_and_the_others_close(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The message names it, what it raised, what needed it; the app's own start never runs."""
    log: list[str] = []
    good, broken = tracked("good", log), tracked("broken", log, fails=True)

    @resource
    async def repo(below: Annotated[str, broken]) -> AsyncIterator[str]:
        log.append("repo")
        yield below

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        log.append("app")
        yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/rows")
    async def rows(one: Annotated[str, good], other: Annotated[str, repo]) -> None: ...

    road = Clearway(app, Settings())
    message = await start_refusal(app)

    assert f"[CW106] resource {broken.name} could not be opened" in message
    assert "FileNotFoundError: no broken here" in message
    assert f"(needed by {repo.name}, needed by {rows.__qualname__} (/rows))" in message
    assert "clearway explain CW106" in message
    assert log == ["+good", "-good"]
    assert said(caplog) == [f"resource {broken.name} could not be opened"]
    with pytest.raises(NotOpen):
        await good()
    with pytest.raises(ResourceFailed) as failure:
        await road.open()
    assert isinstance(failure.value.__cause__, FileNotFoundError)


async def test_one_that_never_yields_is_said_to() -> None:
    """A generator that ends without a value is a failure and not a wait."""

    @resource
    async def empty() -> AsyncIterator[int]:
        if current_journey() is None:
            yield 1

    app, _ = app_taking(empty)

    assert "generator didn't yield" in await start_refusal(app)


async def test_one_that_hangs_fails_the_start_in_time() -> None:
    """The opening is bounded, even where the resource does not let itself be cancelled."""
    gate = asyncio.Event()
    stuck = stubborn(gate, [])

    app, _ = app_taking(stuck, open_within=0.05)
    message = await start_refusal(app)
    gate.set()

    assert "it took longer than state.open_within, 0.05 s" in message
    assert stuck.name in message


def stubborn(gate: asyncio.Event, attempts: list[int]) -> Resource[int]:
    """Return a resource whose first opening outlives two cancellations."""

    @resource
    async def stuck() -> AsyncIterator[int]:
        attempts.append(1)
        for _ in range(2 if len(attempts) == 1 else 0):
            with suppress(asyncio.CancelledError):
                await gate.wait()
        yield len(attempts)

    return stuck


async def test_one_that_was_given_up_does_not_stand_in_the_way() -> None:
    """The next call opens it anew while the first attempt still hangs; that one never counts."""
    gate = asyncio.Event()
    stuck = stubborn(gate, [])

    async with app_taking(open_within=0.05)[1]:
        with pytest.raises(ResourceFailed):
            await stuck()
        assert await stuck() == 2
        gate.set()
        await asyncio.sleep(0.01)
        assert await stuck() == 2


async def test_waiting_for_what_it_needs_is_not_its_own_time() -> None:
    """`open_within` bounds each opening by itself."""
    log: list[str] = []
    base = tracked("base", log)

    @resource
    async def slow(below: Annotated[str, base]) -> AsyncIterator[str]:
        await asyncio.sleep(0.5)
        yield below

    @resource
    async def quick(below: Annotated[str, slow]) -> AsyncIterator[str]:
        yield below

    app, road = app_taking(quick)

    async with running(app):
        assert road.resources[slow.name].seconds > 0.4
        assert road.resources[quick.name].seconds < road.resources[slow.name].seconds


# Closing


async def test_a_close_that_fails_or_hangs_skips_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each closes whatever the others do, bounded; what went wrong is logged by name."""
    log: list[str] = []
    first, last = tracked("first", log), tracked("last", log)

    @resource
    async def raises() -> AsyncIterator[int]:
        yield 1
        raise OSError("cannot close")

    @resource
    async def hangs() -> AsyncIterator[int]:
        yield 1
        try:
            await asyncio.sleep(600)
        finally:
            log.append("cut off")

    @resource
    async def twice() -> AsyncIterator[int]:
        yield 1
        yield 2

    app, _ = app_taking(first, raises, hangs, twice, last, close_within=0.5)
    async with running(app):
        pass

    assert log == ["+first", "+last", "-last", "cut off", "-first"]
    assert said(caplog) == [
        f"resource {twice.name} failed to close",
        f"resource {hangs.name} did not close within 0.5 s",
        f"resource {raises.name} failed to close",
    ]
    assert "OSError: cannot close" in caplog.text


async def test_a_cancelled_shutdown_still_closes_them() -> None:
    """Who is cancelled while closing waits, bounded, until everything has closed."""
    log: list[str] = []
    first = tracked("first", log)
    closing = asyncio.Event()

    @resource
    async def slow() -> AsyncIterator[int]:
        yield 1
        closing.set()
        await asyncio.sleep(0.02)
        log.append("-slow")

    road = app_taking(first, slow)[1]
    await road.open()
    task = asyncio.create_task(road.close())
    await closing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert log == ["+first", "-slow", "-first"]


async def test_the_shutdown_cuts_off_what_still_opens() -> None:
    """Who waits for it is told, and nothing opens after."""

    @resource
    async def endless() -> AsyncIterator[int]:
        await asyncio.sleep(600)
        yield 1

    road = Clearway(FastAPI(), Settings())
    await road.open()
    waiter = asyncio.create_task(endless())
    await asyncio.sleep(0.01)
    part = find(Resources, "a test")
    await road.close()

    with pytest.raises(ResourceFailed, match="it was cancelled"):
        await waiter
    with pytest.raises(NotOpen, match="after the shutdown had begun"):
        await part.get(endless)


async def test_one_that_dies_in_use_is_said_and_opened_anew(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A task group that fails ends its resource; the next who asks gets a new one."""
    opened: list[int] = []

    @resource
    async def fragile() -> AsyncIterator[asyncio.Event]:
        opened.append(1)
        broken = asyncio.Event()

        async def watch() -> None:
            await broken.wait()
            raise ConnectionResetError("gone")

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            yield broken
            group.cancel_scope.cancel()

    async with Clearway(FastAPI(), Settings()) as road:
        first = await fragile()
        first.set()
        async with asyncio.timeout(20):
            while road.resources:
                await asyncio.sleep(0.001)
        assert await fragile() is not first

    assert len(opened) == 2
    assert said(caplog) == [f"resource {fragile.name} ended while it was in use"]
    assert "ConnectionResetError: gone" in caplog.text


# In tests, and where nothing is open


async def fake_async() -> str:
    """Return a stand-in."""
    return "fake"


async def fake_generator() -> AsyncIterator[str]:
    """Yield a stand-in."""
    yield "fake"


@pytest.mark.parametrize(
    "fake", [lambda: "fake", fake_async, fake_generator, resource(fake_generator)]
)
async def test_an_override_takes_its_place_for_everybody(fake: Callable[[], Any]) -> None:
    """Endpoints, resources that need it and `await` get the fake; the real one never opens."""
    log: list[str] = []
    real = tracked("real", log)

    @resource
    async def above(below: Annotated[str, real]) -> AsyncIterator[str]:
        yield f"above {below}"

    app = FastAPI()
    Clearway(app, Settings())

    @app.get("/")
    async def read(one: Annotated[str, real], two: Annotated[str, above]) -> list[str]:
        return [one, two, await real()]

    app.dependency_overrides = {real: fake}
    async with serving(app) as client:
        assert (await client.get("/")).json() == ["fake", "above fake", "fake"]
        assert log == []
        app.dependency_overrides = {}
        assert (await client.get("/")).json() == ["real", "above fake", "real"]


async def test_what_an_overridden_dependency_took_does_not_open() -> None:
    """Neither does what a mounted application overrides for itself."""
    log: list[str] = []
    outer, inner = tracked("outer", log), tracked("inner", log)
    app, sub = FastAPI(), FastAPI()
    Clearway(app, Settings())

    def service(value: Annotated[str, outer]) -> str:
        return value

    @app.get("/")
    async def read(value: Annotated[str, Depends(service)]) -> str:
        return value

    @sub.get("/")
    async def read_sub(value: Annotated[str, inner]) -> str:
        return value

    app.mount("/sub", sub)
    app.dependency_overrides[service] = lambda: "fake"
    sub.dependency_overrides[inner] = lambda: "fake too"

    async with serving(app) as client:
        answers = [(await client.get(path)).json() for path in ("/", "/sub/")]

    assert answers == ["fake", "fake too"]
    assert log == []


@pytest.mark.parametrize("off", [False, True])
async def test_without_a_lifespan_it_is_not_open(
    off: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that takes one raises `NotOpen` with the fix, also under CLEARWAY=off."""
    if off:
        monkeypatch.setenv("CLEARWAY", "off")
    log: list[str] = []
    thing = tracked("thing", log)
    app, _ = app_taking(thing)
    caught: list[NotOpen] = []

    @app.exception_handler(NotOpen)
    async def catch(request: Request, error: NotOpen) -> Response:
        caught.append(error)
        return Response(status_code=500)

    async with client_for(app) as client:
        await client.get("/")

    (error,) = caught
    assert f"resource {thing.name} was used while no Clearway was open" in str(error)
    assert "with TestClient(app)" in error.fix
    assert log == []


async def test_an_app_without_resources_and_with_its_own_lifespan_is_as_before() -> None:
    """The state that a lifespan yields and `app.state` reach requests."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.value = "set"
        yield
        app.state.value = "closed"

    app = FastAPI(lifespan=lifespan)
    Clearway(app, Settings())

    @app.get("/")
    async def read(request: Request) -> str:
        value: str = request.app.state.value
        return value

    async with serving(app) as client:
        assert (await client.get("/")).json() == "set"
    assert app.state.value == "closed"
