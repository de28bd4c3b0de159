"""A service with jobs of every kind; what they do is seen in `effect` and in the folder `MARKS`."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from sqlalchemy import text

from clearway import (
    Clearway,
    DbSession,
    JobContext,
    Settings,
    current_journey,
    get_logger,
    job,
    offload,
)
from clearway.jobs.declare import registry

DDL = "create table effect (id serial primary key, note text not null)"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Leave something for the jobs."""
    app.state.greeting = "hello from the lifespan"
    mark("lifespan open")
    yield
    mark("lifespan closed")


app = FastAPI(lifespan=lifespan)
road = Clearway(app, Settings())
log = get_logger()


def mark(text: str) -> None:
    """Append a line, by one write, to a file that the test reads."""
    fd = os.open(Path(os.environ["MARKS"]), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{text} {os.getpid()}\n".encode())
    os.close(fd)


async def add(session: DbSession, note: str) -> None:
    """Add an effect."""
    await session.execute(text("insert into effect (note) values (:note)"), {"note": note})


@job(retries=0)
async def write(session: DbSession, note: str, seconds: float = 0.0) -> None:
    """Have an effect, then take a while."""
    await add(session, note)
    mark(f"write {note}")
    await asyncio.sleep(seconds)


@job(retries=20, backoff=0.1)
async def steady(session: DbSession, note: str, seconds: float) -> None:
    """Have an effect, and try again where the database goes away."""
    mark(f"steady {note}")
    await add(session, note)
    await asyncio.sleep(seconds)


@job(retries=0)
async def write_beside(session: DbSession, note: str, file: str) -> None:
    """Have an effect once a file is there."""
    mark(f"write_beside {note}")
    while not Path(file).exists():
        await asyncio.sleep(0.02)
    await add(session, note)


@job(retries=2, backoff=0.01)
async def flaky(session: DbSession, context: JobContext, note: str) -> None:
    """Fail twice after an effect."""
    await add(session, note)
    log.info("flaky ran", attempt=context.attempt)
    if context.attempt <= 2:
        raise ValueError(f"attempt {context.attempt}")


@job(retries=1, backoff=0.01)
async def hopeless(session: DbSession, note: str) -> None:
    """Fail always, with what PostgreSQL cannot store."""
    await add(session, note)
    raise ValueError("no \x00 way \udc80")


@job(retries=0)
async def kept(session: DbSession, note: str) -> None:
    """Fail, and keep the effect."""
    await add(session, note)
    journey = current_journey()
    assert journey is not None
    journey.keep()
    raise ValueError("kept")


@job(retries=0)
async def committed(session: DbSession, note: str) -> None:
    """Commit and close the session as a script would."""
    await add(session, note)
    await session.commit()
    await session.close()


@job(retries=0)
async def kept_broken(session: DbSession) -> None:
    """Keep a transaction in which a statement has failed."""
    journey = current_journey()
    assert journey is not None
    journey.keep()
    await session.execute(text("select 1 / 0"))


@job(retries=0, timeout=1)
async def brief(session: DbSession, note: str) -> None:
    """Have an effect at once."""
    mark("brief")
    await add(session, note)


@job(retries=0)
async def wait_for(note: str, file: str) -> None:
    """Touch no database; end once a file is there."""
    mark(f"wait_for {note}")
    while not Path(file).exists():
        await asyncio.sleep(0.02)


@job(retries=0, timeout=60)
def hold_thread(note: str, file: str) -> None:
    """Hold a thread until a file is there."""
    mark(f"hold_thread {note}")
    while not Path(file).exists():
        time.sleep(0.02)


@job(retries=0)
async def orphan(session: DbSession) -> None:
    """Fail at COMMIT."""
    await session.execute(
        text("create temporary table late (id int primary key deferrable initially deferred)")
    )
    await session.execute(text("insert into late values (1), (1)"))


@job(retries=0)
async def chained(session: DbSession, note: str) -> None:
    """Enqueue another in its own transaction."""
    await write.enqueue(session, note=f"{note} chained")
    if note == "bad":
        raise ValueError("the other one must not run")


@job(retries=0)
async def greet(session: DbSession) -> None:
    """Use what the lifespan has left."""
    await add(session, app.state.greeting)


@job(retries=0, timeout=30)
def in_thread(context: JobContext, note: str) -> None:
    """Run off the loop."""
    mark(f"in_thread {note} {context.attempt}")


@job(retries=0, run_in="process", timeout=30)
def in_process(context: JobContext, note: str) -> str:
    """Run in another process."""
    mark(f"in_process {note} {context.attempt}")
    return note


@job(retries=0, run_in="process", timeout=4)
def endless() -> None:
    """Never give up the GIL for long, and never end."""
    mark("endless")
    while True:
        pass


@job(retries=0, run_in="process", timeout=30)
def shot() -> None:
    """Kill the process it runs in."""
    mark("shot")
    os.kill(os.getpid(), signal.SIGKILL)


@job(retries=0)
async def poison() -> None:
    """Kill the process that has the application."""
    mark("poison")
    await asyncio.sleep(0.3)  # its neighbours are under way by then
    os.kill(os.getpid(), signal.SIGKILL)


@job(retries=0, timeout=0.5)
async def blocking() -> None:
    """Block the loop of the worker for ever."""
    mark("blocking")
    await asyncio.sleep(0.3)
    while True:
        time.sleep(0.1)


@job(retries=0, timeout=0.3)
async def slow(session: DbSession, note: str) -> None:
    """Take longer than it may."""
    await add(session, note)
    await asyncio.sleep(60)


@job(retries=0)
async def impatient() -> None:
    """Give up a call of its own."""
    await offload.thread(time.sleep, 3.0, timeout=0.2)


@job(retries=0)
async def leaving() -> None:
    """End the process, or try to."""
    raise SystemExit(3)


JOBS = {name: one for name, one in registry.items() if one.fn.__module__ == __name__}
"""What is declared here; a test puts it into the registry, which others must find empty."""
