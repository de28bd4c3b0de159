"""The application. One line makes it a Clearway: `road = Clearway(app)`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from sqlalchemy.dialects.postgresql import insert

from clearway import Clearway, get_logger, offload
from studio import problems
from studio.models import User
from studio.passwords import hash_password
from studio.routers import images, imports, invoices, login, rates, reports
from studio.settings import studio_settings

log = get_logger()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the app's own start-up: Clearway is open before it and closes after it."""
    if studio_settings().demo_user:
        await _add_demo_user()
    log.info("studio open")
    yield
    log.info("studio closed")


app = FastAPI(title="Studio", lifespan=lifespan)
road = Clearway(app)
problems.install(app)
for module in (images, invoices, imports, login, rates, reports):
    app.include_router(module.router)


async def _add_demo_user() -> None:
    """Add the user `demo`, password `demo`, unless it is there."""
    password_hash = await offload.thread(hash_password, "demo")
    user = insert(User).values(name="demo", password_hash=password_hash)
    async with road.db.session() as session:
        await session.execute(user.on_conflict_do_nothing())
