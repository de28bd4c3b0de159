"""Reads by a URL of their own."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError

from clearway import Clearway, DbSession, ReadDbSession
from clearway.errors import ReadOnlySession
from db.roads import settings_for, wired
from db.schema import Item, names
from support.asgi import serving

pytestmark = pytest.mark.anyio


async def test_reads_go_through_a_pool_of_their_own(table: str) -> None:
    """In one round trip each, by the lane `db.read`; the other pool is not touched."""
    app = FastAPI()
    async with wired(table) as (wire, url):
        road = Clearway(app, settings_for(table, read_url=url, budget="off", min_size=0))

        @app.get("/")
        async def read(session: ReadDbSession) -> int:
            return len((await session.scalars(select(Item))).all())

        async with serving(app) as client:
            assert (await client.get("/")).json() == 0
            before = wire.trips
            await client.get("/")
            assert wire.trips - before == 1
            assert road.lanes["db.read"].snapshot().admitted == 2
            assert road.lanes["db"].snapshot().admitted == 0


async def test_the_server_refuses_what_the_guard_does_not_see(table: str) -> None:
    """A function that writes is refused by the server itself (25006)."""
    app = FastAPI()
    Clearway(app, settings_for(table, read_url=table))
    errors: list[Exception] = []

    @app.get("/")
    async def read(session: ReadDbSession) -> None:
        sneaky = "select nextval('item_id_seq')"
        for statement in (sneaky, "insert into item (name) values ('x')"):
            try:
                await session.execute(text(statement))
            except (DBAPIError, ReadOnlySession) as error:
                errors.append(error)

    async with serving(app) as client:
        await client.get("/")

    assert [type(error) for error in errors][1] is ReadOnlySession
    assert getattr(getattr(errors[0], "orig", None), "sqlstate", None) == "25006"
    assert await names(table) == []


async def test_a_journey_still_has_one_connection(table: str) -> None:
    """The read gives its own back before the unit takes one, and then sees what was written."""
    app = FastAPI()
    road = Clearway(app, settings_for(table, read_url=table, pool_size=1, max_overflow=0))
    held: list[int] = []

    @app.post("/")
    async def create(read: ReadDbSession, session: DbSession) -> int:
        await read.execute(select(Item))
        held.append(sum(road.lanes[name].snapshot().in_use for name in ("db", "db.read")))
        await session.execute(insert(Item).values(name="a"))
        found = (await read.scalars(select(Item))).all()
        held.append(road.lanes["db"].snapshot().in_use)
        held.append(road.lanes["db.read"].snapshot().in_use)
        return len(found)

    async with serving(app) as client:
        assert (await client.post("/")).json() == 1

    assert held == [1, 1, 0]
