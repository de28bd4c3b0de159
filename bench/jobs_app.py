"""The jobs that `bench.jobs` has a worker run."""

from __future__ import annotations

import asyncio
import os
import time

from fastapi import FastAPI
from sqlalchemy import text

from clearway import Clearway, DbSession, job

app = FastAPI()
road = Clearway(app)


def note(line: str) -> None:
    """Append a line with the time to the file that the benchmark reads."""
    fd = os.open(os.environ["BENCH_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{line} {time.time_ns()}\n".encode())
    os.close(fd)


@job()
async def nothing() -> None:
    """Do nothing."""


@job()
async def one_row(session: DbSession, number: int) -> None:
    """Have one effect, which commits with the completion."""
    await session.execute(text("insert into effect values (:number)"), {"number": number})


@job()
async def stamp(number: int) -> None:
    """Say when it started."""
    note(f"start {number}")


@job()
async def long(number: int) -> None:
    """Say when it started, and stay."""
    note(f"long {number}")
    await asyncio.sleep(600)
