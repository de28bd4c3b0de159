"""The pool behind its lane: fair, bounded, awake after failures, right after a restart."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from fastapi import FastAPI
from sqlalchemy import select, text
from sqlalchemy.engine import make_url

from clearway import Clearway, DbSession, ReadDbSession, Settings
from clearway.dev.postgres import EmbeddedPostgres
from support.asgi import serving
from support.wire import wire_to

pytestmark = pytest.mark.anyio


def settings_for(url: str, **database: object) -> Settings:
    """Return settings for a database, in development so that answers say why."""
    return Settings.model_validate(
        {"service": {"environment": "development"}, "database": {"url": url, **database}}
    )


async def test_a_wait_that_is_too_long_is_a_503_with_retry_after(database_url: str) -> None:
    """The pool is empty: the second request is told to come back, the first is not disturbed."""
    app = FastAPI()
    settings = settings_for(database_url, pool_size=1, max_overflow=0, wait_timeout=0.1)
    road = Clearway(app, settings)
    entered, leave = asyncio.Event(), asyncio.Event()

    @app.get("/hold")
    async def hold(session: DbSession) -> None:
        await session.execute(select(1))
        entered.set()
        await leave.wait()

    @app.get("/")
    async def read(session: DbSession) -> None:
        await session.execute(select(1))

    async with serving(app) as client:
        holder = asyncio.create_task(client.get("/hold"))
        await entered.wait()
        refused = await client.get("/")
        leave.set()

        assert (await holder).status_code == 200
        assert (await client.get("/")).status_code == 200
        snapshot = road.lanes["db"].snapshot()

    assert refused.status_code == 503
    assert refused.json()["code"] == "CW211"
    assert int(refused.headers["retry-after"]) >= 1
    assert "within 0.1 s" in refused.json()["detail"]
    assert (snapshot.timed_out, snapshot.in_use) == (1, 0)


async def test_the_pool_never_opens_more_connections_than_the_lane_admits(
    database_url: str,
) -> None:
    """Fifty requests at once on 2 + 1 connections: PostgreSQL never sees more than three."""
    app = FastAPI()
    settings = settings_for(database_url, pool_size=2, max_overflow=1)
    road = Clearway(app, settings)
    peak = 0

    @app.get("/")
    async def read(session: DbSession) -> int:
        count = await session.scalar(
            text("select count(*) from pg_stat_activity where application_name like 'app#%'")
        )
        assert isinstance(count, int)
        return count

    async with serving(app) as client:
        answers = await asyncio.gather(*(client.get("/") for _ in range(50)))
        peak = max(answer.json() for answer in answers)
        snapshot = road.lanes["db"].snapshot()

    assert 1 <= peak <= 3
    assert snapshot.capacity == 3
    assert snapshot.admitted == 50
    assert snapshot.waits.longest > 0


async def test_a_waiter_is_woken_when_the_connect_before_it_fails() -> None:
    """A failed connect gives its place on at once; SQLAlchemy alone sleeps its whole timeout."""
    app = FastAPI()
    url = "postgresql://nobody@127.0.0.1:1/none"
    settings = settings_for(url, pool_size=1, max_overflow=0, wait_timeout=30)
    road = Clearway(app, settings)

    @app.get("/")
    async def read(session: DbSession) -> None:
        await session.execute(select(1))

    async with serving(app) as client:
        async with asyncio.timeout(15):
            answers = await asyncio.gather(*(client.get("/") for _ in range(5)))
        snapshot = road.lanes["db"].snapshot()

    assert {(a.status_code, a.json()["code"]) for a in answers} == {(503, "CW213")}
    assert "127.0.0.1:1/none cannot be reached" in answers[0].json()["detail"]
    assert (snapshot.in_use, snapshot.waiting, snapshot.timed_out) == (0, 0, 0)


@pytest.mark.parametrize(
    ("change", "code"),
    [({"password": "wrong"}, "CW214"), ({"database": "nowhere"}, "CW214"), ({"port": 1}, "CW213")],
)
async def test_a_wrong_address_says_which_part_is_wrong(
    database_url: str, change: dict[str, object], code: str
) -> None:
    """Wrong password, unknown database and no server are told apart."""
    app = FastAPI()
    url = make_url(database_url).set(**change)  # type: ignore[arg-type]  # by keyword, checked there
    Clearway(app, settings_for(url.render_as_string(hide_password=False)))

    @app.get("/")
    async def read(session: DbSession) -> None:
        await session.execute(select(1))

    async with serving(app) as client:
        answer = await client.get("/")

    assert answer.json()["code"] == code
    assert answer.status_code == (503 if code == "CW213" else 500)


async def test_a_full_server_is_told_apart_from_a_busy_pool() -> None:
    """53300 is `server full`, with a time to come back."""
    limits = {"max_connections": "5", "superuser_reserved_connections": "3"}
    with EmbeddedPostgres(settings=limits) as server:
        url = make_url(server.url)
        owner = await asyncpg.connect(server.url)
        await owner.execute("create role app login password 'app'; ")
        await owner.execute(f"grant all on database {url.database} to app")
        ours = url.set(username="app", password="app").render_as_string(hide_password=False)
        others = [await asyncpg.connect(ours)]
        app = FastAPI()
        Clearway(app, settings_for(ours))

        @app.get("/")
        async def read(session: DbSession) -> None:
            await session.execute(select(1))

        async with serving(app) as client:
            answer = await client.get("/")
        for connection in [*others, owner]:
            await connection.close()

    assert (answer.status_code, answer.json()["code"]) == (503, "CW212")
    assert answer.headers["retry-after"] == "2"


async def test_a_restart_of_the_server_costs_no_request_an_error(postgres: object) -> None:
    """Connections that died in the pool are noticed without a round trip and replaced."""
    with EmbeddedPostgres() as server:
        app = FastAPI()
        Clearway(app, settings_for(server.url, pool_size=3, max_overflow=0))

        @app.get("/")
        async def read(session: DbSession) -> int:
            value = await session.scalar(text("select 1"))
            assert isinstance(value, int)
            return value

        async with serving(app) as client:
            await asyncio.gather(*(client.get("/") for _ in range(10)))
            await asyncio.to_thread(server.restart)
            answers = [(await client.get("/")).status_code for _ in range(10)]

    assert answers == [200] * 10


async def test_round_trips(database_url: str) -> None:
    """A request of one SELECT costs one round trip to read, three in a unit of work."""
    url = make_url(database_url)
    assert url.host is not None
    assert url.port is not None
    async with wire_to(url.host, url.port) as wire:
        app = FastAPI()
        through = url.set(port=wire.port).render_as_string(hide_password=False)
        Clearway(app, settings_for(through, pool_size=1, max_overflow=0))

        @app.get("/read")
        async def read(session: ReadDbSession) -> None:
            await session.execute(select(1))

        @app.get("/write")
        async def write(session: DbSession) -> None:
            await session.execute(select(1))

        async with serving(app) as client:
            trips = {}
            for path in ("/read", "/write"):
                await client.get(path)  # connects and prepares the statement
                before = wire.trips
                await client.get(path)
                trips[path] = wire.trips - before

    assert trips == {"/read": 1, "/write": 3}


async def test_the_servers_bounds_are_set_at_connect(database_url: str) -> None:
    """The four timeouts arrive as start-up parameters, and the service is named."""
    app = FastAPI()
    Clearway(
        app,
        Settings.model_validate(
            {
                "service": {"name": "studio"},
                "database": {"url": database_url, "statement_timeout": 0.25, "lock_timeout": 0},
            }
        ),
    )

    @app.get("/")
    async def read(session: DbSession) -> list[str | None]:
        names = (
            "application_name",
            "statement_timeout",
            "lock_timeout",
            "idle_in_transaction_session_timeout",
            "client_connection_check_interval",
        )
        return [await session.scalar(text(f"show {name}")) for name in names]

    async with serving(app) as client:
        shown = (await client.get("/")).json()

    assert shown[0].startswith("studio#")
    assert shown[1:] == ["250ms", "0", "10s", "1s"]
