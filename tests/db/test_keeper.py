"""What happens to a pool while nobody asks it for anything, and what is said of holders."""

from __future__ import annotations

import asyncio
import logging
import signal

import asyncpg
import psutil
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.pool import Pool

from clearway import Clearway, DbSession
from clearway.db.outage import Outage
from clearway.db.pool import LanePool
from clearway.dev.postgres import EmbeddedPostgres
from db.roads import road_to, settings_for
from support.asgi import serving
from support.waiting import until

pytestmark = pytest.mark.anyio


def pool_of(road: Clearway) -> LanePool:
    """Return the pool behind the road's engine."""
    pool: Pool = road.db.engine.sync_engine.pool
    assert isinstance(pool, LanePool)
    return pool


async def pids(road: Clearway) -> set[object]:
    """Return who serves two sessions that are open at once."""
    async with road.db.session() as one, road.db.session() as two:
        return {await s.scalar(text("select pg_backend_pid()")) for s in (one, two)}


async def test_a_minimum_of_connections_is_opened_ahead(database_url: str) -> None:
    """They are there before anybody asks, in the background, and nobody was admitted for them."""
    road = road_to(database_url, min_size=3, pool_size=5)
    async with road:
        await until(lambda: pool_of(road).checkedin() == 3)
        snapshot = road.lanes["db"].snapshot()
        assert (snapshot.admitted, snapshot.in_use) == (0, 0)


async def test_a_server_that_is_down_does_not_stop_the_start() -> None:
    """Opening ahead fails in silence; who needs a connection hears why."""
    road = road_to("postgresql://nobody@127.0.0.1:1/none", reconnect_within=0)
    async with road:
        await asyncio.sleep(0.05)
        assert pool_of(road).checkedin() == 0


async def test_a_connection_has_a_longest_life(database_url: str) -> None:
    """Idle ones are replaced behind the scenes, busy ones when they are next asked for."""
    road = road_to(database_url, min_size=2, pool_size=2, max_overflow=0, pool_recycle=0.5)
    async with road:
        await until(lambda: pool_of(road).checkedin() == 2)
        before = await pids(road)
        await asyncio.sleep(0.6)
        assert not before & await pids(road)


async def test_lives_end_at_different_moments(database_url: str) -> None:
    """What opened together does not end together: each life is shorter by up to a tenth."""
    road = road_to(database_url, min_size=5, pool_size=5, pool_recycle=1000)
    async with road:
        await until(lambda: pool_of(road).checkedin() == 5)
        connections = [await road.db.engine.connect() for _ in range(5)]
        ends = []
        for connection in connections:
            info = (await connection.get_raw_connection()).info
            ends.append(info["clearway_expires"])
            await connection.close()
    assert len(set(ends)) == 5
    assert max(ends) - min(ends) < 101


async def test_connections_that_a_restart_closed_are_replaced_in_the_background() -> None:
    """After a restart the minimum is there again without a request."""
    with EmbeddedPostgres() as server:
        road = road_to(server.url, min_size=2, pool_size=2, max_overflow=0)
        async with road:
            await until(lambda: pool_of(road).checkedin() == 2)
            before = await pids(road)
            await asyncio.to_thread(server.restart)
            watcher = await asyncpg.connect(server.url)
            try:
                async with asyncio.timeout(20):
                    while (
                        await watcher.fetchval(
                            "select count(*) from pg_stat_activity "
                            "where application_name like 'app#%'"
                        )
                        < 2
                    ):
                        await asyncio.sleep(0.05)
            finally:
                await watcher.close()
            assert not before & await pids(road)


async def test_requests_ride_out_a_restart(postgres: object) -> None:
    """While the server is away connects are tried again: no request that only waits fails."""
    with EmbeddedPostgres() as server:
        app = FastAPI()
        Clearway(app, settings_for(server.url, pool_size=3, max_overflow=0, reconnect_within=20))

        @app.get("/")
        async def read(session: DbSession) -> object:
            return await session.scalar(text("select 1"))

        async with serving(app) as client:
            await client.get("/")
            gone = psutil.Process(server.pid)
            gone.send_signal(signal.SIGINT)
            await asyncio.to_thread(psutil.wait_procs, [gone], 15)
            waiting = [asyncio.create_task(client.get("/")) for _ in range(6)]
            await asyncio.sleep(0.2)
            await asyncio.to_thread(server.restart)
            answers = [(await one).status_code for one in waiting]

    assert answers == [200] * 6


async def test_a_long_outage_is_answered_at_once() -> None:
    """Once it has lasted longer than a restart takes nobody waits for it; a deadline is sooner."""
    outage = Outage(within=0.2)
    now = asyncio.get_running_loop().time()

    assert outage.pause(0, until=None) is not None
    assert outage.pause(0, until=now + 0.001) is None
    await asyncio.sleep(0.25)
    assert outage.pause(0, until=None) is None
    outage.over()
    assert outage.pause(0, until=None) is not None


async def test_who_holds_a_connection_for_long_is_named(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The route, where it was taken, that it idles in its transaction, and what it waits for."""
    app = FastAPI()
    road = Clearway(app, settings_for(database_url, hold_warn_after=0.1))
    release = asyncio.Event()

    async def call_another_service() -> None:
        await release.wait()

    @app.get("/orders/{number}")
    async def orders(number: int, session: DbSession) -> None:
        await session.execute(text("select 1"))
        await call_another_service()

    with caplog.at_level(logging.WARNING, "clearway.db"):
        async with serving(app) as client:
            holder = asyncio.create_task(client.get("/orders/1"))
            await until(lambda: bool(caplog.records))
            release.set()
            assert (await holder).status_code == 200
            held = road.db.holds

    (record,) = caplog.records
    said = record.getMessage()
    assert "by /orders/{number}: it sits idle in its transaction while" in said
    assert "call_another_service awaits" in said
    assert "taken at" in said
    assert ".orders" in said
    assert held["/orders/{number}"].count == 1
    assert held["/orders/{number}"].longest >= 0.1


async def test_a_statement_that_runs_for_long_is_told_apart(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The database is at work: nobody sits idle."""
    road = road_to(database_url, hold_warn_after=0.1)
    with caplog.at_level(logging.WARNING, "clearway.db"):
        async with road, road.db.session() as session:
            await session.execute(text("select pg_sleep(1.5)"))

    (record,) = caplog.records
    assert "a statement runs in it" in record.getMessage()
