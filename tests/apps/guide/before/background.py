"""Light work after the response, by FastAPI's own `BackgroundTasks`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import BackgroundTasks, Depends, FastAPI
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from apps.guide.work import gate, mark
from db.schema import Item

app = FastAPI()
engine = create_async_engine(os.environ["DATABASE_URL"])
SessionLocal = async_sessionmaker(engine, expire_on_commit=False)


async def get_db() -> AsyncIterator[AsyncSession]:
    """Give the request a session, and commit what it did."""
    async with SessionLocal() as session:
        yield session
        await session.commit()


async def send_email(name: str) -> None:
    """Welcome somebody."""
    if name == "unreachable":
        raise ConnectionError("the mail server is away")
    mark(f"mail to {name}")


def count(name: str) -> None:
    """Count somebody."""
    mark(f"counted {name}")


async def wait_for_gate() -> None:
    """Take a while."""
    while not gate().exists():
        await asyncio.sleep(0.01)


@app.post("/people/{name}", status_code=201)
async def create(
    name: str,
    session: Annotated[AsyncSession, Depends(get_db)],
    tasks: BackgroundTasks,
    parent: int | None = None,
) -> str:
    """Add a row, and send a mail about it."""
    session.add(Item(name=name, parent_id=parent))
    tasks.add_task(send_email, name)
    tasks.add_task(count, name)
    return name


@app.post("/slow", status_code=202)
async def slow(tasks: BackgroundTasks) -> None:
    """Leave something that takes a while."""
    tasks.add_task(wait_for_gate)
