"""Heavy work as a job: a row beside the invoice's, in the same transaction."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, HTTPException

from apps.guide.work import gate, mark
from clearway import Clearway, DbSession, job
from db.schema import Item

app = FastAPI()
road = Clearway(app)


@job(retries=3)
async def render(name: str) -> None:
    """Draw an invoice, which takes as long as the gate is shut."""
    mark(f"begun {name}")
    while not gate().exists():
        await asyncio.sleep(0.01)
    mark(f"drawn {name}")


@app.post("/invoices/{name}", status_code=201)
async def create(name: str, session: DbSession, credit: bool = True) -> str:
    """Add an invoice, have it drawn, and then find out that there is no credit."""
    session.add(Item(name=name))
    await session.flush()
    await render.enqueue(session, name=name)
    if not credit:
        raise HTTPException(409, "no credit")
    return name
