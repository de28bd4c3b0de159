"""The connection budget: what the server has left, and what each process may take of it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.engine import make_url

from clearway.db.budget import Numbers, assess, process_name
from clearway.dev.postgres import EmbeddedPostgres
from clearway.errors import OverBudget
from db.roads import road_to

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def small() -> Iterator[EmbeddedPostgres]:
    """Return a server that takes 20 connections, 3 of them reserved and 2 more."""
    limits = {
        "max_connections": "20",
        "superuser_reserved_connections": "3",
        "reserved_connections": "2",
    }
    with EmbeddedPostgres(settings=limits) as server:
        yield server


@asynccontextmanager
async def role(server: EmbeddedPostgres, limit: int = -1) -> AsyncIterator[str]:
    """Make a role that is no superuser, and give its URL."""
    admin = await asyncpg.connect(server.url)
    await admin.execute(f"create role small login password 'small' connection limit {limit}")
    try:
        url = make_url(server.url).set(username="small", password="small")
        yield url.render_as_string(hide_password=False)
    finally:
        await admin.execute("drop role small")
        await admin.close()


def numbers(**changes: int) -> Numbers:
    """Return what a server says, with changes."""
    said = {
        "most": 100, "reserved": 3, "superuser": False, "role_limit": -1, "database_limit": -1,
        "others": 7, "others_of_role": 0, "others_in_database": 0, "processes": 1,
    }  # fmt: skip
    return Numbers(**{**said, **changes})  # type: ignore[arg-type]  # one is a bool


def test_the_arithmetic_is_said() -> None:
    """Every number of the sum is in the text."""
    budget = assess(numbers(processes=4), 30)

    assert (budget.room, budget.share, budget.grant, budget.fits) == (90, 22, 22, False)
    assert str(budget) == (
        "4 processes x 30 connections = 120, but there is room for 90 "
        "(max_connections 100 - 3 reserved - 7 of others): 22 for each process"
    )


@pytest.mark.parametrize(
    ("changes", "room"),
    [
        ({"role_limit": 20, "others_of_role": 4}, 16),
        ({"database_limit": 10, "others_in_database": 1}, 9),
        ({"role_limit": 200}, 90),
        ({"superuser": 1, "role_limit": 5}, 93),
    ],
)
def test_the_narrowest_limit_counts(changes: dict[str, int], room: int) -> None:
    """The role's and the database's limits bind whoever is no superuser."""
    assert assess(numbers(**changes), 30).room == room


@given(
    most=st.integers(1, 10_000), reserved=st.integers(0, 100), others=st.integers(0, 20_000),
    processes=st.integers(0, 600), known=st.integers(1, 600), wanted=st.integers(1, 2000),
    limit=st.integers(-1, 500),
)  # fmt: skip
def test_the_shares_never_exceed_the_room(
    most: int, reserved: int, others: int, processes: int, known: int, wanted: int, limit: int
) -> None:
    """Whatever the server says, all shares together fit, and each process is granted one."""
    budget = assess(
        numbers(most=most, reserved=reserved, others=others, processes=processes, role_limit=limit),
        wanted,
        known,
    )

    assert budget.room >= 0
    assert 0 <= budget.share * budget.processes <= budget.room
    assert budget.processes >= max(processes, known)
    assert 1 <= budget.grant <= wanted


async def test_fit_keeps_to_the_share_and_says_why(
    small: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    """The lane has as many places as are left, and one warning has the sum and three ways out."""
    async with role(small) as url:
        road = road_to(url)
        with caplog.at_level(logging.WARNING, "clearway.db"):
            async with road:
                assert road.lanes["db"].capacity == 14  # 20 - 5 reserved - the admin's
                assert road.db.budget is not None
                assert road.db.budget.fits is False

    (record,) = caplog.records
    said = record.getMessage()
    assert "1 processes x 30 connections = 30, but there is room for 14" in said
    assert "14 here from now on" in said
    assert "lower database.pool_size" in said
    assert "max_connections" in said
    assert "PgBouncer" in said


async def test_what_fits_is_left_alone(
    small: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is said, and the pool is as the settings want it."""
    with caplog.at_level(logging.WARNING, "clearway.db"):
        async with road_to(small.url, pool_size=5, max_overflow=2) as road:
            assert road.lanes["db"].capacity == 7
    assert not caplog.records


async def test_a_roles_limit_counts(small: EmbeddedPostgres) -> None:
    """CONNECTION LIMIT 4 leaves four."""
    async with role(small, limit=4) as url, road_to(url) as road:
        assert road.lanes["db"].capacity == 4


@pytest.mark.parametrize(("mode", "capacity"), [("warn", 30), ("off", 30)])
async def test_warn_says_so_and_off_says_nothing(
    small: EmbeddedPostgres, mode: str, capacity: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither touches the pool."""
    with caplog.at_level(logging.WARNING, "clearway.db"):
        async with road_to(small.url, budget=mode) as road:
            assert road.lanes["db"].capacity == capacity
    assert bool(caplog.records) is (mode == "warn")


async def test_enforce_refuses_the_start(small: EmbeddedPostgres) -> None:
    """The error has the sum and the ways out, and nothing is left open."""
    with pytest.raises(OverBudget, match="there is room for") as raised:
        async with road_to(small.url, budget="enforce"):
            pass
    assert "PgBouncer" in raised.value.fix
    assert not [task for task in asyncio.all_tasks() if "clearway" in task.get_name()]


async def test_a_server_that_is_down_does_not_stop_the_start() -> None:
    """What cannot be known now is looked at again later."""
    async with road_to(
        "postgresql://h@127.0.0.1:1/d", budget="enforce", reconnect_within=0
    ) as road:
        assert road.db.budget is None


async def test_a_server_that_does_not_answer_does_not_hold_up_the_start() -> None:
    """A port that takes the connection and says nothing: the look is given up after 2 s."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        road = road_to(f"postgresql://h@127.0.0.1:{port}/d", min_size=0)
        async with asyncio.timeout(20), road:
            assert road.db.budget is None


CHILD = """
import asyncio, sys
import clearway.db
from db.roads import road_to

async def main():
    async with road_to(sys.argv[1], pool_size=4, max_overflow=0) as road:
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


async def test_processes_see_each_other(small: EmbeddedPostgres) -> None:
    """Another process of the service, here or on another host, halves the share."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, small.url,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert child.stdout is not None
    try:
        assert (await child.stdout.readline()).strip() == b"open"
        async with road_to(small.url) as road:
            budget = road.db.budget
            assert budget is not None
            assert budget.processes == 2
            assert budget.share == budget.room // 2
            assert road.lanes["db"].capacity == budget.share
    finally:
        await child.communicate(b"")


async def test_the_known_number_of_processes_counts_from_the_start(
    small: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WEB_CONCURRENCY says how many there will be before they are there."""
    monkeypatch.setenv("WEB_CONCURRENCY", "5")
    async with road_to(small.url) as road:
        assert road.db.budget is not None
        assert road.db.budget.processes == 5
        assert road.lanes["db"].capacity == 20 // 5


def test_the_mark_is_stable_and_fits() -> None:
    """63 bytes are what PostgreSQL keeps."""
    assert process_name("shop") == process_name("shop")
    assert process_name("shop").startswith("shop#")
    assert len(process_name("ü" * 63).encode()) <= 63


async def test_a_name_in_the_url_is_ours_too(small: EmbeddedPostgres) -> None:
    """`?application_name=shop` is the name before the mark: our own are not taken for others."""
    url = f"{small.url}?application_name=shop"
    async with road_to(url, pool_size=4, max_overflow=0) as road:
        async with road.db.session() as one, road.db.session() as two:
            for session in (one, two):
                name = await session.scalar(text("select current_setting('application_name')"))
                assert str(name).startswith("shop#")
        budget = road.db.budget
        assert budget is not None
        assert budget.processes == 1
        assert "- 0 of others" in budget.arithmetic


async def test_reads_on_the_same_server_are_part_of_the_plan(small: EmbeddedPostgres) -> None:
    """Both pools together keep within what is left, each by its part."""
    async with road_to(
        small.url, pool_size=20, max_overflow=0, read_url=small.url, min_size=0
    ) as road:
        budget = road.db.budget
        assert budget is not None
        assert budget.wanted == 40
        assert [road.lanes[name].capacity for name in ("db", "db.read")] == [10, 10]
