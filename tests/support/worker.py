"""Real worker processes, and a service that enqueues for them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psutil
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from clearway import Clearway, Settings
from support.pipes import eventually
from support.process import TESTS


class Works:
    """A database for jobs, and what is seen of them.

    Attributes:
        url: Of the database.
        marks: The file that `apps.works.mark` appends to.
        folder: Where logs of workers go.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.marks = folder / "marks"
        self.marks.touch()
        self._workers = 0

    def seen(self, text: str) -> list[str]:
        """Return the marks that begin with a text."""
        return [line for line in self.marks.read_text().splitlines() if line.startswith(text)]

    def comes(self, text: str, times: int = 1, within: float = 60) -> bool:
        """Wait until a mark has come so often."""
        return eventually(lambda: len(self.seen(text)) >= times, within)

    @asynccontextmanager
    async def service(self, name: str = "app") -> AsyncIterator[AsyncSession]:
        """Give a session of a service that is open for the block."""
        settings = Settings.model_validate(
            {"service": {"name": name}, "database": {"url": self.url, "pool_size": 2}}
        )
        async with Clearway(FastAPI(), settings) as road, road.db.session() as session:
            yield session

    async def rows(self, sql: str, *values: object) -> list[Any]:
        """Return the first column of what a query gives."""
        connection = await asyncpg.connect(self.url)
        try:
            return [row[0] for row in await connection.fetch(sql, *values)]
        finally:
            await connection.close()

    async def execute(self, sql: str) -> None:
        """Run statements."""
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    async def effects(self) -> list[str]:
        """Return what the jobs have done."""
        return await self.rows("select note from effect order by id")

    async def failed(self) -> dict[str, Mapping[str, Any]]:
        """Return the failure queue, by the functions' names."""
        connection = await asyncpg.connect(self.url)
        try:
            rows = await connection.fetch("select * from clearway.jobs_failed")
        finally:
            await connection.close()
        return {row["name"].partition(":")[2]: dict(row) for row in rows}

    async def settled(self, within: float = 60) -> bool:
        """Wait until no job waits or runs any more."""
        import anyio

        with anyio.move_on_after(within):
            while await self.rows("select id from clearway.jobs"):
                await anyio.sleep(0.05)
            return True
        return False

    @contextmanager
    def worker(
        self, *options: str, app: str = "apps.works:app", **env: str
    ) -> Iterator[WorkerProcess]:
        """Run `clearway worker` for the block; then kill what is left of it."""
        self._workers += 1
        log = self.folder / f"worker-{self._workers}.log"
        environ = {
            **os.environ,
            "PYTHONPATH": str(TESTS),
            "PYTHONUNBUFFERED": "1",
            "DATABASE_URL": self.url,
            "MARKS": str(self.marks),
            "CLEARWAY_LOGS__FORMAT": "json",
            **env,
        }
        command = [sys.executable, "-m", "clearway", "worker", app, *options]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env=environ, cwd=TESTS, stdout=output, stderr=subprocess.STDOUT
            )
        worker = WorkerProcess(process, log)
        try:
            yield worker
        finally:
            worker.end()


def alive(process: psutil.Process) -> bool:
    """Say whether a process still runs; one that waits to be buried does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class WorkerProcess:
    """A worker, its process with the application, and what both have written."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def output(self) -> str:
        """Everything that was written so far."""
        return self._log.read_text()

    def events(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of one event."""
        lines = [json.loads(line) for line in self.output.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def says(self, event: str, times: int = 1, within: float = 60) -> bool:
        """Wait until a log line has come so often."""
        return eventually(lambda: len(self.events(event)) >= times, within)

    def family(self) -> list[psutil.Process]:
        """Return the worker's process and all that it has started."""
        try:
            own = psutil.Process(self.process.pid)
            return [own, *own.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def carrier(self) -> psutil.Process:
        """Return the process that has the application."""
        (carrier,) = [
            one for one in psutil.Process(self.process.pid).children()
            if "clearway.cli.carry" in one.cmdline()
        ]  # fmt: skip
        return carrier

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole family, the worker first."""
        for one in self.family():
            one.send_signal(number)

    def stop(self, within: float = 60) -> int:
        """Send SIGTERM to the worker, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within)

    def end(self) -> None:
        """Kill what is left."""
        for one in self.family():
            one.kill()
        self.process.wait(10)
