"""Enqueueing: in the caller's transaction, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from fastapi import FastAPI, HTTPException, Response
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from clearway import Clearway, DbSession, ReadDbSession, Settings
from clearway.dev.postgres import EmbeddedPostgres
from clearway.errors import JobArgumentsInvalid, NotOpen, ServerFull, StoreUnfit
from clearway.jobs.store import Store, statements
from jobs.conftest import as_sqlalchemy
from jobs.declared import Invoice, archive, look, note, render, say
from support.asgi import StartFailed, running, serving
from support.process import free_port
from support.waiting import until
from support.wire import wire_to

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("jobs")]

PATIENCE = 20.0


def settings_for(url: str, **jobs: object) -> Settings:
    """Return settings for a database, with these of the group `jobs`."""
    return Settings.model_validate(
        {"database": {"url": url, "lock_timeout": PATIENCE}, "jobs": jobs}
    )


def road_to(url: str, app: FastAPI | None = None, **jobs: object) -> Clearway:
    """Return a Clearway on a database."""
    return Clearway(app or FastAPI(), settings_for(url, **jobs))


async def fetch(url: str, query: str, *arguments: object) -> list[dict[str, Any]]:
    """Return what another connection sees now."""
    connection = await asyncpg.connect(url)
    try:
        return [dict(row) for row in await connection.fetch(query, *arguments)]
    finally:
        await connection.close()


async def jobs_in(url: str) -> list[dict[str, Any]]:
    """Return the jobs that another connection sees now."""
    return await fetch(url, "SELECT * FROM clearway.jobs ORDER BY id")


async def execute(url: str, statement: str) -> None:
    """Run a statement over a connection of its own."""
    await fetch(url, statement)


DDL = """
CREATE TABLE item (
    id serial PRIMARY KEY, name text NOT NULL,
    parent_id int REFERENCES item (id) DEFERRABLE INITIALLY DEFERRED
)
"""
ORPHAN = text("INSERT INTO item (name, parent_id) VALUES ('orphan', 4711)")
ITEM = text("INSERT INTO item (name) VALUES ('one')")


@pytest.fixture
async def table(database_url: str, anyio_backend: object) -> str:
    """Return the URL of a database with a table whose constraint is checked at COMMIT."""
    await execute(database_url, DDL)
    return database_url


# With the caller's transaction


async def test_a_job_commits_with_its_row(table: str) -> None:
    """When the 2xx begins the row and the job are there, each with what was given."""
    app = FastAPI()

    @app.post("/")
    async def create(session: DbSession) -> int:
        await session.execute(ITEM)
        return await render.enqueue(session, 3, scale=0.5)

    road_to(table, app)
    async with serving(app) as client:
        answer = await client.post("/")
        assert answer.status_code == 200
        (row,) = await jobs_in(table)

    assert row["id"] == answer.json()
    assert (row["name"], row["queue"], row["body"]) == ("jobs.declared:render", "pdf", "process")
    assert (row["service"], row["arguments"]) == ("app", '{"pages":3,"scale":0.5}')
    assert (row["attempts"], row["crashes"], row["token"]) == (0, 0, None)
    assert row["run_at"] == row["enqueued_at"]
    assert len(await fetch(table, "SELECT FROM item")) == 1


@pytest.mark.parametrize("way", ["raises", "http error", "returns 409", "failed commit"])
async def test_a_rollback_leaves_no_job(table: str, way: str) -> None:
    """Whatever made the answer an error, neither the row nor the job is there."""
    app = FastAPI()

    @app.post("/")
    async def create(session: DbSession, response: Response) -> None:
        await session.execute(ITEM)
        await note.enqueue(session, 1)
        if way == "raises":
            raise RuntimeError("no")
        if way == "http error":
            raise HTTPException(404)
        if way == "returns 409":
            response.status_code = 409
        else:
            await session.execute(ORPHAN)

    road_to(table, app)
    async with serving(app) as client:
        assert (await client.post("/")).status_code >= 400

    assert await jobs_in(table) == await fetch(table, "SELECT FROM item") == []


async def test_a_script_enqueues_in_its_session(table: str) -> None:
    """`road.db.session()` commits the job at the end of the block, or rolls it back."""
    async with road_to(table) as road:
        async with road.db.session() as session:
            id = await note.enqueue(session, 7)
            assert await jobs_in(table) == []
        with contextlib.suppress(RuntimeError):
            async with road.db.session() as session:
                await note.enqueue(session, 8)
                raise RuntimeError

    (row,) = await jobs_in(table)
    assert (row["id"], row["request_id"], row["traceparent"]) == (id, None, None)


async def test_a_journey_commits_its_job_at_its_end(table: str) -> None:
    """In `road.journey()` the job carries the journey's id."""
    async with road_to(table) as road:
        async with road.journey("import") as journey:
            await note.enqueue(await road.db.dependency(), 1)
            assert await jobs_in(table) == []
        with contextlib.suppress(RuntimeError):
            async with road.journey("import"):
                await note.enqueue(await road.db.dependency(), 2)
                raise RuntimeError

    (row,) = await jobs_in(table)
    assert row["request_id"] == journey.id


async def test_a_session_of_the_users_own_is_as_good(table: str) -> None:
    """A plain AsyncSession, of an engine that Clearway never saw, carries jobs."""
    engine = create_async_engine(as_sqlalchemy(table))
    async with road_to(table), AsyncSession(engine) as session:
        await note.enqueue(session, 1)
        await session.rollback()
        await note.enqueue(session, 2)
        await session.commit()
        await note.enqueue(session, 3)
    await engine.dispose()

    assert [row["arguments"] for row in await jobs_in(table)] == ['{"number":2}']


async def test_a_read_session_takes_no_job(table: str) -> None:
    """It has no transaction: the job would be there whatever becomes of the request."""
    app = FastAPI()

    @app.post("/")
    async def create(session: ReadDbSession) -> None:
        await note.enqueue(session, 1)

    road_to(table, app)
    async with serving(app) as client:
        answer = await client.post("/")
        assert (answer.status_code, answer.json()["code"]) == (500, "CW231")
        assert await jobs_in(table) == []


async def test_a_savepoint_that_is_rolled_back_takes_its_job_with_it(table: str) -> None:
    """What was enqueued beside it stays."""
    async with road_to(table) as road, road.db.session() as session:
        await note.enqueue(session, 1)
        with contextlib.suppress(RuntimeError):
            async with session.begin_nested():
                await note.options(unique="pending").enqueue(session, 2)
                raise RuntimeError
        async with session.begin_nested():
            await note.options(unique="pending").enqueue(session, 3)

    assert [row["arguments"] for row in await jobs_in(table)] == ['{"number":1}', '{"number":3}']
    assert len(await fetch(table, "SELECT FROM clearway.job_keys")) == 1


async def test_many_are_one_statement_and_their_ids_in_order(table: str) -> None:
    """A thousand calls of a job are one INSERT, in one round trip."""
    address = urlsplit(table)
    assert address.hostname is not None
    assert address.port is not None
    sent: list[str] = []
    async with wire_to(address.hostname, address.port) as wire:
        through = address._replace(
            netloc=address.netloc.replace(str(address.port), str(wire.port))
        ).geturl()
        async with road_to(through) as road:
            event.listen(
                road.db.engine.sync_engine, "before_cursor_execute",
                lambda connection, cursor, sql, *_: sent.append(sql),
            )  # fmt: skip
            async with road.db.session() as session:
                for _ in range(2):  # the first one is prepared
                    await note.enqueue_many(session, [note.call(n) for n in range(3)])
                sent.clear()
                before = wire.trips
                ids = await note.enqueue_many(session, (note.call(n) for n in range(1000)))
                trips, statements_sent = wire.trips - before, len(sent)
                assert await note.enqueue_many(session, []) == []

    rows = (await jobs_in(table))[6:]
    assert statements_sent == trips == 1
    assert ids == [row["id"] for row in rows]
    assert [row["arguments"] for row in rows] == [f'{{"number":{n}}}' for n in range(1000)]


async def test_a_job_knows_the_request_that_enqueued_it(table: str) -> None:
    """Its id and its trace context are stored, for the worker's log lines."""
    app = FastAPI()

    @app.post("/")
    async def create(session: DbSession) -> None:
        await note.enqueue(session, 1)

    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    road_to(table, app)
    async with serving(app) as client:
        await client.post("/", headers={"X-Request-ID": "order-7", "traceparent": trace})

    (row,) = await jobs_in(table)
    assert (row["request_id"], row["traceparent"]) == ("order-7", trace)


async def test_wrong_arguments_send_nothing(table: str) -> None:
    """They are found before the database is asked: the transaction goes on."""
    async with road_to(table) as road, road.db.session() as session:
        with pytest.raises(JobArgumentsInvalid, match=r"invoice\.number"):
            await archive.enqueue(session, {"lines": []}, 1)  # type: ignore[arg-type]  # that is the test
        await archive.enqueue(session, Invoice(number=1), 2)
        await look.enqueue(session, 5)

    assert [row["arguments"] for row in await jobs_in(table)] == [
        '{"invoice":{"number":1,"lines":[]},"copies":2}', '{"number":5}',
    ]  # fmt: skip


async def test_every_text_that_travels_is_stored(table: str) -> None:
    """NUL, which no text column takes, is stored as its escape, and a number to its last digit."""
    async with road_to(table) as road, road.db.session() as session:
        await say.enqueue(session, "a\0b \U0001f600", 10**30)

    (row,) = await jobs_in(table)
    assert say.arguments.unpack(row["arguments"]) == {"words": "a\0b \U0001f600", "times": 10**30}


async def test_a_delay_and_a_queue_are_stored(table: str) -> None:
    """`options` says when and by which queue."""
    async with road_to(table) as road, road.db.session() as session:
        await note.options(delay=90, queue="slow").enqueue(session, 1)

    (row,) = await jobs_in(table)
    assert (row["run_at"] - row["enqueued_at"]).total_seconds() == 90
    assert row["queue"] == "slow"


# Unique


async def test_while_one_is_pending_another_is_the_same(table: str) -> None:
    """`enqueue` returns the id of the first; other arguments, and the job alone, are others."""
    once = note.options(unique="pending")
    async with road_to(table) as road:
        async with road.db.session() as session:
            first = await once.enqueue(session, 1)
            assert await once.enqueue(session, 1) == first
        async with road.db.session() as session:
            again, other = await once.enqueue(session, 1), await once.enqueue(session, 2)
            free = await note.enqueue(session, 1)

    assert again == first
    assert [row["id"] for row in await jobs_in(table)] == [first, other, free]


@pytest.mark.parametrize("unique", ["minute", "hour", "day"])
async def test_in_a_window_another_is_the_same_even_when_the_first_is_done(
    table: str, unique: Any
) -> None:
    """The key outlives its job, and once its window is over another one is enqueued."""
    once = note.options(unique=unique)
    async with road_to(table) as road:
        async with road.db.session() as session:
            # A window that ends while the test runs would be another one.
            await session.execute(text("SELECT pg_sleep(greatest(0, extract(epoch FROM "
                "date_trunc('minute', now() + interval '5 s') - now())))"))  # fmt: skip
        async with road.db.session() as session:
            first = await once.enqueue(session, 1)
        await execute(table, "DELETE FROM clearway.jobs")
        async with road.db.session() as session:
            assert await once.enqueue(session, 1) == first
        assert await jobs_in(table) == []
        (key,) = await fetch(table, "SELECT * FROM clearway.job_keys")
        await execute(table, "UPDATE clearway.job_keys SET ends = now() - interval '1 s'")
        async with road.db.session() as session:
            second = await once.enqueue(session, 1)
            assert await once.enqueue(session, 1) == second

    assert [row["id"] for row in await jobs_in(table)] == [second]
    length = {"minute": 60, "hour": 3600, "day": 86_400}[unique]
    assert key["ends"].timestamp() % length == 0
    (renewed,) = await fetch(table, "SELECT *, ends > now() AS holds FROM clearway.job_keys")
    assert (renewed["job_id"], renewed["holds"]) == (second, True)


async def test_a_key_stands_for_the_arguments(table: str) -> None:
    """Two calls with other arguments and the same key are one job."""
    once = note.options(unique="pending", key="invoice 7")
    async with road_to(table) as road, road.db.session() as session:
        first, second = await once.enqueue(session, 1), await once.enqueue(session, 2)

    assert first == second
    assert [row["arguments"] for row in await jobs_in(table)] == ['{"number":1}']


async def test_duplicates_in_one_call_are_one_job(table: str) -> None:
    """`enqueue_many` returns the same id for each of them, the first's."""
    once = note.options(unique="pending")
    async with road_to(table) as road, road.db.session() as session:
        held = await once.enqueue(session, 3)
        calls = [once.call(n) for n in (1, 2, 1, 3, 2)] + [note.call(1)]
        ids = await note.enqueue_many(session, calls)

    assert ids[0] == ids[2]
    assert ids[1] == ids[4]
    assert ids[3] == held
    assert len(set(ids)) == 4
    assert len(await jobs_in(table)) == 4


@pytest.mark.parametrize("commits", [True, False])
async def test_the_second_of_two_transactions_waits_for_the_first(
    table: str, commits: bool
) -> None:
    """If the first commits its job is the one; if it is rolled back the second one's is."""
    once = note.options(unique="pending")
    second: list[int] = []

    async def enqueue(road: Clearway) -> None:
        async with road.db.session() as session:
            second.append(await once.enqueue(session, 1))

    async with road_to(table) as road:
        first = 0
        with contextlib.suppress(RuntimeError):
            async with road.db.session() as session:
                first = await once.enqueue(session, 1)
                task = asyncio.create_task(enqueue(road))
                await waits_for_a_lock(table)
                assert not second
                if not commits:
                    raise RuntimeError
        async with asyncio.timeout(PATIENCE):
            await task

    assert (second == [first]) is commits
    assert [row["id"] for row in await jobs_in(table)] == second


async def waits_for_a_lock(url: str) -> None:
    """Wait until a connection of this database waits for a lock."""
    query = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = "
    async with asyncio.timeout(PATIENCE):
        while not await fetch(url, query + "'Lock'"):
            await asyncio.sleep(0.01)


async def test_of_many_at_once_one_is_enqueued(table: str) -> None:
    """Twenty requests with the same key, in any order of their other keys, make one of each."""
    once = note.options(unique="pending")

    async def enqueue(road: Clearway, n: int) -> tuple[int, ...]:
        numbers = list(range(5)) if n % 2 else list(range(4, -1, -1))
        async with road.db.session() as session:
            ids = await once.enqueue_many(session, [once.call(number) for number in numbers])
        return tuple(ids if n % 2 else ids[::-1])

    async with road_to(table) as road:
        answers = await asyncio.gather(*(enqueue(road, n) for n in range(20)))

    assert len(set(answers)) == 1
    assert sorted(row["id"] for row in await jobs_in(table)) == sorted(answers[0])


async def test_the_key_of_a_job_that_is_done_is_free(table: str) -> None:
    """A pending key ends with its job."""
    once = note.options(unique="pending")
    async with road_to(table) as road:
        async with road.db.session() as session:
            first = await once.enqueue(session, 1)
        store = Store("clearway", "app")
        async with road.db.session() as session:
            orders = await store.claim(
                session, "loop", names=[note.name], queues=(), most=1, lease=60
            )
            assert await store.complete(session, orders) == {first}
        async with road.db.session() as session:
            assert await once.enqueue(session, 1) != first


# What is not open, and what is not there


async def test_without_an_open_clearway_it_is_said(table: str) -> None:
    """`NotOpen` names the fix; a session alone is not enough."""
    engine = create_async_engine(as_sqlalchemy(table))
    async with AsyncSession(engine) as session:
        with pytest.raises(NotOpen, match="enqueue") as refused:
            await note.enqueue(session, 1)
    await engine.dispose()

    assert "async with road" in refused.value.fix


async def test_without_a_database_it_is_said(table: str) -> None:
    """A Clearway that has none is open, and has nowhere to put a job."""
    engine = create_async_engine(as_sqlalchemy(table))
    async with Clearway(FastAPI(), Settings()), AsyncSession(engine) as session:
        with pytest.raises(NotOpen, match="enqueue"):
            await note.enqueue(session, 1)
    await engine.dispose()


@pytest.mark.parametrize("off", ["variable", "setting"])
async def test_switched_off_nothing_is_made(
    table: str, off: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under CLEARWAY=off, and with jobs.enabled off, no table is made and enqueue says so."""
    app = FastAPI()
    if off == "variable":
        monkeypatch.setenv("CLEARWAY", "off")
        Clearway(app)
    else:
        road_to(table, app, enabled=False)
    engine = create_async_engine(as_sqlalchemy(table))
    async with running(app), AsyncSession(engine) as session:
        with pytest.raises(NotOpen):
            await note.enqueue(session, 1)
    await engine.dispose()

    assert await schemas(table) == []


async def schemas(url: str) -> list[dict[str, Any]]:
    """Return the schemas of jobs in a database."""
    return await fetch(url, "SELECT nspname FROM pg_namespace WHERE nspname = 'clearway'")


async def test_an_app_without_jobs_gets_no_tables(
    table: str, undeclared: dict[str, object]
) -> None:
    """Nothing is installed until a job is declared."""
    undeclared.clear()
    async with road_to(table):
        pass

    assert await schemas(table) == []


async def test_with_install_off_missing_tables_stop_the_start(table: str) -> None:
    """The message names the command that prints the SQL, and nothing was made."""
    app = FastAPI()
    road_to(table, app, install="off")
    with pytest.raises(StartFailed, match=r"CW703.*install is off") as refused:
        async with running(app):
            pass

    assert "clearway jobs sql" in str(refused.value)
    assert await schemas(table) == []


async def test_with_install_off_the_printed_sql_is_enough(table: str) -> None:
    """Tables that a migration has made are used as they are."""
    for statement in statements("clearway"):
        await execute(table, statement)
    async with road_to(table, install="off") as road, road.db.session() as session:
        await note.enqueue(session, 1)

    assert len(await jobs_in(table)) == 1


@pytest.fixture
def role(postgres: EmbeddedPostgres) -> Iterator[tuple[str, str]]:
    """Return name and password of a role that may log in, and nothing else."""
    name, password = f"role_{secrets.token_hex(6)}", secrets.token_hex(8)
    command = [str(postgres.psql), postgres.url, "-qXc"]
    make = f"CREATE ROLE {name} LOGIN PASSWORD '{password}'"
    subprocess.run([*command, make], check=True, timeout=20)
    yield name, password
    subprocess.run([*command, f"DROP OWNED BY {name}"], check=True, timeout=20)
    subprocess.run([*command, f"DROP ROLE {name}"], check=False, timeout=20)


def as_role(url: str, role: tuple[str, str]) -> str:
    """Return the URL of a database for another role."""
    parts = urlsplit(url)
    netloc = f"{role[0]}:{role[1]}@{parts.hostname}:{parts.port}"
    return urlunsplit(parts._replace(netloc=netloc))


async def test_a_role_that_may_not_make_tables_is_told_how(
    table: str, role: tuple[str, str]
) -> None:
    """The start is refused with PostgreSQL's reason and the command for another role."""
    with pytest.raises(StoreUnfit, match="permission denied") as refused:
        async with road_to(as_role(table, role)):
            pass

    assert "clearway jobs sql" in refused.value.fix
    assert await schemas(table) == []


async def test_a_role_that_may_only_use_the_tables_enqueues(
    table: str, role: tuple[str, str]
) -> None:
    """Once another role has made them, rights on rows and the sequence are enough."""
    for statement in [
        *statements("clearway"),
        f"GRANT USAGE ON SCHEMA clearway TO {role[0]}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA clearway TO {role[0]}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA clearway TO {role[0]}",
    ]:
        await execute(table, statement)
    async with road_to(as_role(table, role)) as road, road.db.session() as session:
        await note.options(unique="pending").enqueue(session, 1)
    assert len(await jobs_in(table)) == 1
    await execute(table, f"DROP OWNED BY {role[0]}")


async def test_a_role_without_rights_on_the_tables_is_told(
    table: str, role: tuple[str, str]
) -> None:
    """Tables that are there and may not be read are not usable, which is said at the start."""
    for statement in statements("clearway"):
        await execute(table, statement)
    with pytest.raises(StoreUnfit, match="permission denied"):
        async with road_to(as_role(table, role)):
            pass


# The server at the start


@asynccontextmanager
async def door(port: int, url: str) -> AsyncIterator[None]:
    """Let a port lead to the server."""
    parts = urlsplit(url)

    async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
        sink.close()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(parts.hostname, parts.port)
        await asyncio.gather(pipe(reader, far_writer), pipe(far_reader, writer))

    async with await asyncio.start_server(carry, "127.0.0.1", port):
        yield


async def test_a_server_that_is_down_does_not_stop_the_start(
    table: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The start says so; once the server is there the first enqueue makes the tables."""
    app = FastAPI()

    @app.post("/")
    async def create(session: DbSession) -> None:
        await note.enqueue(session, 1)

    port, parts = free_port(), urlsplit(table)
    through = parts._replace(netloc=parts.netloc.replace(str(parts.port), str(port))).geturl()
    road_to(through, app)
    with caplog.at_level(logging.WARNING, "clearway.jobs"):
        async with serving(app) as client:
            assert "cannot be reached" in caplog.text
            assert (await client.post("/")).status_code == 503
            assert await schemas(table) == []
            async with door(port, table):
                assert (await client.post("/")).status_code == 200
                assert (await client.post("/")).status_code == 200

    assert len(await jobs_in(table)) == 2


async def test_a_server_that_is_full_does_not_stop_the_start(
    table: str, role: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Too many connections at a deploy pass, like a server that is down."""
    await execute(table, f"ALTER ROLE {role[0]} CONNECTION LIMIT 0")
    await execute(table, f"GRANT CREATE ON DATABASE {urlsplit(table).path[1:]} TO {role[0]}")
    with caplog.at_level(logging.WARNING, "clearway.jobs"):
        async with road_to(as_role(table, role)) as road:
            assert "accepts no more connections" in caplog.text
            await execute(table, f"ALTER ROLE {role[0]} CONNECTION LIMIT -1")
            enqueued = False
            async with asyncio.timeout(PATIENCE):
                while not enqueued:
                    with suppress(ServerFull):  # it is not asked again for a moment
                        async with road.db.session() as session:
                            await note.enqueue(session, 1)
                            enqueued = True
                    await asyncio.sleep(0.05)
    assert len(await jobs_in(table)) == 1
    await execute(table, f"DROP OWNED BY {role[0]}")


async def test_ten_instances_that_start_at_once_make_the_tables_once(table: str) -> None:
    """None of them fails, and each can enqueue."""

    async def start() -> None:
        async with road_to(table) as road, road.journey("start"):
            await note.enqueue(await road.db.dependency(), 1)

    await asyncio.gather(*(start() for _ in range(10)))

    assert len(await jobs_in(table)) == 10
    assert await fetch(table, "SELECT version FROM clearway.store_version") == [{"version": 1}]


# Waking the workers


class Ear:
    """A connection of its own that listens.

    Attributes:
        heard: The backend that each NOTIFY came from.
    """

    def __init__(self) -> None:
        self.heard: list[int] = []

    def hear(self, connection: object, pid: int, channel: str, payload: object) -> None:
        """Note a NOTIFY."""
        self.heard.append(pid)


@asynccontextmanager
async def listening(url: str, channel: str = "clearway_jobs") -> AsyncIterator[Ear]:
    """Listen with a raw connection."""
    ear = Ear()
    connection = await asyncpg.connect(url)
    await connection.add_listener(channel, ear.hear)
    try:
        yield ear
        # What was sent before is here before the answer to this.
        await asyncio.sleep(0.2)
        await connection.execute("SELECT 1")
    finally:
        await connection.remove_listener(channel, ear.hear)
        await connection.close()


async def test_the_workers_are_woken_after_the_commit(table: str) -> None:
    """Not before, and not by NOTIFY in the user's transaction, but by a connection beside it."""
    async with road_to(table) as road, listening(table) as ear:
        sent: list[tuple[str, object]] = []

        def watch(connection: Any, cursor: object, sql: str, *_: object) -> None:
            sent.append((sql, connection.get_execution_options().get("isolation_level")))

        event.listen(road.db.engine.sync_engine, "before_cursor_execute", watch)
        async with road.db.session() as session:
            await note.enqueue(session, 1)
            await asyncio.sleep(0.2)
            assert not any("notify" in sql.lower() for sql, _ in sent)
        await until(lambda: bool(ear.heard))

    # In AUTOCOMMIT it is a transaction of its own, even if it got the same connection.
    assert [isolation for sql, isolation in sent if "pg_notify" in sql] == ["AUTOCOMMIT"]


async def test_a_rollback_wakes_nobody(table: str) -> None:
    """There is nothing to do."""
    async with road_to(table) as road, listening(table) as ear:
        with contextlib.suppress(RuntimeError):
            async with road.db.session() as session:
                await note.enqueue(session, 1)
                raise RuntimeError

    assert ear.heard == []


async def test_a_savepoint_wakes_nobody(table: str) -> None:
    """Its release is no commit: the job may still be rolled back."""
    async with road_to(table) as road, listening(table) as ear:
        with contextlib.suppress(RuntimeError):
            async with road.db.session() as session:
                async with session.begin_nested():
                    await note.enqueue(session, 1)
                raise RuntimeError

    assert ear.heard == []
    assert await jobs_in(table) == []


async def test_a_commit_without_a_job_wakes_nobody(table: str) -> None:
    """Only those who enqueue pay for it, also in a session that has enqueued before."""
    async with road_to(table) as road, AsyncSession(road.db.engine) as session:
        async with listening(table) as first:
            await note.enqueue(session, 1)
            await session.commit()
            await until(lambda: bool(first.heard))
        async with listening(table) as second:
            await session.execute(ITEM)
            await session.commit()
        async with listening(table) as third:
            await note.enqueue(session, 1)
            await session.commit()
            await until(lambda: bool(third.heard))

    assert (len(first.heard), second.heard, len(third.heard)) == (1, [], 1)


async def test_many_commits_wake_the_workers_a_few_times(table: str) -> None:
    """NOTIFY takes a lock of the whole server: what comes close together is one."""
    async with road_to(table) as road, listening(table) as ear:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(100):
            async with road.db.session() as session:
                await note.enqueue(session, 1)
        took = loop.time() - began
        await until(lambda: bool(ear.heard))

    # One at once, one for each 50 ms that the commits took, and one for the last.
    assert 1 <= len(ear.heard) <= took / 0.05 + 2


async def test_a_commit_right_before_the_end_wakes_the_workers(table: str) -> None:
    """Closing lets the last wake-up go out."""
    async with listening(table) as ear:
        async with road_to(table) as road:
            for _ in range(2):
                async with road.db.session() as session:
                    await note.enqueue(session, 1)
        await until(lambda: bool(ear.heard))


async def test_a_commit_after_the_end_wakes_nobody_and_commits(table: str) -> None:
    """A session that outlives its Clearway is still the user's own."""
    engine = create_async_engine(as_sqlalchemy(table))
    async with AsyncSession(engine) as session, listening(table) as ear:
        async with road_to(table):
            await note.enqueue(session, 1)
        await session.commit()
    await engine.dispose()

    assert ear.heard == []
    assert len(await jobs_in(table)) == 1


async def test_a_wake_up_that_fails_breaks_nothing(
    table: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where NOTIFY is refused the request is answered, and the job is found by polling."""
    app = FastAPI()

    @app.post("/")
    async def create(session: DbSession) -> None:
        await note.enqueue(session, 1)

    def refuse(connection: object, cursor: object, sql: str, *_: object) -> None:
        if "pg_notify" in sql:
            raise ConnectionResetError("nobody hears")

    caplog.set_level(logging.DEBUG, "clearway.jobs")
    road = road_to(table, app)
    async with serving(app) as client:
        event.listen(road.db.engine.sync_engine, "before_cursor_execute", refuse)
        for times in (1, 2):
            assert (await client.post("/")).status_code == 200
            await until(lambda: caplog.text.count("left out: nobody hears") >= times)  # noqa: B023 - awaited here

    assert len(await jobs_in(table)) == 2
    assert "never retrieved" not in caplog.text


async def test_a_wake_up_that_finds_no_connection_breaks_nothing(
    table: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With every connection of the pool in use the commit is not held up."""
    caplog.set_level(logging.DEBUG, "clearway.jobs")
    settings = {"url": table, "pool_size": 1, "max_overflow": 0, "wait_timeout": 0.2}
    road = Clearway(FastAPI(), Settings.model_validate({"database": settings}))
    engine = create_async_engine(as_sqlalchemy(table))
    async with road, AsyncSession(engine) as session, road.db.session() as holding:
        await holding.execute(text("SELECT 1"))
        await note.enqueue(session, 1)
        await session.commit()
        assert len(await jobs_in(table)) == 1
        await until(lambda: "a wake-up was left out" in caplog.text)
    await engine.dispose()


async def test_the_schema_may_be_another(table: str) -> None:
    """`jobs.database_schema` names the tables' schema, and the channel with it."""
    async with road_to(table, database_schema="work") as road, listening(table, "work_jobs") as ear:
        async with road.db.session() as session:
            await note.enqueue(session, 1)
        await until(lambda: bool(ear.heard))

    assert len(await fetch(table, "SELECT FROM work.jobs")) == 1
    assert await schemas(table) == []
