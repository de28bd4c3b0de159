"""Behind a real PgBouncer in transaction mode."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from clearway import Clearway, DbSession, ReadDbSession
from clearway.jobs.worker.contact import Contact
from db.roads import road_to, settings_for
from support.asgi import serving
from support.pgbouncer import WHERE, find, pgbouncer
from support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(find() is None, reason=WHERE)]

OWN_ENGINE: dict[str, dict[str, Any]] = {
    "asyncpg": {
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": str,
    },
    "psycopg": {"prepare_threshold": None},
}
STATEMENTS = 12
ROUNDS = 10


@pytest.fixture
def pooled(table: str) -> Iterator[str]:
    """Return the URL of the table's database through a PgBouncer with two server connections."""
    binary = find()
    assert binary is not None
    with pgbouncer(binary, table) as pooler:
        yield pooler.url


@pytest.fixture
def narrow(table: str) -> Iterator[str]:
    """Return the same through one server connection."""
    binary = find()
    assert binary is not None
    with pgbouncer(binary, table, default_pool_size=1) as pooler:
        yield pooler.url


async def test_the_refused_bounds_hold_in_every_transaction(pooled: str) -> None:
    """PgBouncer refuses our start-up parameters: each unit of work and each read has them."""
    app = FastAPI()
    Clearway(app, settings_for(pooled, statement_timeout=7, lock_timeout=3))
    shown = text("SELECT current_setting('statement_timeout'), current_setting('lock_timeout')")

    @app.get("/write")
    async def write(session: DbSession) -> list[str]:
        return list((await session.execute(shown)).one())

    @app.get("/read")
    async def read(session: ReadDbSession) -> list[str]:
        return list((await session.execute(shown)).one())

    async with serving(app) as client:
        first = (await client.get("/write")).json()
        second = (await client.get("/read")).json()
    assert first == second == ["7s", "3s"]


async def test_a_bound_of_one_transaction_is_none_of_the_next_client(narrow: str) -> None:
    """What rides on our BEGIN ends with it: another client of the same backend has none of it."""
    async with road_to(narrow, statement_timeout=7) as road, road.db.session() as session:
        ours = await session.scalar(text("SELECT current_setting('statement_timeout')"))
    other = await asyncpg.connect(narrow, statement_cache_size=0)
    theirs = await other.fetchval("SELECT current_setting('statement_timeout')")
    await other.close()
    assert (ours, theirs) == ("7s", "0")


async def test_prepared_statements_of_many_clients_do_not_meet(pooled: str) -> None:
    """Many connections, two backends, twelve statements: every answer is that of its question."""
    app = FastAPI()
    Clearway(app, settings_for(pooled, pool_size=8, max_overflow=0))

    @app.get("/write/{n}")
    async def write(n: int, session: DbSession) -> list[int]:
        first = await session.scalar(text(f"SELECT {n} + CAST(:more AS integer)"), {"more": n})
        await asyncio.sleep(0)
        return [first or 0, await session.scalar(text(f"SELECT {n} * 3")) or 0]

    @app.get("/read/{n}")
    async def read(n: int, session: ReadDbSession) -> list[int]:
        first = await session.scalar(text(f"SELECT {n} + CAST(:more AS integer)"), {"more": n})
        await asyncio.sleep(0)
        return [first or 0, await session.scalar(text(f"SELECT {n} * 3")) or 0]

    async with serving(app) as client:
        for _ in range(ROUNDS):
            asked = [(kind, n) for n in range(STATEMENTS) for kind in ("read", "write")]
            answers = await asyncio.gather(*(client.get(f"/{kind}/{n}") for kind, n in asked))
            assert [answer.json() for answer in answers] == [[2 * n, 3 * n] for _, n in asked]


async def test_an_engine_of_the_apps_own_works_with_the_documented_arguments(
    pooled: str, side: tuple[str, bool]
) -> None:
    """It is made once, before anybody meets the pooler, so the app says that there is one."""
    driver = side[0]
    engine = create_async_engine(
        pooled.replace("postgresql://", f"postgresql+{driver}://"),
        pool_size=8,
        connect_args=OWN_ENGINE[driver],
    )
    async with Clearway(FastAPI(), engine=engine) as road:

        async def ask(n: int) -> list[int]:
            found = []
            for _ in range(ROUNDS):
                async with road.db.session() as session:
                    found.append(await session.scalar(text(f"SELECT {n} + 0 * random()")))
            return [int(value or 0) for value in found]

        answers = await asyncio.gather(*(ask(n) for n in range(1, STATEMENTS)))
    await engine.dispose()
    assert answers == [[n] * ROUNDS for n in range(1, STATEMENTS)]


async def test_autocommit_needs_no_backend_of_its_own(pooled: str) -> None:
    """Statements in AUTOCOMMIT, each on whichever backend is free, get their own answers."""
    async with road_to(pooled, pool_size=8, max_overflow=0) as road:
        engine = road.db.engine.execution_options(isolation_level="AUTOCOMMIT")

        async def ask(n: int) -> list[int]:
            found = []
            async with engine.connect() as connection:
                for _ in range(ROUNDS):
                    found.append(await connection.scalar(text(f"SELECT {n} + 0 * random()")))
                    await asyncio.sleep(0)
            return [int(value or 0) for value in found]

        answers = await asyncio.gather(*(ask(n) for n in range(1, STATEMENTS)))
    assert answers == [[n] * ROUNDS for n in range(1, STATEMENTS)]


async def test_no_prepared_statement_stays_on_a_backend(narrow: str) -> None:
    """A backend is not filled with the statements of clients that are gone."""
    async with road_to(narrow) as road:
        for n in range(STATEMENTS):
            async with road.db.session() as session:
                await session.execute(text(f"SELECT {n}"))
        async with road.db.session() as session:
            kept = await session.scalar(text("SELECT count(*) FROM pg_prepared_statements"))
    assert kept == 0


async def test_the_unit_of_work_ends_as_it_should(pooled: str) -> None:
    """A 2xx is stored before it is answered, a 4xx and a swallowed error are not stored."""
    app = FastAPI()
    Clearway(app, settings_for(pooled))
    insert = text("INSERT INTO item (name) VALUES (:name)")

    @app.post("/good")
    async def good(session: DbSession) -> None:
        await session.execute(insert, {"name": "good"})

    @app.post("/refused", status_code=409)
    async def refused(session: DbSession) -> None:
        await session.execute(insert, {"name": "refused"})

    @app.post("/swallowed")
    async def swallowed(session: DbSession) -> None:
        await session.execute(insert, {"name": "swallowed"})
        try:
            await session.execute(text("SELECT 1 / 0"))
        except Exception:  # noqa: BLE001 - what a careless handler does
            return

    @app.get("/names")
    async def names(session: ReadDbSession) -> list[str]:
        return list(await session.scalars(text("SELECT name FROM item")))

    async with serving(app) as client:
        codes = [(await client.post(f"/{path}")).status_code for path in ("good", "refused")]
        lost = await client.post("/swallowed")
        found = (await client.get("/names")).json()
    assert codes == [200, 409]
    assert (lost.status_code, lost.json()["code"], found) == (500, "CW223", ["good"])


async def test_an_advisory_lock_of_the_transaction_ends_with_it(narrow: str) -> None:
    """What a transaction has locked is free at its COMMIT, though the backend lives on."""
    async with road_to(narrow, statement_timeout=5) as road:
        for _ in range(2):
            async with road.db.session() as session:
                await session.execute(text("SELECT pg_advisory_xact_lock(7)"))
        async with road.db.session() as session:
            held = await session.scalar(
                text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
            )
    assert held == 0


async def test_a_worker_does_not_listen_through_a_pooler(narrow: str) -> None:
    """LISTEN would stay on a backend that others use: the worker only looks from time to time."""
    settings = settings_for(narrow).database
    contact = Contact(settings, "worker", lease=10)
    woken = 0

    def wake() -> None:
        nonlocal woken
        woken += 1

    await contact.open()
    async with asyncio.TaskGroup() as group:
        listening = group.create_task(contact.listen("jobs", wake))
        await until(lambda: woken > 0)
        other = await asyncpg.connect(narrow, statement_cache_size=0)
        channels = await other.fetch("SELECT pg_listening_channels()")
        await other.close()
        assert not listening.done()
        listening.cancel()
    await contact.close()
    assert (channels, woken) == ([], 1)
