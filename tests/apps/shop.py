"""An app that uses every name: sessions, offload, the logger."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress

from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from clearway import Clearway, DbSession, current_journey, get_logger, offload
from db.schema import Item

app = FastAPI()
road = Clearway(app)
log = get_logger()


@app.post("/items/{name}", status_code=201)
async def create(name: str, session: DbSession) -> dict[str, int]:
    """Add a row."""
    item = Item(name=name)
    session.add(item)
    await session.flush()
    log.info("item created", item=name)
    return {"id": item.id}


@app.post("/orphan", status_code=201)
async def orphan(session: DbSession) -> None:
    """Add a row that fails at COMMIT."""
    await session.execute(insert(Item).values(name="orphan", parent_id=4711))


@app.post("/swallowed", status_code=201)
async def swallowed(session: DbSession) -> None:
    """Swallow the error of a statement."""
    await session.execute(insert(Item).values(name="swallowed"))
    with suppress(IntegrityError):
        await session.execute(insert(Item).values(name="swallowed"))


@app.post("/conflict")
async def conflict(session: DbSession) -> JSONResponse:
    """Return a 409 after a write."""
    await session.execute(insert(Item).values(name="conflict"))
    return JSONResponse({}, status_code=409)


@app.get("/pid")
async def pid() -> int:
    """Return the id of a worker process."""
    return await offload.process(os.getpid)


@app.get("/burn")
async def burn(seconds: float) -> str:
    """Burn CPU in a worker process."""
    await offload.process(spin, seconds)
    return "burnt"


def spin(seconds: float) -> None:
    """Hold the GIL of this process."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@app.get("/suicide")
async def suicide() -> None:
    """Have a worker process kill itself in mid-call."""
    await offload.process(die)


def die() -> None:
    """End this process as the kernel's OOM killer would."""
    os.kill(os.getpid(), signal.SIGKILL)


@app.get("/talk")
async def talk(lines: int = 1, size: int = 200) -> int:
    """Log a lot."""
    for number in range(lines):
        log.info("talk", number=number, filler="x" * size)
    return lines


@app.get("/slow/{number}")
async def slow(number: int) -> int:
    """Log, take a moment, log again."""
    journey = current_journey()
    assert journey is not None
    journey.note(number=number)
    log.info("begun", number=number)
    await asyncio.sleep(0.02)
    if number % 10 == 9:
        raise HTTPException(404)
    return number


@app.get("/counts")
async def counts() -> dict[str, object]:
    """Return the writer's account."""
    assert road._logs is not None
    snapshot = road._logs.writer.snapshot()
    return {
        "emitted": snapshot.emitted,
        "written": snapshot.written,
        "dropped": sum(snapshot.dropped.values()),
        "pending": snapshot.pending,
    }
