"""What holds when processes die or stop, or lose their database: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest
import sqlalchemy

from apps import works as jobs
from clearway.dev.postgres import EmbeddedPostgres
from support.pipes import eventually
from support.wire import wire_to
from support.worker import WorkerProcess, Works, alive

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

# attempts, then crashes, in one number
COUNTS = "select attempts * 10 + crashes from clearway.jobs_done order by id"


@pytest.fixture
def anyio_backend() -> str:
    """Once: the loop of the test is not what is tested."""
    return "asyncio"


def holder(*workers: WorkerProcess, mark: str) -> WorkerProcess:
    """Return the worker in whose family a mark was written."""
    pid = int(mark.split()[-1])
    (found,) = [one for one in workers if pid in {member.pid for member in one.family()}]
    return found


async def test_a_job_of_a_killed_worker_runs_again_within_15_seconds(works: Works) -> None:
    """After kill -9 in mid-job another worker runs it, by the default lease; its effect is one."""
    with works.worker() as one, works.worker() as two:
        assert one.says("worker open")
        assert two.says("worker open")
        async with works.service() as session:
            await jobs.write.enqueue(session, note="a", seconds=2)
        assert works.comes("write a")
        killed = holder(one, two, mark=works.seen("write a")[0])
        family = killed.family()
        at = time.monotonic()
        killed.process.kill()
        assert works.comes("write a", 2)
        assert time.monotonic() - at < 15  # the lease is 10, and a look for lapsed ones each second
        assert await works.settled()
        assert eventually(lambda: not any(map(alive, family)))

    assert await works.effects() == ["a"]
    assert await works.rows(COUNTS) == [11]


async def test_a_worker_that_is_started_after_the_kill_runs_the_job(works: Works) -> None:
    """Nobody else need be there when a worker dies."""
    async with works.service() as session:
        await jobs.write.enqueue(session, note="a", seconds=2)
        await jobs.in_process.enqueue(session, note="b")
    with works.worker(CLEARWAY_JOBS__LEASE="1") as one:
        assert works.comes("write a")
        one.process.kill()
    with works.worker(CLEARWAY_JOBS__LEASE="1"):
        assert await works.settled()

    assert await works.effects() == ["a"]


async def test_the_death_of_the_process_with_the_application_costs_no_lease(works: Works) -> None:
    """The worker sees it at once, starts another, and its jobs run again."""
    async with works.service() as session:
        await jobs.write.enqueue(session, note="a", seconds=1)
    with works.worker(CLEARWAY_JOBS__LEASE="600") as worker:
        assert works.comes("write a")
        worker.carrier().kill()
        assert await works.settled()
        assert worker.says("job crashed and runs again")

    assert await works.effects() == ["a"]
    assert await works.rows(COUNTS) == [11]


async def test_a_job_that_crashes_its_process_three_times_is_buried(works: Works) -> None:
    """Jobs beside it lose no attempt and have their effect once; the third time it is alone."""
    gate = works.folder / "gate"
    async with works.service() as session:
        for number in range(5):
            await jobs.write_beside.enqueue(session, note=f"{number}", file=str(gate))
        await jobs.poison.enqueue(session)
    with works.worker():
        assert works.comes("poison", 2)
        assert eventually(lambda: len(works.seen("write_beside")) >= 10)
        gate.touch()
        assert await works.settled()

    third = works.seen("poison")[2].split()[-1]
    assert not any(mark.endswith(f" {third}") for mark in works.seen("write_beside"))
    assert sorted(await works.effects()) == ["0", "1", "2", "3", "4"]
    attempts = await works.rows("select attempts from clearway.jobs_done")
    assert attempts == [1] * 5
    failed = await works.failed()
    assert list(failed) == ["poison"]
    assert failed["poison"]["crashes"] == 3
    assert failed["poison"]["attempts"] == 0
    assert failed["poison"]["reason"] == "crashed"
    assert "killed by SIGKILL" in failed["poison"]["error"]


async def test_a_process_job_that_crashes_condemns_nobody(works: Works) -> None:
    """Its own process dies three times; a job beside it on the loop is never interrupted."""
    gate = works.folder / "gate"
    async with works.service() as session:
        await jobs.write_beside.enqueue(session, note="a", file=str(gate))
        await jobs.shot.enqueue(session)
    with works.worker():
        assert works.comes("shot", 3)
        assert eventually(lambda: len(works.seen("write_beside")) == 1)
        gate.touch()
        assert await works.settled()

    assert await works.effects() == ["a"]
    assert await works.rows(COUNTS) == [10]
    assert (await works.failed())["shot"]["crashes"] == 3


async def test_a_late_write_of_a_stopped_worker_is_refused(works: Works) -> None:
    """SIGSTOP for longer than the lease, then SIGCONT: what it then writes is rolled back."""
    gate = works.folder / "gate"
    lease = {"CLEARWAY_JOBS__LEASE": "2"}
    # The server would end the transaction of the stopped one by itself; here the fence shall.
    patient = {"CLEARWAY_DATABASE__IDLE_IN_TRANSACTION_SESSION_TIMEOUT": "0"}
    async with works.service() as session:
        await jobs.write_beside.enqueue(session, note="a", file=str(gate))
    with works.worker(**lease, **patient) as one:
        assert works.comes("write_beside")
        one.signal(signal.SIGSTOP)
        with works.worker(**lease, **patient) as two:
            assert works.comes("write_beside", 2)
            gate.touch()
            assert await works.settled()
            assert await works.effects() == ["a"]
            one.signal(signal.SIGCONT)
            assert eventually(lambda: bool(one.events("job lost") or one.events("job given back")))
            assert one.stop() == 0
            assert two.stop() == 0

    assert await works.effects() == ["a"]
    assert await works.rows(COUNTS) == [11]


async def test_sigterm_under_load_loses_no_job(works: Works) -> None:
    """Running jobs end or go back uncounted, the rest waits, and each has its effect once."""
    async with works.service() as session:
        calls = [jobs.write.call(note=f"{n}", seconds=0.05 * (n % 5)) for n in range(300)]
        await jobs.write.enqueue_many(session, calls)
        await jobs.write.enqueue(session, note="long", seconds=3600)
        await jobs.in_process.enqueue(session, note="process")
        await jobs.in_thread.enqueue(session, note="thread")
    with works.worker(CLEARWAY_OPS__SHUTDOWN_WITHIN="5") as one:
        assert works.comes("write", 50)
        one.signal(signal.SIGTERM)  # as systemd does it: to every process of the unit
        assert one.process.wait(60) == 0
    done = len(await works.effects())
    assert done > 0
    assert await works.rows("select id from clearway.jobs where token is not null") == []
    assert set(await works.rows("select attempts + crashes from clearway.jobs")) == {0}
    await works.execute(
        'update clearway.jobs set arguments = \'{"note": "long"}\' '
        "where arguments->>'note' = 'long'"
    )
    with works.worker() as two:
        assert await works.settled()
        assert two.stop() == 0

    assert sorted(await works.effects()) == sorted([*map(str, range(300)), "long"])
    assert set(await works.rows(COUNTS)) == {10}
    assert await works.failed() == {}


async def test_a_second_signal_gives_back_at_once(works: Works) -> None:
    """Who sends SIGTERM twice does not want to wait for jobs."""
    async with works.service() as session:
        await jobs.write.enqueue(session, note="long", seconds=3600)
    with works.worker(CLEARWAY_OPS__SHUTDOWN_WITHIN="3600") as worker:
        assert works.comes("write long")
        worker.process.send_signal(signal.SIGTERM)
        worker.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)  # two signals that are sent at once may arrive as one
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(60) == 0

    assert await works.effects() == []
    assert await works.rows("select attempts + crashes from clearway.jobs") == [0]


async def test_a_job_that_nobody_knows_waits_and_is_then_buried(works: Works) -> None:
    """It is not dropped, not tried, and not lost."""
    async with works.service() as session:
        id = await jobs.write.enqueue(session, note="a")
    await works.execute("update clearway.jobs set name = 'apps.works:from_the_future'")
    with works.worker(CLEARWAY_JOBS__UNKNOWN_PATIENCE="4") as worker:
        assert worker.says("worker open")
        await works.execute("update clearway.jobs set run_at = now()")
        assert await works.rows("select id from clearway.jobs") == [id]
        assert await works.settled()

    failed = await works.failed()
    assert failed["from_the_future"]["reason"] == "unknown"
    assert failed["from_the_future"]["arguments"] == '{"note":"a","seconds":0.0}'
    waited = await works.rows(
        "select extract(epoch from failed_at - enqueued_at) from clearway.jobs_failed"
    )
    assert waited[0] >= 4


async def test_two_services_in_one_database_never_touch_each_others_jobs(works: Works) -> None:
    """Rows are scoped by the service's name, for claims and for what is swept."""
    for name in ("red", "blue"):
        async with works.service(name) as session:
            await jobs.write.enqueue(session, note=name)
    with works.worker(CLEARWAY_SERVICE__NAME="red", CLEARWAY_JOBS__LEASE="1") as worker:
        assert works.comes("write red")
        # One of blue's whose worker is long gone: red is not who may tell.
        await works.execute(
            "update clearway.jobs set token = gen_random_uuid(), lease_until = now() - interval "
            "'1 hour' where service = 'blue'"
        )
        assert worker.says("job done")
        time.sleep(3)  # several looks for lapsed leases
    assert await works.rows("select service from clearway.jobs where token is not null") == ["blue"]
    with works.worker(CLEARWAY_SERVICE__NAME="blue", CLEARWAY_JOBS__LEASE="1"):
        assert await works.settled()

    assert await works.effects() == ["red", "blue"]


@pytest.mark.timeout(180)
async def test_a_restart_of_the_database_under_load_loses_nothing(works: Works) -> None:
    """Jobs whose transaction died run again; each effect stands once, and no job is buried."""
    import subprocess

    with EmbeddedPostgres() as server:
        own = Works(server.url, works.folder)
        subprocess.run([server.psql, own.url, "-qXc", jobs.DDL], check=True, timeout=20)
        async with own.service() as session:
            calls = [jobs.steady.call(note=f"{n}", seconds=0.05) for n in range(400)]
            await jobs.steady.enqueue_many(session, calls)
        with own.worker(CLEARWAY_JOBS__LEASE="2") as worker:
            assert own.comes("steady", 40)
            server.restart()
            assert await own.settled(150)
            assert worker.says("the worker's database is back")
            assert worker.stop() == 0
        assert sorted(map(int, await own.effects())) == list(range(400))
        assert await own.failed() == {}


async def test_an_ending_that_cannot_be_written_harms_no_other(works: Works) -> None:
    """The batch is written one by one, and the one that the server refuses is named."""
    gate = works.folder / "gate"
    async with works.service() as session:
        for number in range(4):
            await jobs.wait_for.enqueue(session, f"{number}", file=str(gate))
    await works.execute(
        """
        create function refuse() returns trigger language plpgsql as
            $$ begin raise 'not this one'; end $$;
        create trigger refuse before insert on clearway.jobs_done for each row
            when (new.arguments->>'note' = '2') execute function refuse();
        """
    )
    with works.worker(CLEARWAY_JOBS__LEASE="600") as worker:
        assert works.comes("wait_for", 4)
        gate.touch()
        assert worker.says("how a job ended cannot be written")

    assert await works.rows("select arguments->>'note' from clearway.jobs") == ["2"]
    assert len(await works.rows(COUNTS)) == 3


@pytest.mark.skipif(
    sqlalchemy.__version__.startswith("2.0."),
    reason="SQLAlchemy 2.0 with asyncpg 0.30 may wait for ever for a connection that is dead",
)
async def test_a_connection_that_dies_without_a_word_is_replaced(works: Works) -> None:
    """What an old socket no longer answers is asked again on a new one, in bounded time."""
    host, port = works.url.rpartition("@")[2].partition("/")[0].split(":")
    gate = works.folder / "gate"
    async with works.service() as session:
        await jobs.wait_for.enqueue(session, "a", file=str(gate))
    async with wire_to(host, int(port)) as wire:
        works.url, direct = works.url.replace(f":{port}/", f":{wire.port}/"), works.url
        with works.worker(CLEARWAY_JOBS__LEASE="4") as worker:
            assert await asyncio.to_thread(works.comes, "wait_for a")
            wire.swallow()
            gate.touch()
            works.url = direct
            assert await works.settled()
            assert await asyncio.to_thread(worker.stop) == 0

    assert len(await works.rows(COUNTS)) == 1
    assert len(works.seen("wait_for a")) == 1


async def test_a_slow_commit_is_no_blocked_loop(works: Works) -> None:
    """It may take longer than the job's timeout; the process lives, and nobody is disturbed."""
    gate = works.folder / "gate"
    await works.execute(
        """
        create function slow() returns trigger language plpgsql as
            $$ begin perform pg_sleep(9); return null; end $$;
        create constraint trigger slow after insert on effect deferrable initially deferred
            for each row when (new.note = 'slow') execute function slow();
        """
    )
    async with works.service() as session:
        await jobs.brief.enqueue(session, note="slow")
        await jobs.wait_for.enqueue(session, "a", file=str(gate))
    with works.worker():
        while not await works.effects():
            await asyncio.sleep(0.1)
        gate.touch()
        assert await works.settled()

    assert await works.effects() == ["slow"]
    assert len(works.seen("wait_for a")) == 1
    assert await works.failed() == {}


async def test_a_rollback_that_fails_ends_the_run_all_the_same(works: Works) -> None:
    """A kept transaction that cannot commit is a failure, and no process has to be killed."""
    async with works.service() as session:
        await jobs.kept_broken.enqueue(session)
    with works.worker() as worker:
        assert await works.settled()
        assert worker.events("the process of jobs did not end a run in time, and is killed") == []

    assert "CW223" in (await works.failed())["kept_broken"]["error"]


async def test_a_thread_that_has_lost_its_lease_costs_its_neighbours_nothing(works: Works) -> None:
    """It goes on, which concerns nobody: its slot is free for the next."""
    gate = works.folder / "gate"
    async with works.service() as session:
        lost = await jobs.hold_thread.enqueue(session, "lost", file=str(gate))
    with works.worker("--concurrency", "1", CLEARWAY_JOBS__LEASE="1") as worker:
        assert works.comes("hold_thread lost")
        await works.execute(f"delete from clearway.jobs where id = {lost}")
        assert worker.says("the lease of a job was lost")
        async with works.service() as session:
            await jobs.write.enqueue(session, note="next")
        assert await works.settled()
        gate.touch()
        assert worker.stop() == 0

    assert await works.effects() == ["next"]
