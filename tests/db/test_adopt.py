"""Engines of the app's own beside the first: asynchronous ones, and ones that block."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import Engine, create_engine, insert, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool
from sqlmodel import Field, SQLModel
from sqlmodel import select as select_models
from sqlmodel.ext.asyncio.session import AsyncSession as ModelSession

from clearway import Clearway, DbSession, Settings
from clearway.errors import AsyncSessionInThread, EngineTwice, SessionClassInvalid
from db.schema import Item, names
from support.asgi import StartFailed, serving
from support.waiting import until

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def plainly(url: str) -> AsyncIterator[AsyncConnection]:
    """Give a connection in AUTOCOMMIT."""
    engine = create_async_engine(url_for(url, "asyncpg"), isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        yield connection
    await engine.dispose()


class Hero(SQLModel, table=True):
    """A model of SQLModel's."""

    id: int | None = Field(default=None, primary_key=True)
    name: str


def url_for(url: str, driver: str) -> str:
    """Return the URL for one of SQLAlchemy's drivers."""
    changed = make_url(url).set(drivername=f"postgresql+{driver}")
    return changed.render_as_string(hide_password=False)


@pytest.fixture
async def reports(table: str, side: tuple[str, bool]) -> AsyncIterator[AsyncEngine]:
    """Return another asynchronous engine."""
    engine = create_async_engine(url_for(table, side[0]), pool_size=2, max_overflow=0)
    yield engine
    await engine.dispose()


@pytest.fixture
def blocking(table: str) -> Iterator[Engine]:
    """Return an engine that blocks."""
    engine = create_engine(url_for(table, "psycopg"), pool_size=2, max_overflow=0)
    yield engine
    engine.dispose()


async def test_two_engines_have_a_unit_of_work_each(
    table: str, settings: Settings, reports: AsyncEngine
) -> None:
    """Both commit before the first byte, both roll back with a 4xx; each has a lane."""
    app = FastAPI()
    road = Clearway(app, settings)
    other = road.db.adopt(reports, "reports")

    async def get_reports() -> AsyncIterator[AsyncSession]:
        yield await other.dependency()

    @app.post("/{name}")
    async def create(
        name: str, session: DbSession, second: AsyncSession = Depends(get_reports)
    ) -> None:
        assert session is not second
        await session.execute(insert(Item).values(name=name))
        await second.execute(insert(Item).values(name=f"{name} too"))
        if name == "bad":
            raise HTTPException(409)

    async with serving(app) as client:
        assert (await client.post("/good")).status_code == 200
        assert (await client.post("/bad")).status_code == 409
        assert sorted(await names(table)) == ["good", "good too"]
        assert {"db", "db.reports"} <= set(road.lanes)
        assert road.lanes["db.reports"].snapshot().admitted == 2
        async with other.session() as session:
            assert len((await session.scalars(select(Item))).all()) == 2
    assert type(reports.sync_engine.pool).__name__ == "AsyncAdaptedQueuePool"


async def test_an_engine_or_a_name_is_taken_once(reports: AsyncEngine, settings: Settings) -> None:
    """Both mistakes are told at once."""
    road = Clearway(FastAPI(), settings)
    road.db.adopt(reports, "reports")
    with pytest.raises(EngineTwice):
        road.db.adopt(reports, "again")
    with pytest.raises(EngineTwice):
        road.db.adopt(create_async_engine("postgresql+asyncpg://h/d"), "reports")


async def test_a_def_endpoint_has_the_same_unit_of_work(
    table: str, settings: Settings, blocking: Engine
) -> None:
    """One session in every dependency, COMMIT before the first byte, ROLLBACK for a 4xx."""
    app = FastAPI()
    road = Clearway(app, settings)
    other = road.db.adopt(blocking, "blocking")
    seen: list[bool] = []

    def get_db() -> Iterator[Session]:
        yield other.dependency()

    def audit(session: Session = Depends(other.dependency)) -> Session:
        return session

    @app.post("/{name}", status_code=201)
    def create(
        name: str, session: Session = Depends(get_db), same: Session = Depends(audit)
    ) -> None:
        seen.append(session is same)
        session.add(Item(name=name))
        session.flush()
        if name == "bad":
            raise HTTPException(409)

    async with serving(app) as client:
        assert (await client.post("/good")).status_code == 201
        assert await names(table) == ["good"]
        assert (await client.post("/bad")).status_code == 409
        await until(lambda: road.lanes["db.blocking"].snapshot().in_use == 0)
        snapshot = road.lanes["db.blocking"].snapshot()

    assert await names(table) == ["good"]
    assert seen == [True, True]
    assert (snapshot.capacity, snapshot.admitted) == (2, 2)
    assert type(blocking.pool) is QueuePool


@pytest.mark.parametrize(
    ("what", "code"), [("swallowed", "CW223"), ("deferred", "CW221"), ("killed", "CW221")]
)
async def test_a_commit_that_fails_in_a_thread_is_a_500(
    table: str, settings: Settings, blocking: Engine, what: str, code: str
) -> None:
    """A swallowed error, a deferred constraint and a dead connection: nothing stored, and said."""
    app = FastAPI()
    road = Clearway(app, settings)
    other = road.db.adopt(blocking, "blocking")

    @app.post("/")
    def create(session: Session = Depends(other.dependency)) -> None:
        parent = 99 if what == "deferred" else None
        session.add(Item(name="a", parent_id=parent))
        session.flush()
        if what == "swallowed":
            with suppress(DBAPIError):
                session.execute(text("select 1/0"))
        if what == "killed":
            pid = session.scalar(text("select pg_backend_pid()"))
            with blocking.connect() as killer:
                killer.execute(text("select pg_terminate_backend(:pid, 5000)"), {"pid": pid})
            session.add(Item(name="b"))

    async with serving(app) as client:
        answer = await client.post("/")
        assert (answer.status_code, answer.json()["code"]) == (500, code)
        await until(lambda: road.lanes["db.blocking"].snapshot().in_use == 0)
        assert await names(table) == []


async def test_threads_wait_in_the_lane(table: str, settings: Settings, blocking: Engine) -> None:
    """Twenty requests on two connections: first come first served, bounded, in the ledger."""
    app = FastAPI()
    road = Clearway(app, settings)
    other = road.db.adopt(blocking, "blocking")

    @app.get("/")
    def read(session: Session = Depends(other.dependency)) -> object:
        return session.scalar(text("select 1 from pg_sleep(0.01)"))

    async with serving(app) as client:
        answers = await asyncio.gather(*(client.get("/") for _ in range(20)))
        snapshot = road.lanes["db.blocking"].snapshot()

    assert [answer.status_code for answer in answers] == [200] * 20
    assert snapshot.admitted == 20
    assert snapshot.waits.longest > 0
    assert "db.blocking;dur=" in answers[0].headers["server-timing"]


async def test_a_busy_pool_of_threads_is_a_503(
    table: str, settings: Settings, blocking: Engine
) -> None:
    """The wait is bounded by wait_timeout, not by SQLAlchemy's 30 s."""
    app = FastAPI()
    database = settings.database.model_copy(update={"wait_timeout": 0.1})
    road = Clearway(app, settings.model_copy(update={"database": database}))
    other = road.db.adopt(blocking, "blocking")

    @app.get("/")
    def read(session: Session = Depends(other.dependency)) -> object:
        return session.scalar(text("select 1"))

    async with serving(app) as client:
        with blocking.connect(), blocking.connect():  # on the loop nobody can wait in the lane
            pass
        held = [await asyncio.to_thread(blocking.connect) for _ in range(2)]
        refused = await client.get("/")
        for connection in held:
            await asyncio.to_thread(connection.close)
        await until(lambda: road.lanes["db.blocking"].snapshot().in_use == 0)
        assert (await client.get("/")).status_code == 200

    assert (refused.status_code, refused.json()["code"]) == (503, "CW211")


async def test_a_script_has_a_blocking_session(
    table: str, settings: Settings, blocking: Engine
) -> None:
    """`with other.session()` commits at the end of the block, or rolls back; also when closed."""
    road = Clearway(FastAPI(), settings)
    other = road.db.adopt(blocking, "blocking")

    def work() -> None:
        with other.session() as session:
            session.add(Item(name="a"))
        with pytest.raises(ZeroDivisionError), other.session() as session:
            session.add(Item(name="b"))
            session.flush()
            raise ZeroDivisionError

    async with road:
        await asyncio.to_thread(work)
    assert await names(table) == ["a"]


async def test_a_def_endpoint_with_an_async_session_is_told_the_way(
    table: str, settings: Settings, reports: AsyncEngine
) -> None:
    """Also for an adopted engine; the error names `road.db.adopt`."""
    app = FastAPI()
    road = Clearway(app, settings)
    other = road.db.adopt(reports, "reports")

    @app.get("/")
    def read(session: AsyncSession = Depends(other.dependency)) -> None: ...

    with pytest.raises(StartFailed, match=r"road\.db\.adopt\(create_engine\(url\)"):
        async with serving(app):
            pass
    assert issubclass(AsyncSessionInThread, Exception)


async def test_sqlmodels_sessions(database_url: str) -> None:
    """The setting names the class: `exec` is there, and the unit of work goes on being one."""
    app = FastAPI()
    road = Clearway(
        app,
        Settings.model_validate(
            {
                "database": {
                    "url": database_url,
                    "session_class": "sqlmodel.ext.asyncio.session:AsyncSession",
                }
            }
        ),
    )

    async def get_session() -> ModelSession:
        session = await road.db.dependency()
        assert isinstance(session, ModelSession)
        return session

    @app.post("/{name}")
    async def create(name: str, session: ModelSession = Depends(get_session)) -> list[str]:
        session.add(Hero(name=name))
        found = [hero.name for hero in (await session.exec(select_models(Hero))).all()]
        if name == "bad":
            raise HTTPException(409)
        return found

    async with serving(app) as client:
        async with road.db.engine.begin() as connection:
            await connection.run_sync(SQLModel.metadata.create_all)
        assert (await client.post("/ada")).json() == ["ada"]
        assert (await client.post("/bad")).status_code == 409
        assert (await client.post("/eve")).json() == ["ada", "eve"]


@pytest.mark.parametrize("path", ["nowhere:Class", "sqlalchemy.orm:Session", "nocolon"])
async def test_a_session_class_that_cannot_be_used_stops_the_start(
    database_url: str, path: str
) -> None:
    """A wrong path, and a class that is none of AsyncSession's."""
    settings = {"database": {"url": database_url, "session_class": path}}
    road = Clearway(FastAPI(), Settings.model_validate(settings))
    with pytest.raises(SessionClassInvalid):
        async with road:
            pass


def enforcing(settings: Settings, seconds: float) -> Settings:
    """Return settings that cancel a request at its deadline."""
    request = settings.request.model_copy(update={"timeout": seconds, "timeout_mode": "enforce"})
    return settings.model_copy(update={"request": request})


async def test_a_def_endpoint_past_its_deadline_leaves_no_transaction_open(
    table: str, settings: Settings, blocking: Engine
) -> None:
    """The answer may come late, but rolled back or committed it is, and the connection is back."""
    app = FastAPI()
    road = Clearway(app, enforcing(settings, 0.3))
    other = road.db.adopt(blocking, "blocking")

    @app.post("/{name}")
    def create(name: str, session: Session = Depends(other.dependency)) -> None:
        session.add(Item(name=name))
        session.flush()
        time.sleep(0.6)

    async with serving(app) as client:
        answers = [await client.post(f"/{name}") for name in "ab"]
        await until(lambda: road.lanes["db.blocking"].snapshot().in_use == 0)

    good = [name for name, answer in zip("ab", answers, strict=True) if answer.status_code == 200]
    assert await names(table) == good


async def test_a_slow_commit_in_a_thread_is_awaited(
    table: str, settings: Settings, blocking: Engine
) -> None:
    """No deadline cuts the wait for a COMMIT that is on its way: 200 and stored."""
    async with plainly(table) as admin:
        await admin.execute(
            text(
                "create function slow() returns trigger language plpgsql as "
                "$$ begin perform pg_sleep(0.8); return null; end $$"
            )
        )
        await admin.execute(
            text(
                "create constraint trigger slow after insert on item deferrable initially "
                "deferred for each row execute function slow()"
            )
        )
    app = FastAPI()
    road = Clearway(app, enforcing(settings, 0.4))
    other = road.db.adopt(blocking, "blocking")

    @app.post("/")
    def create(session: Session = Depends(other.dependency)) -> None:
        session.add(Item(name="a"))

    async with serving(app) as client:
        assert (await client.post("/")).status_code == 200
    assert await names(table) == ["a"]


async def test_an_adopted_engine_keeps_its_places_over_many_starts(
    table: str, settings: Settings, reports: AsyncEngine
) -> None:
    """A query that was cancelled just before the shutdown costs the next start nothing."""
    for _ in range(3):
        road = Clearway(FastAPI(), settings)
        other = road.db.adopt(reports, "reports")
        async with road:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.2), other.session() as session:
                    await session.execute(text("select pg_sleep(20)"))
    pool = reports.sync_engine.pool
    assert isinstance(pool, QueuePool)
    assert pool.checkedout() == 0
