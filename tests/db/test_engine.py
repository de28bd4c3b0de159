"""An engine of the app's own: adopted, and given back as it was."""

from __future__ import annotations

from contextlib import suppress

import pytest
from fastapi import FastAPI
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool

from clearway import Clearway, DbSession, Settings
from clearway.errors import DatabaseUrlInvalid
from db.schema import Item, names
from support.asgi import serving

pytestmark = pytest.mark.anyio


def engine_for(url: str, **options: object) -> AsyncEngine:
    """Return an engine as an app would make it."""
    return create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"), **options)


def app_with_writer() -> FastAPI:
    """Return an app that swallows a statement's error and goes on."""
    app = FastAPI()

    @app.post("/{name}", status_code=201)
    async def create(name: str, session: DbSession) -> None:
        await session.execute(insert(Item).values(name=name))
        if name == "twice":
            with suppress(IntegrityError):
                await session.execute(insert(Item).values(name=name))

    return app


async def test_an_adopted_engine_has_the_lane_and_the_checked_commit(table: str) -> None:
    """Its pool is entered through the lane, and a COMMIT that was a ROLLBACK is a 500."""
    engine = engine_for(table, pool_size=2, max_overflow=1)
    app = app_with_writer()
    road = Clearway(app, Settings(), engine=engine)

    async with serving(app) as client:
        assert (await client.post("/once")).status_code == 201
        assert (await client.post("/twice")).status_code == 500
        assert road.db.engine is engine
        snapshot = road.lanes["db"].snapshot()

    assert (snapshot.capacity, snapshot.admitted) == (3, 2)
    assert await names(table) == ["once"]
    await engine.dispose()


async def test_an_adopted_engine_is_given_back_as_it_was(table: str) -> None:
    """After the shutdown it is the app's own again, connections and all, and still works."""
    engine = engine_for(table)
    listeners = len(list(engine.sync_engine.pool.dispatch.checkout))
    connects = len(list(engine.sync_engine.dialect.dispatch.do_connect))
    app = app_with_writer()
    Clearway(app, Settings(), engine=engine)

    for turn in range(3):
        async with serving(app) as client:
            assert (await client.post(f"/{turn}")).status_code == 201
        assert type(engine.sync_engine.pool) is AsyncAdaptedQueuePool

    assert len(list(engine.sync_engine.pool.dispatch.checkout)) == listeners
    assert len(list(engine.sync_engine.dialect.dispatch.do_connect)) == connects
    async with engine.connect() as connection:
        assert len((await connection.execute(select(Item))).all()) == 3
    await engine.dispose()


async def test_the_app_may_dispose_its_engine_before_we_let_go(table: str) -> None:
    """`dispose` in the app's own lifespan makes a new pool; it is given back as well."""
    engine = engine_for(table)
    app = app_with_writer()
    road = Clearway(app, Settings(), engine=engine)

    async with serving(app) as client:
        await client.post("/one")
        await engine.dispose()
        assert (await client.post("/two")).status_code == 201
        assert road.lanes["db"].snapshot().admitted == 2
        await engine.dispose()

    assert type(engine.sync_engine.pool) is AsyncAdaptedQueuePool


async def test_an_unbounded_pool_has_no_lane(table: str) -> None:
    """NullPool, as people use it behind PgBouncer, works and bounds nothing."""
    engine = engine_for(table, poolclass=NullPool)
    app = app_with_writer()
    road = Clearway(app, Settings(), engine=engine)

    async with serving(app) as client:
        assert (await client.post("/one")).status_code == 201
        assert "db" not in road.lanes


async def test_something_else_than_an_engine_is_a_start_error() -> None:
    """A URL in place of the engine is named, with what to do."""
    road = Clearway(app_with_writer(), Settings(), engine="postgresql://h/d")  # type: ignore[arg-type]  # the mistake

    with pytest.raises(DatabaseUrlInvalid, match="takes an SQLAlchemy AsyncEngine, not str"):
        await road.open()


async def test_an_engine_for_another_driver_is_a_start_error() -> None:
    """The driver is named."""
    engine = create_async_engine("sqlite+aiosqlite://")
    road = Clearway(app_with_writer(), Settings(), engine=engine)

    with pytest.raises(DatabaseUrlInvalid, match=r"sqlite\+aiosqlite"):
        async with road:
            raise AssertionError("it opened")
