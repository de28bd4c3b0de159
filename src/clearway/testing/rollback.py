"""One transaction round a whole test, which rolls back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

from clearway.app import Clearway
from clearway.core.journey import Journey, current_journey
from clearway.db.session import UnitOfWork
from clearway.errors import ConnectionShared
from clearway.testing.lifespan import opened

WAIT = 10.0
"""Seconds that a unit of work waits for its turn."""


@asynccontextmanager
async def rolled_back(road: Clearway) -> AsyncIterator[AsyncSession]:
    """Have all that the application stores rolled back at the end of the block.

    Every `DbSession`, `ReadDbSession`, `road.db.session()` and `enqueue` goes through one
    connection in one transaction. A COMMIT of the application releases a savepoint, so that the
    test sees what was committed and nothing else; nobody outside does. The application is opened
    if it is not.

    Units of work take turns, from the first statement of one to its end. Deferred constraints
    are not checked by a COMMIT here. What goes past the sessions (`road.db.engine`) is stored.

    Args:
        road: The application's Clearway. With `TestClient` the block belongs into its loop:
            `client.portal.wrap_async_context_manager(rolled_back(road))`.

    Yields:
        A session of the test's own on that connection, to prepare rows and to look. Commit it,
        or roll it back, before a request: what is open in it is open in the request too.

    Raises:
        LifespanFailed: The application could not be opened.
    """
    async with AsyncExitStack() as stack:
        if not road.ready:
            await stack.enter_async_context(opened(road))
        connection = await stack.enter_async_context(road.db.engine.connect())
        outer = await connection.begin()
        stack.push_async_callback(outer.rollback)
        gate = _Gate()
        expire = road.settings.database.expire_on_commit

        def unit(journey: Journey | None) -> UnitOfWork:
            return _SharedUnit(connection, gate, expire=expire, journey=journey)

        stack.enter_context(road.db.units_made_by(unit))
        session = AsyncSession(
            connection, join_transaction_mode="create_savepoint", expire_on_commit=False
        )
        await stack.enter_async_context(session)
        yield session


class _Gate:
    """Lets one journey at a time onto the connection; savepoints nest, they do not mingle."""

    def __init__(self) -> None:
        self._free = asyncio.Condition()
        self._owner: object = None
        self._inside: set[UnitOfWork] = set()

    def enter(self, unit: UnitOfWork) -> None:
        """Wait for the unit's turn, in SQLAlchemy's greenlet."""
        if unit not in self._inside:
            await_only(self._enter(unit))

    async def _enter(self, unit: UnitOfWork) -> None:
        owner = current_journey() or asyncio.current_task()
        try:
            async with asyncio.timeout(WAIT), self._free:
                await self._free.wait_for(lambda: not self._inside or self._owner is owner)
                self._owner = owner
                self._inside.add(unit)
        except TimeoutError as error:
            raise ConnectionShared(
                f"a unit of work waited for {WAIT:g} s for another one of the same test",
                fix="await one request before the next, or test it without rolled_back",
            ) from error

    async def leave(self, unit: UnitOfWork) -> None:
        """Let the next one in."""
        async with self._free:
            self._inside.discard(unit)
            if not self._inside:
                self._owner = None
            self._free.notify_all()


class _SharedUnit(UnitOfWork):
    """A unit of work on the test's connection."""

    def __init__(
        self, connection: AsyncConnection, gate: _Gate, *, expire: bool, journey: Journey | None
    ) -> None:
        # Sessions take a connection where they take an engine.
        engine = connection
        super().__init__(
            engine,  # type: ignore[arg-type]  # as said
            engine,  # type: ignore[arg-type]  # as said
            expire=expire,
            journey=journey,
        )
        self.session.sync_session.join_transaction_mode = "create_savepoint"
        self._gate = gate

    async def settle(self, commit: bool) -> None:
        """Release the savepoint or roll back to it, and let the next unit in."""
        try:
            await super().settle(commit)
        finally:
            await self._gate.leave(self)

    def bind_for_read(self, session: Session, reader: Engine | Connection) -> Engine | Connection:
        """Read on the one connection, in turn."""
        self._gate.enter(self)
        return super().bind_for_read(session, reader)

    def _release_read(self) -> None:
        self._gate.enter(self)
        super()._release_read()
