"""Test `clearway jobs` as a real process against a real database."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import NullPool, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from clearway.dev.postgres import EmbeddedPostgres
from clearway.jobs.store import JobName, Store, schema_sql
from cli.processes import clearway, free_port

T = TypeVar("T")

WORK, REPORT = "main:work", "main:report"


class Shop:
    """A database with the tables of jobs, and the command line of a service that uses it.

    Attributes:
        url: Of the database.
        store: Of the service `shop`.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.store = Store("clearway", "shop")
        self._folder = folder
        self._env = {"DATABASE_URL": url, "CLEARWAY_SERVICE__NAME": "shop"}

    def jobs(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `clearway jobs` with these arguments."""
        return clearway("jobs", *arguments, cwd=self._folder, **(self._env | env))

    def lines(self, *arguments: str, **env: str) -> list[dict[str, Any]]:
        """Return what it prints with --json."""
        answer = self.jobs(*arguments, "--json", **env)
        assert answer.returncode == 0, answer.stderr
        return [json.loads(line) for line in answer.stdout.splitlines()]

    def do(self, call: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Do something with a connection in AUTOCOMMIT."""

        async def run() -> T:
            engine = create_async_engine(
                self.url.replace("postgresql://", "postgresql+asyncpg://", 1),
                poolclass=NullPool,
                isolation_level="AUTOCOMMIT",
            )
            async with engine.connect() as on:
                return await call(on)

        return asyncio.run(run())

    def enqueue(
        self, count: int = 1, *, delay: float = 0.0, store: Store | None = None
    ) -> list[int]:
        """Insert jobs whose argument `n` counts from 0."""
        columns: dict[str, list[Any]] = {
            "names": [WORK] * count, "queues": ["mail"] * count, "bodies": ["loop"] * count,
            "arguments": [json.dumps({"n": n}) for n in range(count)],
            "delays": [delay] * count, "keys": [None] * count, "windows": [None] * count,
        }  # fmt: skip
        place = store or self.store
        return self.do(lambda on: place.enqueue(on, columns, request_id="r-9", traceparent=None))

    def run(self, most: int = 100) -> None:
        """Claim jobs, as a worker that never ends them."""
        self.do(lambda on: self._claim(on, most))

    def finish(self, most: int = 100) -> None:
        """Run jobs to their end."""

        async def finish(on: AsyncConnection) -> None:
            await self.store.complete(on, await self._claim(on, most))

        self.do(finish)

    def fail(self, most: int = 100, error: str = "ValueError: no such invoice") -> None:
        """Put jobs into the failure queue."""

        async def fail(on: AsyncConnection) -> None:
            orders = await self._claim(on, most)
            count = len(orders)
            trace = f"Traceback (most recent call last):\n  ...\n{error}\n"
            await self.store.bury(on, orders, [error] * count, [trace] * count)

        self.do(fail)

    def announce(self, *names: JobName, store: Store | None = None) -> None:
        """Declare jobs, as a worker does at its start."""
        self.do(lambda on: (store or self.store).announce(on, names))

    async def _claim(self, on: AsyncConnection, most: int) -> Any:
        return await self.store.claim(on, "loop", names=[WORK], queues=(), most=most, lease=3600)


@pytest.fixture
def empty(database_url: str, tmp_path: Path) -> Shop:
    """Return a shop whose database has no tables of jobs."""
    return Shop(database_url, tmp_path)


@pytest.fixture
def shop(empty: Shop) -> Shop:
    """Return a shop whose tables are there."""

    async def install(on: AsyncConnection) -> None:
        await empty.store.install(on.engine, make=True)

    empty.do(install)
    return empty


DAILY = JobName(REPORT, "nightly", "loop", "0 3 * * *", "Europe/Berlin")


# list


def test_list_shows_what_runs_and_what_waits(shop: Shop) -> None:
    """Those that run come first, then those that wait, then those that are for later."""
    running, waiting = shop.enqueue(2)
    (later,) = shop.enqueue(delay=3600)
    shop.run(1)
    answer = shop.jobs("list")

    assert answer.returncode == 0
    head, *rows = answer.stdout.splitlines()
    assert head.split()[:4] == ["id", "job", "queue", "state"]
    assert [row.split()[:4] for row in rows] == [
        [str(running), WORK, "mail", "running"],
        [str(waiting), WORK, "mail", "waiting"],
        [str(later), WORK, "mail", "later"],
    ]


def test_list_as_json_is_one_object_a_line(shop: Shop) -> None:
    """Arguments are JSON themselves, and moments have their time zone."""
    first, _ = shop.enqueue(2)
    rows = shop.lines("list")

    assert len(rows) == 2
    assert rows[0] == {
        "id": first, "name": WORK, "queue": "mail", "arguments": {"n": 0}, "attempts": 0,
        "crashes": 0, "enqueued_at": rows[0]["enqueued_at"], "state": "waiting",
        "at": rows[0]["enqueued_at"], "error": None,
    }  # fmt: skip
    assert datetime.fromisoformat(rows[0]["at"]).tzinfo is not None
    assert len(shop.lines("list", "--limit", "1")) == 1


def test_an_empty_list_says_so(shop: Shop) -> None:
    """Nothing is a sentence for a person, and no line for a program."""
    assert shop.jobs("list").stdout == "no job runs or waits\n"
    assert shop.lines("list") == []
    assert shop.jobs("failed").stdout == "the failure queue is empty\n"
    assert shop.lines("failed") == []


def test_in_a_pipe_nothing_is_cut_off(shop: Shop) -> None:
    """A long error is on one line, whatever the width of a terminal, and kept as it is."""
    shop.enqueue()
    shop.fail(error="ValueError: " + "[bold]long " * 100 + "end")
    lines = shop.jobs("failed", COLUMNS="40").stdout.splitlines()

    assert len(lines) == 2
    assert "[bold]long end" in lines[1]


# failed, show, retry


def test_failed_shows_the_newest_first(shop: Shop) -> None:
    """With the reason as its state, and the error."""
    old, new = shop.enqueue(2)
    shop.fail(1, "ValueError: old")
    shop.fail(1, "ValueError: new")
    rows = shop.lines("failed")

    assert [(row["id"], row["state"], row["error"]) for row in rows] == [
        (new, "failed", "ValueError: new"), (old, "failed", "ValueError: old"),
    ]  # fmt: skip
    assert len(shop.lines("failed", "--limit", "1")) == 1
    text = shop.jobs("failed").stdout
    assert text.index("ValueError: new") < text.index("ValueError: old")


def test_show_tells_all_of_a_failed_job(shop: Shop) -> None:
    """Its arguments, its error and its traceback, on lines of their own."""
    (id,) = shop.enqueue()
    shop.fail()
    answer = shop.jobs("show", str(id))

    assert answer.returncode == 0
    shown = answer.stdout.splitlines()
    for line in (
        f"id:           {id}", f"name:         {WORK}", 'arguments:    {"n": 0}',
        "state:        failed", "error:        ValueError: no such invoice",
        "traceback:   ", "Traceback (most recent call last):", "request_id:   r-9",
    ):  # fmt: skip
        assert line in shown


@pytest.mark.parametrize("state", ["waiting", "later", "running", "done", "failed"])
def test_show_finds_a_job_wherever_it_is(shop: Shop, state: str) -> None:
    """Waiting, running, done or failed: one command finds it by its id."""
    (id,) = shop.enqueue(delay=3600 if state == "later" else 0)
    actions: dict[str, Callable[[], None]] = {
        "running": shop.run, "done": shop.finish, "failed": shop.fail,
    }  # fmt: skip
    if state in actions:
        actions[state]()
    (row,) = shop.lines("show", str(id))

    assert (row["id"], row["state"], row["arguments"]) == (id, state, {"n": 0})
    assert ("Traceback" in (row["traceback"] or "")) is (state == "failed")


def test_show_of_an_id_that_is_not_there(shop: Shop) -> None:
    """It is said with the service's name and where to look, and exits with 1."""
    answer = shop.jobs("show", "4711")

    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.startswith("[CW705] service 'shop' has no job 4711\n  fix: clearway jobs")
    assert shop.jobs("show", "seven").returncode == 2


def test_retry_lets_the_named_jobs_run_again(shop: Shop) -> None:
    """They wait again under their ids, and the others stay where they are."""
    first, second, third = shop.enqueue(3)
    shop.fail()
    answer = shop.jobs("retry", str(first), str(third))

    assert answer.returncode == 0
    assert sorted(answer.stdout.splitlines()) == [
        f"job {first} ({WORK}) runs again", f"job {third} ({WORK}) runs again",
    ]  # fmt: skip
    assert [(row["id"], row["state"]) for row in shop.lines("list")] == [
        (first, "waiting"), (third, "waiting"),
    ]  # fmt: skip
    assert [row["id"] for row in shop.lines("failed")] == [second]


def test_retry_all_empties_the_failure_queue(shop: Shop) -> None:
    """Of this service, and asked again it says that there is nothing."""
    shop.enqueue(2)
    shop.fail()

    assert len(shop.jobs("retry", "--all").stdout.splitlines()) == 2
    assert shop.lines("failed") == []
    assert shop.jobs("retry", "--all").stdout == "the failure queue is empty\n"


def test_retry_of_what_has_not_failed_changes_nothing(shop: Shop) -> None:
    """All ids are looked at before the first job is moved."""
    (failed,) = shop.enqueue()
    shop.fail()
    (waiting,) = shop.enqueue()
    answer = shop.jobs("retry", str(failed), str(waiting), "4711")

    assert (answer.returncode, answer.stdout) == (1, "")
    assert f"not in the failure queue of service 'shop': {waiting}, 4711" in answer.stderr
    assert [row["id"] for row in shop.lines("failed")] == [failed]


@pytest.mark.parametrize("arguments", [(), ("1", "--all"), ("one",)])
def test_retry_of_nothing_in_particular_is_misuse(shop: Shop, arguments: tuple[str, ...]) -> None:
    """Ids or --all, one of the two."""
    answer = shop.jobs("retry", *arguments)

    assert answer.returncode == 2
    assert answer.stderr


def test_a_retry_wakes_the_workers(shop: Shop) -> None:
    """They need not wait for their next look."""
    shop.enqueue()
    shop.fail()
    heard: list[object] = []

    async def listen(on: AsyncConnection) -> None:
        driver: Any = (await on.get_raw_connection()).driver_connection
        await driver.add_listener(shop.store.channel, lambda *told: heard.append(told))
        answer = await asyncio.to_thread(shop.jobs, "retry", "--all")
        assert answer.returncode == 0
        await on.execute(text("SELECT 1"))
        await on.invalidate()

    shop.do(listen)
    assert len(heard) == 1


# cron


def test_schedules_are_listed_with_their_last_moment(shop: Shop) -> None:
    """A schedule that has never run says so; jobs without a schedule are not there."""
    shop.announce(DAILY, JobName("main:hourly", "default", "loop", "0 * * * *", "UTC"),
                  JobName(WORK, "mail", "loop"))  # fmt: skip
    moment = datetime(2026, 5, 1, 1, tzinfo=UTC)
    shop.do(lambda on: shop.store.tick(on, {REPORT: moment}))
    answer = shop.jobs("cron", "list", TZ="UTC")

    assert answer.returncode == 0
    _, hourly, report = answer.stdout.splitlines()
    assert hourly.split() == ["main:hourly", *["0", "*", "*", "*", "*"], "UTC", "never"]
    assert report.split() == [
        REPORT, *["0", "3", "*", "*", "*"], "Europe/Berlin", "2026-05-01", "01:00:00",
    ]  # fmt: skip
    rows = shop.lines("cron", "list")
    assert [(row["name"], row["schedule"], row["last_slot"]) for row in rows] == [
        ("main:hourly", "0 * * * *", None),
        (REPORT, "0 3 * * *", "2026-05-01T01:00:00+00:00"),
    ]


def test_no_schedule_is_a_sentence(shop: Shop) -> None:
    """A schedule is known once a worker has declared it."""
    shop.announce(JobName(WORK, "mail", "loop"))

    assert shop.jobs("cron", "list").stdout == "no worker of this service has declared a schedule\n"
    assert shop.lines("cron", "list") == []


@pytest.mark.parametrize("name", [REPORT, "report"])
def test_a_schedule_is_run_now(shop: Shop, name: str) -> None:
    """By its whole name or the function's alone; the schedule itself goes on."""
    shop.announce(DAILY)
    answer = shop.jobs("cron", "run", name)
    (row,) = shop.lines("list")

    assert answer.stdout == f"job {row['id']} is enqueued\n"
    assert (row["name"], row["queue"], row["arguments"]) == (REPORT, "nightly", {})
    assert shop.lines("cron", "list")[0]["last_slot"] is None


def test_a_schedule_that_is_not_there_leads_to_those_that_are(shop: Shop) -> None:
    """The names that exist are listed; without any, the question whether a worker was started."""
    none = shop.jobs("cron", "run", "report")
    assert (none.returncode, none.stdout) == (1, "")
    assert "has a worker been started?" in none.stderr

    other = JobName("jobs:report", "default", "loop", "0 3 * * *", "UTC")
    shop.announce(DAILY, other, JobName(WORK, "mail", "loop"))
    assert f"name one of: jobs:report, {REPORT}" in shop.jobs("cron", "run", "work").stderr
    twice = shop.jobs("cron", "run", "report")
    assert twice.returncode == 1
    assert "has 2 schedule" in twice.stderr
    assert shop.lines("list") == []


# Whose


def test_two_services_do_not_see_each_other(shop: Shop) -> None:
    """In the same tables each has its own jobs, failures and schedules."""
    other = Store("clearway", "other")
    (id,) = shop.enqueue()
    shop.fail()
    (waiting,) = shop.enqueue()
    shop.announce(DAILY)
    (theirs,) = shop.enqueue(store=other)
    env = {"CLEARWAY_SERVICE__NAME": "other"}

    assert [row["id"] for row in shop.lines("list", **env)] == [theirs]
    assert [row["id"] for row in shop.lines("list")] == [waiting]
    assert shop.lines("failed", **env) == shop.lines("cron", "list", **env) == []
    assert "service 'other' has no job" in shop.jobs("show", str(id), **env).stderr
    assert shop.jobs("retry", str(id), **env).returncode == 1
    assert shop.jobs("retry", "--all", **env).stdout == "the failure queue is empty\n"
    assert shop.jobs("cron", "run", "report", **env).returncode == 1
    assert [row["id"] for row in shop.lines("failed")] == [id]


# What is not there


COMMANDS = [
    ("list",), ("failed",), ("show", "1"), ("retry", "1"), ("retry", "--all"), ("cron", "list"),
    ("cron", "run", "report"),
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_missing_tables_are_said(empty: Shop, command: tuple[str, ...]) -> None:
    """The wrong database is the likeliest reason; the message asks, and names the SQL."""
    answer = empty.jobs(*command)

    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.startswith("[CW703] there are no tables of jobs in schema 'clearway'")
    assert "clearway jobs sql" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_a_url_it_is_said(tmp_path: Path, command: tuple[str, ...]) -> None:
    """DATABASE_URL is named as the fix."""
    answer = clearway("jobs", *command, cwd=tmp_path)

    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.startswith("[CW201]")
    assert "fix: set DATABASE_URL" in answer.stderr


def test_a_server_that_cannot_be_reached_is_said(tmp_path: Path) -> None:
    """With its address and without the password."""
    url = f"postgresql://me:secret@127.0.0.1:{free_port()}/shop"
    answer = clearway("jobs", "list", cwd=tmp_path, DATABASE_URL=url)

    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.startswith("[CW213]")
    assert "127.0.0.1" in answer.stderr
    assert "secret" not in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.fixture
def stranger(shop: Shop, postgres: EmbeddedPostgres) -> Iterator[str]:
    """Return the URL of a role that may log in, and not read the tables."""
    name = "stranger_" + shop.url.rpartition("_")[2]
    command = [str(postgres.psql), postgres.url, "-qXc"]
    make = f"CREATE ROLE {name} LOGIN PASSWORD 'secret'"
    subprocess.run([*command, make], check=True, timeout=20)
    yield f"postgresql://{name}:secret@{shop.url.rpartition('@')[2]}"
    subprocess.run([*command, f"DROP ROLE {name}"], check=True, timeout=20)


def test_a_role_that_may_not_read_is_told(shop: Shop, stranger: str) -> None:
    """PostgreSQL's reason is shown, and no traceback."""
    answer = shop.jobs("list", DATABASE_URL=stranger)

    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.startswith("[CW703]")
    assert "permission denied" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_setting_that_is_none_is_said(shop: Shop) -> None:
    """As with every command, it is named."""
    answer = shop.jobs("list", CLEARWAY_JOBS__LEASE="never")

    assert answer.returncode == 1
    assert "CLEARWAY_JOBS__LEASE" in answer.stderr


# sql


@pytest.mark.parametrize("schema", ["clearway", "work"])
def test_sql_is_printed_for_the_schema(
    empty: Shop, postgres: EmbeddedPostgres, schema: str
) -> None:
    """What it prints needs no database, and makes the tables when psql runs it, twice."""
    env = {"CLEARWAY_JOBS__DATABASE_SCHEMA": schema}
    answer = empty.jobs("sql", **env, DATABASE_URL="")
    assert answer.returncode == 0
    assert answer.stdout == schema_sql(schema)

    for _ in range(2):
        command = [str(postgres.psql), empty.url, "-qX", "-v", "ON_ERROR_STOP=1"]
        ran = subprocess.run(
            command, input=answer.stdout, capture_output=True, text=True, timeout=30
        )
        assert ran.returncode == 0, ran.stderr
    assert empty.lines("list", **env) == []


@pytest.mark.parametrize("arguments", [(), ("cron",)])
def test_no_command_is_answered_with_those_that_are_there(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Whoever types too little sees what there is."""
    answer = clearway("jobs", *arguments, cwd=tmp_path)

    assert answer.returncode in {0, 2}  # click answers 0 before 8.2
    for name in ("list", "run") if arguments else ("list", "failed", "show", "retry", "sql"):
        assert f" {name} " in answer.stdout + answer.stderr
