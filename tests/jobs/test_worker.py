"""A worker as it is used: real processes, a real PostgreSQL, jobs of every kind."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from apps import works as jobs
from support.pipes import eventually
from support.worker import Works, alive

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.fixture
def anyio_backend() -> str:
    """Once: the loop of the test is not what is tested."""
    return "asyncio"


async def test_jobs_of_every_kind_run(works: Works) -> None:
    """On the loop, in a thread and in a process, each once, with what the lifespan has left."""
    async with works.service() as session:
        await jobs.write.enqueue(session, note="a")
        await jobs.in_thread.enqueue(session, note="b")
        await jobs.in_process.enqueue(session, note="c")
        await jobs.greet.enqueue(session)
        await jobs.committed.enqueue(session, note="d")
    with works.worker() as worker:
        assert await works.settled()
        app = worker.carrier().pid
        assert worker.stop() == 0

    assert sorted(await works.effects()) == ["a", "d", "hello from the lifespan"]
    assert works.seen("in_thread") == [f"in_thread b 1 {app}"]
    (process,) = works.seen("in_process")
    assert process.startswith("in_process c 1 ")
    assert process != f"in_process c 1 {app}"
    assert await works.rows("select attempts from clearway.jobs_done") == [1, 1, 1, 1, 1]
    assert len(works.seen("lifespan closed")) == 1


async def test_a_failed_attempt_leaves_nothing_and_runs_again(works: Works) -> None:
    """Two attempts roll back, the third commits its effect with its completion."""
    async with works.service() as session:
        await jobs.flaky.enqueue(session, note="a")
    with works.worker() as worker:
        assert await works.settled()
        assert [line["attempt"] for line in worker.events("flaky ran")] == [1, 2, 3]

    assert await works.effects() == ["a"]
    assert await works.rows("select attempts from clearway.jobs_done") == [3]


async def test_a_job_that_fails_for_good_is_in_the_failure_queue(works: Works) -> None:
    """With its arguments, its error and its traceback; a retry by hand begins from the start."""
    async with works.service() as session:
        await jobs.hopeless.enqueue(session, note="a")
        await jobs.kept.enqueue(session, note="kept")
        await jobs.orphan.enqueue(session)
        await jobs.leaving.enqueue(session)
        await jobs.chained.enqueue(session, note="bad")
    with works.worker() as worker:
        assert await works.settled()
        assert len(worker.events("job is in the failure queue")) == 5

    assert await works.effects() == ["kept"]
    failed = await works.failed()
    assert failed["hopeless"]["attempts"] == 2
    assert failed["hopeless"]["arguments"] == '{"note":"a"}'
    assert failed["hopeless"]["reason"] == "failed"
    assert "no \\x00 way" in failed["hopeless"]["error"]
    assert 'raise ValueError("no' in failed["hopeless"]["traceback"]
    assert "attempt.py" not in failed["hopeless"]["traceback"]
    assert "SystemExit" in failed["leaving"]["error"]
    assert "duplicate key" in failed["orphan"]["error"]


async def test_a_job_enqueues_another_in_its_own_transaction(works: Works) -> None:
    """The second job exists once the first has committed."""
    async with works.service() as session:
        await jobs.chained.enqueue(session, note="good")
    with works.worker():
        assert await works.settled()

    assert await works.effects() == ["good chained"]


async def test_a_job_runs_no_longer_than_its_timeout(works: Works) -> None:
    """One on the loop is cancelled and rolled back, a busy process is killed."""
    async with works.service() as session:
        await jobs.slow.enqueue(session, note="slow")
        await jobs.impatient.enqueue(session)
        await jobs.endless.enqueue(session)
    with works.worker() as worker:
        assert await works.settled()
        pid = int(works.seen("endless")[0].split()[-1])
        assert eventually(lambda: pid not in {one.pid for one in worker.family()})

    assert await works.effects() == []
    failed = await works.failed()
    assert "took longer than 0.3 s" in failed["slow"]["error"]
    assert "took longer than 4 s" in failed["endless"]["error"]
    assert failed["impatient"]["error"].startswith("CallTimedOut")  # its own, not the job's


async def test_a_job_that_blocks_the_loop_costs_its_neighbours_nothing(works: Works) -> None:
    """Its process is killed, only it is charged, and the others run again uncounted."""
    gate = works.folder / "gate"
    async with works.service() as session:
        for number in range(5):
            await jobs.write_beside.enqueue(session, note=f"{number}", file=str(gate))
        await jobs.blocking.enqueue(session)
    with works.worker():
        assert works.comes("write_beside", 5)
        assert works.comes("write_beside", 10)  # in the process after it
        gate.touch()
        assert await works.settled()

    assert sorted(await works.effects()) == ["0", "1", "2", "3", "4"]
    counts = "select attempts * 10 + crashes from clearway.jobs_done"
    assert await works.rows(counts) == [10] * 5
    failed = await works.failed()
    assert list(failed) == ["blocking"]
    assert "had to be killed" in failed["blocking"]["error"]


async def test_log_lines_of_a_job_have_the_request_id(works: Works) -> None:
    """Lines of the job's code and of its end lead back to who enqueued it."""
    async with works.service() as session:
        await jobs.flaky.enqueue(session, note="a")
    await works.execute("update clearway.jobs set request_id = 'from-the-request'")
    with works.worker() as worker:
        assert await works.settled()
        assert worker.says("job done")

    lines = worker.events("flaky ran") + worker.events("job done") + worker.events("job failed")
    assert {line["request_id"] for line in lines} == {"from-the-request"}
    assert {line["route"] for line in lines} == {"apps.works:flaky"}
    assert worker.events("job failed")[0]["exception"]["type"] == "ValueError"


async def test_a_worker_serves_the_queues_that_it_is_told(works: Works) -> None:
    """Jobs of other queues wait for other workers."""
    async with works.service() as session:
        await jobs.write.options(queue="mail").enqueue(session, note="mail")
        await jobs.write.options(queue="pdf").enqueue(session, note="pdf")
    with works.worker("--queues", "pdf,other") as worker:
        assert worker.says("job done")
        assert worker.stop() == 0
    assert works.seen("write mail") == []
    assert await works.rows("select queue from clearway.jobs") == ["mail"]
    with works.worker("--concurrency", "1"):
        assert await works.settled()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("import nothing_there", "No module named 'nothing_there'"),
        ("from fastapi import FastAPI\napp = FastAPI()", "the application has no Clearway"),
        ("app = 1 / 0", "ZeroDivisionError"),
        (
            "from fastapi import FastAPI\nfrom clearway import Clearway\napp = FastAPI()\n"
            "Clearway(app)",
            "no job is declared",
        ),
        (
            "from fastapi import FastAPI\nfrom clearway import Clearway, job\napp = FastAPI()\n"
            "Clearway(app)\n@job()\ndef f(x: int, *args: int) -> None: ...",
            "[CW702]",
        ),
        (
            "from fastapi import FastAPI\nfrom clearway import Clearway, job\n"
            "from contextlib import asynccontextmanager\n"
            "@asynccontextmanager\nasync def life(app):\n    raise ValueError('not today')\n"
            "    yield\n"
            "app = FastAPI(lifespan=life)\nClearway(app)",
            "ValueError: not today",
        ),
    ],
)  # fmt: skip
def test_a_worker_that_cannot_start_says_why(works: Works, content: str, said: str) -> None:
    """The error is shown once, as the app's own, and the exit code is not 0."""
    folder = works.folder / "project"
    folder.mkdir()
    (folder / "main.py").write_text(content)
    with works.worker("--app-dir", str(folder), app="main:app") as worker:
        assert worker.process.wait(60) == 1

    assert said in worker.output
    assert worker.output.count(said) == 1
    assert "clearway/cli/carry.py" not in worker.output


async def test_modules_with_jobs_are_imported(works: Works) -> None:
    """Jobs that the application does not import are known by CLEARWAY_JOBS__MODULES."""
    folder = works.folder / "project"
    folder.mkdir()
    (folder / "main.py").write_text(
        "from fastapi import FastAPI\nfrom clearway import Clearway\napp = FastAPI()\n"
        "road = Clearway(app)"
    )
    async with works.service() as session:
        await jobs.write.enqueue(session, note="a")
    modules = {"CLEARWAY_JOBS__MODULES": "apps.works, apps"}
    with works.worker("--app-dir", str(folder), app="main:app", **modules):
        assert await works.settled()

    assert await works.effects() == ["a"]


async def test_overrides_hold_in_jobs(works: Works) -> None:
    """What `dependency_overrides` replaces for requests it replaces for jobs."""
    folder = works.folder / "project"
    folder.mkdir()
    (folder / "main.py").write_text(
        """
from typing import Annotated
from fastapi import Depends, FastAPI
from clearway import Clearway, job, DbSession
from apps.works import add

def source() -> str: return "real"

app = FastAPI()
road = Clearway(app)
app.dependency_overrides[source] = lambda: "overridden"

@job(retries=0)
async def speak(session: DbSession, word: Annotated[str, Depends(source)]) -> None:
    await add(session, word)
"""
    )
    async with works.service() as session:
        await jobs.write.enqueue(session, note="a")
    await works.execute("update clearway.jobs set name = 'main:speak', arguments = '{}'")
    with works.worker("--app-dir", str(folder), app="main:app"):
        assert await works.settled()

    assert await works.effects() == ["overridden"]


async def test_jobs_take_resources_and_call_other_services(works: Works) -> None:
    """A resource that only a job takes opens at the worker's start; an HttpClient passes ids on."""
    folder = works.folder / "project"
    folder.mkdir()
    (folder / "main.py").write_text(
        """
from collections.abc import AsyncIterator
from typing import Annotated
from aiohttp import web
from fastapi import FastAPI
from clearway import Clearway, DbSession, HttpClient, JobContext, job, resource
from apps.works import add, mark

app = FastAPI()
road = Clearway(app)

async def echo(request: web.Request) -> web.Response:
    return web.Response(text=request.headers["X-Request-ID"])

@resource
async def neighbour() -> AsyncIterator[str]:
    there = web.Application()
    there.router.add_get("/", echo)
    runner = web.AppRunner(there)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    mark("neighbour open")
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    await runner.cleanup()
    mark("neighbour closed")

@job(retries=0)
async def ask(session: DbSession, http: HttpClient, url: Annotated[str, neighbour]) -> None:
    async with http.get(url) as answer:
        await add(session, await answer.text())
"""
    )
    with works.worker("--app-dir", str(folder), app="main:app") as worker:
        assert works.comes("neighbour open")  # before any job
        await works.execute(
            "insert into clearway.jobs (service, queue, body, name, arguments, run_at, request_id) "
            "values ('app', 'default', 'loop', 'main:ask', '{}', now(), 'of-a-request')"
        )
        assert await works.settled()
        assert worker.stop() == 0

    assert await works.effects() == ["of-a-request"]
    assert len(works.seen("neighbour closed")) == 1


async def test_a_commit_wakes_an_idle_worker(works: Works) -> None:
    """With an hour between looks a job starts all the same, by the wake-up after its commit."""
    with works.worker(CLEARWAY_JOBS__POLL="60") as worker:
        assert worker.says("worker open")
        async with works.service() as session:  # the first may fall into the first look
            await jobs.write.enqueue(session, note="a")
        assert works.comes("write a", within=30)
        async with works.service() as session:
            await jobs.write.enqueue(session, note="b")
        assert works.comes("write b", within=30)


async def test_a_scheduled_job_runs_once_for_each_moment(works: Works, tmp_path: Path) -> None:
    """Two workers tick, and no moment is enqueued twice."""
    folder = works.folder / "project"
    folder.mkdir()
    (folder / "main.py").write_text(
        """
from fastapi import FastAPI
from clearway import Clearway, DbSession, cron
from apps.works import add

app = FastAPI()
road = Clearway(app)

@cron("* * * * * *", retries=0)
async def each_second(session: DbSession) -> None:
    await add(session, "tick")
"""
    )
    start = ("--app-dir", str(folder))
    with works.worker(*start, app="main:app") as one, works.worker(*start, app="main:app") as two:
        assert one.says("job done", 2)
        assert two.says("worker open")
        assert eventually(lambda: len(one.events("job done") + two.events("job done")) >= 6)
        assert {one.stop(), two.stop()} == {0}

    slots = await works.rows("select slot from clearway.cron_slots")
    ran = await works.rows("select id from clearway.jobs_done")
    waiting = await works.rows("select id from clearway.jobs")
    assert len(slots) == len(ran) + len(waiting)
    assert len(await works.effects()) == len(ran) >= 6
    assert await works.failed() == {}


async def test_ctrl_c_while_the_application_starts_ends_at_once(works: Works) -> None:
    """Nothing is left behind, and the exit code is 0."""
    with works.worker() as worker:
        assert eventually(lambda: len(worker.family()) == 2)
        family = worker.family()
        worker.process.send_signal(signal.SIGINT)
        assert worker.process.wait(30) == 0
        assert eventually(lambda: not any(map(alive, family)))
