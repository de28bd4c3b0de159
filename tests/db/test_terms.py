"""The terms of transactions: what rides on BEGIN, and what is left out at the start."""

from __future__ import annotations

import asyncio
import logging

import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from clearway import Clearway, DbSession, ReadDbSession, Settings
from clearway.core.deadline import Deadline
from clearway.core.journey import Journey, travelling
from clearway.db.terms import Terms
from clearway.settings import DatabaseSettings
from db.roads import road_to, wired
from support.asgi import serving

pytestmark = pytest.mark.anyio


async def test_a_deadline_bounds_the_statement_on_the_server(database_url: str) -> None:
    """The server itself ends the statement, at no round trip more: BEGIN takes the bound along."""
    async with wired(database_url) as (wire, url):
        road = road_to(url, pool_size=1, max_overflow=0)
        async with road:
            async with road.db.session() as session:
                await session.execute(text("select pg_sleep(0)"))
            journey = Journey("request", deadline=Deadline.after(0.3))
            before = wire.trips
            with travelling(journey), pytest.raises(DBAPIError) as raised:
                async with road.db.session() as session:
                    await session.execute(text("select pg_sleep(20)"))
            assert getattr(raised.value.orig, "sqlstate", None) == "57014"
            assert wire.trips - before <= 4  # BEGIN, prepare, execute, ROLLBACK


async def test_a_deadline_bounds_the_wait_for_a_lock(database_url: str) -> None:
    """The lock that somebody else holds is given up with the deadline (55P03 or 57014)."""
    road = road_to(database_url, lock_timeout=0, statement_timeout=0)
    async with road, road.db.session() as holder:
        await holder.execute(text("create table t (a int)"))
        await holder.commit()
        await holder.execute(text("lock table t"))
        journey = Journey("request", deadline=Deadline.after(0.3))
        with travelling(journey), pytest.raises(DBAPIError) as raised:
            async with road.db.session() as session:
                await session.execute(text("select * from t"))
        assert getattr(raised.value.orig, "sqlstate", None) in {"55P03", "57014"}


async def test_without_a_deadline_the_servers_own_bounds_hold(database_url: str) -> None:
    """Nothing rides on BEGIN; what was set at the start counts."""
    road = road_to(database_url, statement_timeout=7)
    async with road, road.db.session() as session:
        assert await session.scalar(text("show statement_timeout")) == "7s"


async def test_a_commit_is_not_waited_for_for_ever(database_url: str) -> None:
    """The wire goes dead before COMMIT: the caller hears within the patience that none can know."""
    app = FastAPI()
    async with wired(database_url) as (wire, url):
        Clearway(
            app,
            Settings.model_validate(
                {
                    "service": {"environment": "development"},
                    "database": {"url": url, "pool_size": 1, "statement_timeout": 0.2},
                }
            ),
        )

        @app.post("/")
        async def write(session: DbSession) -> None:
            await session.execute(text("select 1"))
            wire.swallow()

        async with asyncio.timeout(20), serving(app) as client:
            answer = await client.post("/")

    assert (answer.status_code, answer.json()["code"]) == (500, "CW224")


async def test_a_tenant_is_set_with_each_begin(database_url: str) -> None:
    """Row-level security sees it in sessions and in reads, at no round trip, and never leaks."""
    app = FastAPI()
    async with wired(database_url) as (wire, url):
        settings = {"database": {"url": url, "pool_size": 1, "max_overflow": 0}}
        road = Clearway(app, Settings.model_validate(settings))
        tenant = "nobody"

        @road.db.set_in_each_transaction
        def tenant_of_request() -> dict[str, str]:
            return {"app.tenant": tenant}

        show = text("select current_setting('app.tenant', true)")

        @app.get("/read")
        async def read(session: ReadDbSession) -> object:
            return await session.scalar(show)

        @app.get("/write")
        async def write(session: DbSession) -> object:
            return await session.scalar(show)

        async with serving(app) as client:
            for path in ("/read", "/write"):
                for tenant in ("acme", "o'brien\\'s; drop table x", "acme"):
                    assert (await client.get(path)).json() == tenant
            before = wire.trips
            await client.get("/write")
            assert wire.trips - before == 3


async def test_a_tenant_that_cannot_be_set_poisons_no_connection(database_url: str) -> None:
    """The error comes up where the transaction begins; the next one is sound."""
    road = road_to(database_url, pool_size=1, max_overflow=0)
    values = {"statement_timeout": "soon"}
    road.db.set_in_each_transaction(lambda: values)
    async with road:
        with pytest.raises(DBAPIError):
            async with road.db.session() as session:
                await session.execute(text("select 1"))
        values = {}
        for _ in range(3):
            async with road.db.session() as session:
                assert await session.scalar(text("select 1")) == 1


async def test_a_tenant_that_nobody_knows_poisons_no_connection(database_url: str) -> None:
    """The function raises: so does the statement, and the next transaction is a sound one."""
    road = road_to(database_url, pool_size=1, max_overflow=0)
    known = True

    @road.db.set_in_each_transaction
    def tenant() -> dict[str, str]:
        if not known:
            raise LookupError("no tenant")
        return {"app.tenant": "acme"}

    async with road:
        for known in (True, False, True, True):
            try:
                async with road.db.session() as session:
                    await session.execute(text("select 1"))
            except LookupError:
                assert not known


async def test_a_search_path_stays_a_list(database_url: str) -> None:
    """Two schemas are two, not one with a comma in its name."""
    road = road_to(database_url)
    road.db.set_in_each_transaction(lambda: {"search_path": "pg_catalog, public"})
    async with road, road.db.session() as session:
        schemas = await session.scalar(text("select current_schemas(false)::text"))
        assert schemas == "{pg_catalog,public}"


@pytest.mark.parametrize("name", ["app.tenant; drop table x", "", "a.b.c", "1a"])
async def test_the_name_of_a_setting_cannot_carry_sql(database_url: str, name: str) -> None:
    """Only a name is one; the value is quoted."""
    road = road_to(database_url)
    road.db.set_in_each_transaction(lambda: {name: "x"})
    async with road:
        with pytest.raises(ValueError, match="no name of a PostgreSQL setting"):
            async with road.db.session() as session:
                await session.execute(text("select 1"))


@pytest.mark.parametrize(
    ("state", "said", "left", "with_begin"),
    [
        ("08P01", "unsupported startup parameter: lock_timeout", True, True),
        ("42704", 'unrecognized configuration parameter "lock_timeout"', True, False),
        ("22023", 'invalid value for parameter "lock_timeout": 5000', True, False),
        ("08P01", "unsupported startup parameter: search_path", False, False),
        ("28P01", "password authentication failed", False, False),
    ],
)
def test_a_start_up_parameter_that_is_refused_is_left_out(
    state: str, said: str, left: bool, with_begin: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A pooler's refusal moves it to BEGIN, a server's drops it; somebody else's stays an error."""
    terms = Terms(DatabaseSettings(), ours=True)

    with caplog.at_level(logging.WARNING, "clearway.db"):
        assert terms.leave_out(state, said) is left

    assert ("lock_timeout" in terms.startup) is not left
    assert ("set_config('lock_timeout'" in terms.begin()) is with_begin
    assert bool(caplog.records) is left


def test_psycopgs_start_up_options_are_refused_together() -> None:
    """They are sent as one parameter, so a pooler's refusal moves all to BEGIN."""
    terms = Terms(DatabaseSettings(), ours=True)
    names = set(terms.startup)

    assert terms.leave_out("08P01", "unsupported startup parameter: options")

    assert not terms.startup
    assert all(f"set_config('{name}'" in terms.begin() for name in names)


def test_connects_that_race_are_refused_once_each_and_go_on() -> None:
    """What another connect has left out meanwhile is no reason to fail; what was not sent is."""
    terms = Terms(DatabaseSettings(), ours=True)
    sent = tuple(terms.startup)
    said = "unsupported startup parameter: lock_timeout"

    assert not terms.pooled
    assert terms.leave_out("08P01", said, sent)
    assert terms.leave_out("08P01", said, sent)
    assert not terms.leave_out("08P01", said, tuple(terms.startup))
    assert terms.pooled


def test_an_engine_of_the_apps_own_keeps_the_servers_bounds() -> None:
    """Nothing is sent at its start, and a deadline sets nothing."""
    terms = Terms(DatabaseSettings(), ours=False)

    with travelling(Journey("request", deadline=Deadline.after(5))):
        assert (terms.startup, terms.begin()) == ({}, "")
