"""A session for each request, committed before the answer begins."""

from __future__ import annotations

from fastapi import FastAPI

from clearway import Clearway, DbSession
from db.schema import Item

app = FastAPI()
road = Clearway(app)  # DATABASE_URL


@app.post("/items/{name}", status_code=201)
async def create(name: str, session: DbSession, parent: int | None = None) -> dict[str, int]:
    """Add a row; a parent that does not exist is noticed by COMMIT."""
    item = Item(name=name, parent_id=parent)
    session.add(item)
    await session.flush()
    return {"id": item.id}
