"""Heavy work through a task queue with `delay`, as the guide has Celery or Arq for it.

Neither is a dependency of ours, so this is the queue that people have before they have one of
those: in memory, with a consumer in the lifespan. What the tests show of it is no matter of the
broker: `delay` sends at once, and knows nothing of the transaction around it; and a task that a
dead process had begun is nobody's (with a broker: unless it is acknowledged late and has timed
out).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from apps.guide.work import gate, mark
from db.schema import Item

engine = create_async_engine(os.environ["DATABASE_URL"])
SessionLocal = async_sessionmaker(engine, expire_on_commit=False)
queue: asyncio.Queue[str] = asyncio.Queue()


async def render(name: str) -> None:
    """Draw an invoice, which takes as long as the gate is shut."""
    mark(f"begun {name}")
    while not gate().exists():
        await asyncio.sleep(0.01)
    mark(f"drawn {name}")


def delay(name: str) -> None:
    """Send it to the worker."""
    queue.put_nowait(name)


async def work() -> None:
    """Be the worker."""
    while True:
        await render(await queue.get())


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the worker beside the service."""
    worker = asyncio.create_task(work())
    yield
    worker.cancel()


async def get_db() -> AsyncIterator[AsyncSession]:
    """Give the request a session, and commit what it did."""
    async with SessionLocal() as session:
        yield session
        await session.commit()


app = FastAPI(lifespan=lifespan)


@app.post("/invoices/{name}", status_code=201)
async def create(
    name: str, session: Annotated[AsyncSession, Depends(get_db)], credit: bool = True
) -> str:
    """Add an invoice, have it drawn, and then find out that there is no credit."""
    session.add(Item(name=name))
    await session.flush()
    delay(name)
    if not credit:
        raise HTTPException(409, "no credit")
    return name
