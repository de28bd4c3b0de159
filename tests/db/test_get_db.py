"""The `get_db` that people have around our session, and what tests put in its place."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import pytest
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import StreamingResponse

from clearway import Clearway, DbSession, ReadDbSession, Settings
from clearway.db.database import read_dependency, session_dependency
from db.schema import Item, names
from support.asgi import StartFailed, serving

pytestmark = pytest.mark.anyio

Give = Callable[[], Awaitable[AsyncSession]]


def bare(give: Give) -> Callable[[], Awaitable[AsyncSession]]:
    """Return our dependency itself."""
    return give


def returned(give: Give) -> Callable[[], Awaitable[AsyncSession]]:
    """Return the one with `return`."""

    async def get_db() -> AsyncSession:
        return await give()

    return get_db


def yielded(give: Give) -> Callable[[], AsyncIterator[AsyncSession]]:
    """Return the one with a bare `yield`."""

    async def get_db() -> AsyncIterator[AsyncSession]:
        yield await give()

    return get_db


def committing(give: Give) -> Callable[[], AsyncIterator[AsyncSession]]:
    """Return the usual one, which commits, rolls back and closes after the `yield`."""

    async def get_db() -> AsyncIterator[AsyncSession]:
        session = await give()
        try:
            yield session
            await session.commit()
        except Exception:
            await session.rollback()
            raise
        finally:
            await session.close()

    return get_db


def with_block(give: Give) -> Callable[[], AsyncIterator[AsyncSession]]:
    """Return SQLAlchemy's and FastAPI's, which has the session in an `async with`."""

    async def get_db() -> AsyncIterator[AsyncSession]:
        async with await give() as session:
            yield session

    return get_db


RECIPES = [bare, returned, yielded, committing, with_block]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: str(recipe.__name__))
async def test_the_old_body_breaks_no_answer(
    table: str, settings: Settings, recipe: Callable[[Give], Callable[[], object]]
) -> None:
    """COMMIT before the first byte, ROLLBACK for a 4xx, one session with `DbSession`."""
    if recipe is with_block and "scope" not in inspect.signature(Depends).parameters:
        pytest.skip("before 0.118 FastAPI leaves the block, and so closes the session, too early")
    app = FastAPI()
    road = Clearway(app, settings)
    get_db = recipe(road.db.dependency)

    @app.post("/{name}", status_code=201)
    async def create(
        name: str, same: DbSession, session: AsyncSession = Depends(get_db)
    ) -> StreamingResponse:
        assert session is same
        session.add(Item(name=name))
        await session.flush()
        if name == "bad":
            raise HTTPException(409)

        async def body() -> AsyncIterator[str]:
            yield ",".join(await names(table))

        return StreamingResponse(body(), status_code=201)

    async with serving(app) as client:
        good = await client.post("/good")
        assert (good.status_code, good.text) == (201, "good")
        assert (await client.post("/bad")).status_code == 409
        assert (await client.post("/next")).text == "good,next"
        assert road.lanes["db"].snapshot().in_use == 0


async def test_tests_put_their_own_session_in_place(table: str, settings: Settings) -> None:
    """`dependency_overrides` for DbSession, ReadDbSession and `get_db` are what handlers get."""
    app = FastAPI()
    road = Clearway(app, settings)
    get_db = yielded(road.db.dependency)

    @app.get("/")
    async def read(
        session: DbSession, reads: ReadDbSession, theirs: AsyncSession = Depends(get_db)
    ) -> list[bool]:
        return [one is double for one in (session, reads, theirs)]

    double = AsyncSession()
    for dependency in (session_dependency, read_dependency, get_db):
        app.dependency_overrides[dependency] = lambda: double

    async with aclosing(double), serving(app) as client:
        assert (await client.get("/")).json() == [True, True, True]
        assert road.lanes["db"].snapshot().admitted == 0


async def test_what_is_overridden_needs_no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start is not refused for a session that no handler will ever get."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    app = FastAPI()
    Clearway(app, Settings())

    def store(session: DbSession) -> AsyncSession:
        return session

    @app.get("/own")
    def own(session: DbSession) -> bool:
        return session is double

    @app.get("/through")
    async def through(session: AsyncSession = Depends(store)) -> bool:
        return session is double

    double = AsyncSession()
    app.dependency_overrides[session_dependency] = lambda: double
    async with aclosing(double), serving(app) as client:
        assert (await client.get("/own")).json() is True
        assert (await client.get("/through")).json() is True

    app.dependency_overrides.clear()
    with pytest.raises(StartFailed, match="CW20"):
        async with serving(app):
            pass
