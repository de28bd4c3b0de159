"""The same small service over the database in five ways: ours, the usual recipe, and its peers.

Each app has the same routes: `/core/read`, `/core/write` (one SELECT, read only or in a
transaction), `/orm/read`, `/orm/write` where there is an ORM, and `/hold?seconds=`, which keeps a
connection for that long.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

import asyncpg
import psycopg
from fastapi import Depends, FastAPI
from psycopg_pool import AsyncConnectionPool
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.types import Message

from bench.overhead import SCOPE, run_lifespan
from clearway import Clearway, DbSession, ReadDbSession, Settings

OURS = "clearway"
RECIPE = "recipe"
PLAIN = "no pre-ping"
ASYNCPG = "asyncpg.Pool"
PSYCOPG = "psycopg_pool"

DDL = """
    CREATE TABLE item (id integer PRIMARY KEY, name text NOT NULL);
    INSERT INTO item SELECT n, 'item ' || n FROM generate_series(1, 100) AS n;
"""
HOLD = text("SELECT pg_sleep(:seconds)")
_SQL = "SELECT id, name FROM item WHERE id = {}"


class Base(DeclarativeBase):
    """The models of the bench."""


class Item(Base):
    """A row."""

    __tablename__ = "item"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


async def core(session: AsyncSession) -> dict[str, str]:
    """Read one row as columns."""
    row = (await session.execute(select(Item.id, Item.name).where(Item.id == 7))).one()
    return {"name": row.name}


async def orm(session: AsyncSession) -> dict[str, str]:
    """Read one row as an object."""
    item = (await session.execute(select(Item).where(Item.id == 7))).scalar_one()
    return {"name": item.name}


async def hold(session: AsyncSession, seconds: float) -> None:
    """Keep the session's connection busy."""
    await session.execute(HOLD, {"seconds": seconds})


def engine_for(url: str, *, name: str, **options: Any) -> AsyncEngine:
    """Return an engine as most services make it."""
    return create_async_engine(
        url.replace("postgresql://", "postgresql+asyncpg://"),
        connect_args={"server_settings": {"application_name": name}},
        **options,
    )


def recipe(url: str, *, name: str = RECIPE, **options: Any) -> FastAPI:
    """Return the service as the recipe has it.

    Args:
        url: The database.
        name: The application_name of its connections.
        options: Of its engine, such as `pool_pre_ping`.
    """
    engine = engine_for(url, name=name, **options)
    sessions = async_sessionmaker(engine, expire_on_commit=False)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()

    async def get_db() -> AsyncIterator[AsyncSession]:
        async with sessions() as session:
            yield session
            await session.commit()

    app = FastAPI(lifespan=lifespan)
    own = Annotated[AsyncSession, Depends(get_db)]
    _routes(app, own, own)
    return app


def clearway(url: str, *, service: str = OURS, **database: Any) -> FastAPI:
    """Return the service with a Clearway, its whole layer included."""
    app = FastAPI()
    settings = {
        "service": {"name": service},
        "database": {"url": url, **database},
        "logs": {"take_over": "off"},
        "ops": {"server_timing": False},
    }
    app.state.road = Clearway(app, Settings.model_validate(settings))
    _routes(app, ReadDbSession, DbSession)
    return app


def _routes(app: FastAPI, reads: Any, writes: Any) -> None:
    # The types are values here, so the annotations are set by hand.
    for path, read in (("core", core), ("orm", orm)):
        for kind, session in (("read", reads), ("write", writes)):
            app.get(f"/{path}/{kind}")(_endpoint(read, session))

    async def holding(session: AsyncSession, seconds: float) -> None:
        await hold(session, seconds)

    holding.__annotations__ = {"session": writes, "seconds": float, "return": None}
    app.get("/hold")(holding)


def _endpoint(read: Any, kind: Any) -> Any:
    async def endpoint(session: AsyncSession) -> dict[str, str]:
        answer: dict[str, str] = await read(session)
        return answer

    endpoint.__annotations__ = {"session": kind, "return": dict[str, str]}
    return endpoint


def over_asyncpg(url: str) -> FastAPI:
    """Return the service over asyncpg's own pool, without SQLAlchemy."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with asyncpg.create_pool(url, min_size=1, max_size=20) as pool:
            app.state.pool = pool
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/core/read")
    async def read() -> dict[str, str]:
        async with app.state.pool.acquire() as connection:
            row = await connection.fetchrow(_SQL.format("$1"), 7)
        return {"name": row["name"]}

    @app.get("/core/write")
    async def write() -> dict[str, str]:
        async with app.state.pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(_SQL.format("$1"), 7)
        return {"name": row["name"]}

    return app


def over_psycopg(url: str) -> FastAPI:
    """Return the service over psycopg_pool, without SQLAlchemy."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with psycopg_pool(url, 20) as pool:
            app.state.pool = pool
            yield

    app = FastAPI(lifespan=lifespan)

    async def transaction() -> dict[str, str]:
        async with app.state.pool.connection() as connection:
            row = await (await connection.execute(_SQL.format("%s"), (7,))).fetchone()
        return {"name": row[1]}

    async def read() -> dict[str, str]:
        async with app.state.pool.connection() as connection:
            await connection.set_autocommit(True)
            row = await (await connection.execute(_SQL.format("%s"), (7,))).fetchone()
            await connection.set_autocommit(False)
        return {"name": row[1]}

    app.get("/core/read")(read)
    app.get("/core/write")(transaction)
    return app


def psycopg_pool(url: str, size: int) -> AsyncConnectionPool[psycopg.AsyncConnection[Any]]:
    """Return a pool that is not yet open."""
    return AsyncConnectionPool(url, min_size=1, max_size=size, open=False)


@asynccontextmanager
async def running(*apps: FastAPI) -> AsyncIterator[None]:
    """Run the lifespans of some apps."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for app in apps:
            started = asyncio.Event()
            group.create_task(run_lifespan(app, started, stop))
            await started.wait()
        try:
            yield
        finally:
            stop.set()


async def ask(app: FastAPI, path: str, query: str = "") -> int:
    """Return the status of one request, 500 where the app raised."""
    status = 500

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        **SCOPE, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
        "state": {},
    }  # fmt: skip
    with suppress(Exception):  # a server answers 500 and logs it
        await app(scope, receive, send)
    return status
