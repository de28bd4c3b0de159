"""An engine with the usual settings of its pool."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from db.schema import Item

app = FastAPI()
engine = create_async_engine(
    os.environ["DATABASE_URL"],
    pool_size=int(os.environ.get("POOL_SIZE", "20")),
    max_overflow=0,
    pool_timeout=float(os.environ.get("POOL_TIMEOUT", "30")),
    pool_recycle=1800,
    pool_pre_ping=True,
)
SessionLocal = async_sessionmaker(engine, expire_on_commit=False)


async def get_db() -> AsyncIterator[AsyncSession]:
    """Give the request a session."""
    async with SessionLocal() as session:
        yield session
        await session.commit()


@app.get("/items")
async def items(session: Annotated[AsyncSession, Depends(get_db)]) -> list[str]:
    """Read by one statement."""
    return list(await session.scalars(select(Item.name)))


@app.get("/slow")
async def slow(session: Annotated[AsyncSession, Depends(get_db)]) -> str:
    """Hold a connection until the test gives the lock back."""
    await session.execute(text("select pg_advisory_xact_lock(1)"))
    return "done"
