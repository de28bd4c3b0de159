"""Where the CPU of one request over the database goes: the same work with one piece more each."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial

import asyncpg
import uvloop
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from bench.database_sides import OURS, PLAIN, Item, clearway, engine_for, recipe, running
from bench.overhead import app_of, drive
from bench.rounds import Spread, in_turn

Step = Callable[[], Awaitable[object]]
_SQL = "SELECT id, name FROM item WHERE id = $1"


async def cost(step: Step, times: int) -> float:
    """Return the CPU time of one step, in microseconds."""
    begun = time.process_time()
    for _ in range(times):
        await step()
    return 1e6 * (time.process_time() - begun) / times


async def _core(connection: AsyncConnection | AsyncSession) -> None:
    statement = select(Item.id, Item.name).where(Item.id == 7)
    (await connection.execute(statement)).one()


async def _connected(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await _core(connection)


async def _session(engine: AsyncEngine, statement: bool, commit: bool, block: bool) -> None:
    session = AsyncSession(engine, expire_on_commit=False)
    if statement:
        await _core(session)
    if commit:
        await session.commit()
    if block:
        async with session:
            pass
    else:
        await session.close()


async def _object(engine: AsyncEngine) -> None:
    session = AsyncSession(engine, expire_on_commit=False)
    (await session.execute(select(Item).where(Item.id == 7))).scalar_one()
    await session.close()


async def pieces(url: str, rounds: int, times: int = 200) -> dict[str, list[float]]:
    """Return microseconds of CPU of each step, round by round."""
    async with AsyncExitStack() as stack:
        raw = await asyncpg.connect(url)
        stack.push_async_callback(raw.close)
        engine = engine_for(url, name="pieces")
        stack.push_async_callback(engine.dispose)
        reader = engine.execution_options(isolation_level="AUTOCOMMIT")
        held = await stack.enter_async_context(reader.connect())
        app, plain, bare = clearway(url), recipe(url, name=PLAIN), app_of(None)
        await stack.enter_async_context(running(app, bare, plain))

        async def transaction() -> None:
            async with raw.transaction():
                await raw.fetchrow(_SQL, 7)

        steps: dict[str, Step] = {
            "asyncpg: a SELECT": partial(raw.fetchrow, _SQL, 7),
            "asyncpg: BEGIN, SELECT, COMMIT": transaction,
            "Core: a SELECT on a held connection": partial(_core, held),
            "Core: connect, SELECT, close": partial(_connected, reader),
            "session: open, close": partial(_session, reader, False, False, False),
            "session: open, end of `async with`": partial(_session, reader, False, False, True),
            "session: SELECT, close": partial(_session, reader, True, False, False),
            "session: SELECT, end of `async with`": partial(_session, reader, True, False, True),
            "session: ORM SELECT, close": partial(_object, reader),
            "session: BEGIN, SELECT, COMMIT, close": partial(_session, engine, True, True, False),
        }
        calls = {name: partial(cost, step, times) for name, step in steps.items()}
        calls["request: FastAPI, no database"] = partial(drive, bare, times)
        for side, service in ((PLAIN, plain), (OURS, app)):
            for kind in ("read", "write"):
                calls[f"request: {side}, {kind}"] = partial(drive, service, times, f"/core/{kind}")
        await in_turn(calls, 1)
        return await in_turn(calls, rounds)


def show_pieces(url: str, rounds: int) -> None:
    """Print the cost of each step."""
    found = uvloop.run(pieces(url, rounds))
    print(f"{'CPU of one':44}{'us (median)':>12}   (lowest - highest)")
    for name, values in found.items():
        spread = Spread.of(values)
        print(f"{name:44}{spread.median:12.0f}   ({spread.low:.0f} - {spread.high:.0f})")
