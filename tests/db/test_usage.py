"""What is refused at the start, because it could not work."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from clearway import Clearway, DbSession, ReadDbSession, Settings
from db.schema import Item
from support.asgi import StartFailed, running, serving

pytestmark = pytest.mark.anyio


def sync_endpoint(app: FastAPI) -> None:
    """A `def` endpoint."""

    @app.get("/sync")
    def read_rows(session: DbSession) -> None: ...


def sync_in_router(app: FastAPI) -> None:
    """A `def` endpoint of an included router, with a read session."""
    router = APIRouter(prefix="/v1")

    @router.get("/me")
    def me(session: ReadDbSession) -> None: ...

    app.include_router(router)


def sync_in_mounted_app(app: FastAPI) -> None:
    """A `def` endpoint of a mounted application."""
    inner = FastAPI()

    @inner.get("/deep")
    def deep(session: DbSession) -> None: ...

    app.mount("/sub", inner)


@pytest.mark.parametrize(
    ("build", "function", "route"),
    [
        (sync_endpoint, "read_rows", "/sync"),
        (sync_in_router, "me", "/v1/me"),
        (sync_in_mounted_app, "deep", "/sub/deep"),
    ],
)
async def test_a_def_endpoint_with_an_async_session_is_a_start_error(
    build: object, function: str, route: str, settings: Settings
) -> None:
    """The function and its route are named, with the way out."""
    assert callable(build)
    app = FastAPI()
    build(app)
    Clearway(app, settings)

    with pytest.raises(StartFailed) as refusal:
        async with running(app):
            raise AssertionError("the app came up")

    message = str(refusal.value)
    assert "[CW203]" in message
    assert f"{function} ({route}) is a `def`" in message
    assert "make it `async def`" in message


async def test_a_def_dependency_may_hand_the_session_on(table: str, settings: Settings) -> None:
    """The usual recipe of a repository is a `def` that runs no statement itself."""
    app = FastAPI()
    Clearway(app, settings)

    class Repository:
        def __init__(self, session: AsyncSession) -> None:
            self.session = session

    def repository(session: DbSession) -> Repository:
        return Repository(session)

    @app.get("/")
    async def count(repo: Any = Depends(repository)) -> int:
        return len((await repo.session.execute(select(Item))).all())

    async with serving(app) as client:
        assert (await client.get("/")).json() == 0


@pytest.mark.parametrize("build", ["plain", "road"])
async def test_a_session_without_a_database_is_a_start_error(build: str) -> None:
    """The route that needs the database is named at the start, not at the first request."""
    app = FastAPI()
    road = Clearway(app, Settings())
    dependency = road.db.dependency

    if build == "plain":

        @app.get("/rows")
        async def rows(session: DbSession) -> None: ...
    else:

        @app.get("/rows")
        async def rows(session: AsyncSession = Depends(dependency)) -> None: ...

    with pytest.raises(StartFailed, match=r"\[CW201\] .*rows \(/rows\) takes a session"):
        async with running(app):
            raise AssertionError("the app came up")


async def test_an_app_that_asks_for_no_session_needs_no_database() -> None:
    """Without a URL and without a session the app starts."""
    app = FastAPI()
    Clearway(app, Settings())

    async with running(app):
        pass
