"""Light work after the response and after the COMMIT."""

from __future__ import annotations

from fastapi import FastAPI

from apps.guide.work import mark
from clearway import Background, Clearway, DbSession
from db.schema import Item

app = FastAPI()
road = Clearway(app)


async def send_email(name: str) -> None:
    """Welcome somebody."""
    if name == "unreachable":
        raise ConnectionError("the mail server is away")
    mark(f"mail to {name}")


def count(name: str) -> None:
    """Count somebody."""
    mark(f"counted {name}")


@app.post("/people/{name}", status_code=201)
async def create(
    name: str, session: DbSession, background: Background, parent: int | None = None
) -> str:
    """Add a row, and send a mail about it."""
    session.add(Item(name=name, parent_id=parent))
    background.add(send_email, name)
    background.add(count, name)
    return name
