"""What is refused at the start, because it could not work."""

from __future__ import annotations

import pytest
from fastapi import APIRouter, Depends, FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from clearway import Clearway, DbSession, ReadDbSession, Settings
from support.asgi import StartFailed, running

pytestmark = pytest.mark.anyio


def sync_endpoint(app: FastAPI) -> None:
    """A `def` endpoint."""

    @app.get("/sync")
    def read_rows(session: DbSession) -> None: ...


def sync_dependency(app: FastAPI) -> None:
    """A `def` dependency below an `async def` endpoint in an included router."""
    router = APIRouter(prefix="/v1")

    def current_user(session: ReadDbSession) -> None: ...

    @router.get("/me")
    async def me(user: None = Depends(current_user)) -> None: ...

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
        (sync_dependency, "current_user", "/v1/me"),
        (sync_in_mounted_app, "deep", "/sub/deep"),
    ],
)
async def test_a_def_function_with_an_async_session_is_a_start_error(
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
