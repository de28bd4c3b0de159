"""A session for each request, committed by the dependency after its `yield`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from db.schema import Item

app = FastAPI()
engine = create_async_engine(os.environ["DATABASE_URL"])
SessionLocal = async_sessionmaker(engine, expire_on_commit=False)


async def get_db() -> AsyncIterator[AsyncSession]:
    """Give the request a session, and commit what it did."""
    async with SessionLocal() as session:
        yield session
        await session.commit()


@app.post("/items/{name}", status_code=201)
async def create(
    name: str, session: Annotated[AsyncSession, Depends(get_db)], parent: int | None = None
) -> dict[str, int]:
    """Add a row; a parent that does not exist is noticed by COMMIT."""
    item = Item(name=name, parent_id=parent)
    session.add(item)
    await session.flush()
    return {"id": item.id}
