"""What looks after a pool while nobody asks it for anything."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import greenlet_spawn

from clearway.db.pool import LanePool
from clearway.db.terms import UPKEEP
from clearway.db.validation import Validation
from clearway.errors import ClearwayError

_log = logging.getLogger("clearway.db")

_EVERY = 1.0  # seconds
_STOP_WITHIN = 1.0


class Keeper:
    """Keep a minimum of connections open, replace the old ones, name who holds one for long.

    Args:
        engine: Behind a `LanePool`.
        validation: Says which connections are old.
        min_size: Connections that are opened ahead; None to open and replace none.
    """

    def __init__(self, engine: AsyncEngine, validation: Validation, min_size: int | None) -> None:
        self._engine = engine
        self._validation = validation
        self._min_size = min_size
        self._task: asyncio.Task[None] | None = None
        self._over = asyncio.Event()

    def start(self) -> None:
        """Begin, on the running loop; without one there is nothing to begin on."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._over = asyncio.Event()
        self._task = loop.create_task(
            self._run(), name="clearway pool keeper", context=contextvars.Context()
        )

    async def stop(self) -> None:
        """End."""
        task, self._task = self._task, None
        if task is None:
            return
        self._over.set()
        # A connection that is being opened is not torn out of SQLAlchemy's hands if it can be
        # helped: before 2.1 it would be lost there.
        await asyncio.wait([task], timeout=_STOP_WITHIN)
        task.cancel()
        await asyncio.wait([task])

    async def _run(self) -> None:
        UPKEEP.set(True)  # for this task alone
        while not self._over.is_set():
            try:
                await self._look()
            except Exception:  # noqa: BLE001 - a fault of ours never ends the upkeep
                _log.exception("the pool could not be looked after")
            with suppress(TimeoutError):
                async with asyncio.timeout(_EVERY):
                    await self._over.wait()

    async def _look(self) -> None:
        pool = self._engine.sync_engine.pool  # `dispose` puts another one in its place
        if not isinstance(pool, LanePool):
            return
        pool.holds.watch()
        if self._min_size is None:
            return
        try:
            await greenlet_spawn(self._tend, pool, self._min_size)
        except (ClearwayError, SQLAlchemyError, OSError) as error:
            # Whoever needs a connection gets this error, and says it better.
            _log.debug("no connection could be opened ahead: %s", error)

    def _tend(self, pool: LanePool, min_size: int) -> None:
        pool.shrink()
        pool.renew(self._validation.is_old)
        while pool.checkedin() + pool.checkedout() < min_size:
            if not pool.warm():
                break
