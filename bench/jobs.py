"""Measure jobs: commit to start, jobs per second, and the time from kill -9 to the next run.

Everything is real: a PostgreSQL of its own (temporary: without fsync, which costs every job queue
the same), workers by `clearway worker`, SIGKILL for the last question.

    python -m bench.jobs [--starts 200] [--jobs 20000] [--rounds 3] [--kills 5] [--peers]

With `--peers` procrastinate, which keeps its jobs in PostgreSQL as well, runs the same number of
jobs that do nothing, in turn (`pip install procrastinate` first).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
from fastapi import FastAPI

from bench import jobs_app
from bench.rounds import Spread, machine
from clearway import Clearway, Settings
from clearway.dev.postgres import EmbeddedPostgres

_ROOT = Path(__file__).parent.parent
_BATCH = 5_000
_SPAN = "select extract(epoch from max(finished_at) - min(started_at)) from clearway.jobs_done"


class Ground:
    """A database, a file for notes, and workers."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.notes = folder / "notes"
        self.notes.touch()

    def road(self) -> Clearway:
        """Return a service that enqueues."""
        return Clearway(FastAPI(), Settings.model_validate({"database": {"url": self.url}}))

    async def fetch(self, sql: str) -> float:
        """Return one value."""
        connection = await asyncpg.connect(self.url)
        try:
            return float(await connection.fetchval(sql) or 0)
        finally:
            await connection.close()

    async def noted(self, word: str, times: int) -> list[int]:
        """Return when a note was written, once there are so many, in nanoseconds."""
        while True:
            lines = [line.split() for line in self.notes.read_text().splitlines()]
            found = [int(line[-1]) for line in lines if line[0] == word and len(line) == 3]
            if len(found) >= times:
                return found
            await asyncio.sleep(0.002)

    @contextmanager
    def worker(self, concurrency: int = 20) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker for the block, then stop it."""
        command = [sys.executable, "-m", "clearway", "worker", "bench.jobs_app:app"]
        env = os.environ | {
            "DATABASE_URL": self.url,
            "BENCH_NOTES": str(self.notes),
            "CLEARWAY_JOBS__CONCURRENCY": str(concurrency),
        }
        process = subprocess.Popen(command, cwd=_ROOT, env=env)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


async def starts(ground: Ground, count: int) -> list[float]:
    """Return the milliseconds from the return of COMMIT to the start, one job at a time."""
    times = []
    async with ground.road() as road:
        for number in range(count + 20):
            async with road.db.session() as session:
                await jobs_app.stamp.enqueue(session, number=number)
            committed = time.time_ns()
            started = (await ground.noted("start", number + 1))[-1]
            times.append((started - committed) / 1e6)
            await asyncio.sleep(0.06)  # idle again: wake-ups come at most every 50 ms
    return times[20:]


async def throughput(ground: Ground, count: int, *, rows: bool) -> float:
    """Return jobs per second from the first start to the last end, of a backlog."""
    async with ground.road() as road, road.db.session() as session:
        for start in range(0, count, _BATCH):
            numbers = range(start, min(start + _BATCH, count))
            if rows:
                calls = [jobs_app.one_row.call(number=n) for n in numbers]
                await jobs_app.one_row.enqueue_many(session, calls)
            else:
                await jobs_app.nothing.enqueue_many(
                    session, [jobs_app.nothing.call()] * len(numbers)
                )
    with ground.worker(concurrency=20 if rows else 500):
        while await ground.fetch("select count(*) from clearway.jobs"):
            await asyncio.sleep(0.2)
    speed = count / await ground.fetch(_SPAN)
    await ground.fetch("delete from clearway.jobs_done")
    return speed


async def recoveries(ground: Ground, kills: int) -> list[float]:
    """Return the seconds from kill -9 of a worker in mid-job to the next run, lease 10 s."""
    times = []
    for number in range(kills):
        async with ground.road() as road, road.db.session() as session:
            await jobs_app.long.enqueue(session, number=number)
        before = len([x for x in ground.notes.read_text().splitlines() if x.startswith("long")])
        with ground.worker() as first:
            await ground.noted("long", before + 1)
            await asyncio.sleep(number * 3 / kills)  # anywhere between two renewals
            first.kill()
            killed = time.time_ns()
            with ground.worker():
                again = (await ground.noted("long", before + 2))[-1]
                times.append((again - killed) / 1e9)
                await ground.fetch("delete from clearway.jobs")
    return times


def procrastinate(url: str, count: int) -> float:
    """Return procrastinate's jobs per second on the same server: one worker, nothing to do."""
    script = f"""
import asyncio, time, procrastinate
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo={url!r}))
@app.task
async def nothing(): pass
async def main():
    async with app.open_async():
        try: await app.schema_manager.apply_schema_async()
        except procrastinate.exceptions.ConnectorException: pass
        await nothing.batch_defer_async(*[{{}} for _ in range({count})])
        began = time.perf_counter()
        await app.run_worker_async(wait=False, concurrency=20, install_signal_handlers=False)
        print({count} / (time.perf_counter() - began))
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--starts", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--peers", action="store_true")
    options = parser.parse_args()
    print(machine())
    with EmbeddedPostgres() as server, tempfile.TemporaryDirectory() as folder:
        subprocess.run([server.psql, server.url, "-qXc", "create table effect (n int)"], check=True)
        ground = Ground(server.url, Path(folder))
        with ground.worker():
            times = sorted(asyncio.run(starts(ground, options.starts)))
        p50, p99 = statistics.median(times), times[int(0.99 * (len(times) - 1))]
        print(f"commit -> start, idle: p50 {p50:.1f} ms, p99 {p99:.1f} ms ({len(times)} jobs)")
        ours: list[float] = []
        with_rows: list[float] = []
        theirs: list[float] = []
        for _ in range(options.rounds):
            ours.append(asyncio.run(throughput(ground, options.jobs, rows=False)))
            with_rows.append(asyncio.run(throughput(ground, options.jobs // 5, rows=True)))
            if options.peers:
                theirs.append(procrastinate(server.url, options.jobs // 20))
        for name, figures in (
            ("jobs that do nothing", ours),
            ("jobs with a session and a row", with_rows),
            ("procrastinate, jobs that do nothing", theirs),
        ):
            if figures:
                spread = Spread.of(figures)
                print(f"{name}: {spread.median:,.0f}/s ({spread.low:,.0f} to {spread.high:,.0f})")
        seconds = sorted(asyncio.run(recoveries(ground, options.kills)))
        print(
            f"kill -9 in mid-job -> next run, by a worker started then: "
            f"{seconds[0]:.1f} to {seconds[-1]:.1f} s ({len(seconds)} kills, lease 10 s)"
        )


if __name__ == "__main__":
    main()
