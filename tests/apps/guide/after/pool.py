"""The same engine handed over; the ping is gone, the checks that replace it come with the line."""

from __future__ import annotations

import os
from typing import Annotated

from fastapi import Depends, FastAPI
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from clearway import Clearway
from db.schema import Item

app = FastAPI()
engine = create_async_engine(
    os.environ["DATABASE_URL"],
    pool_size=int(os.environ.get("POOL_SIZE", "20")),
    max_overflow=0,
    pool_recycle=1800,
)
road = Clearway(app, engine=engine)


async def get_db() -> AsyncSession:
    """Give the request its session."""
    return await road.db.dependency()


@app.get("/items")
async def items(session: Annotated[AsyncSession, Depends(get_db)]) -> list[str]:
    """Read by one statement."""
    return list(await session.scalars(select(Item.name)))


@app.get("/slow")
async def slow(session: Annotated[AsyncSession, Depends(get_db)]) -> str:
    """Hold a connection until the test gives the lock back."""
    await session.execute(text("select pg_advisory_xact_lock(1)"))
    return "done"


@app.get("/waiting")
async def waiting() -> int:
    """Say how many wait for a connection."""
    return road.lanes["db"].snapshot().waiting
