"""What a person asks of the store, and does with the failure queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from clearway.db import Database
from clearway.db.faults import sqlstate
from clearway.errors import DatabaseUrlMissing, NoSuchJob, StoreUnfit
from clearway.jobs.store import ABSENT, FORBIDDEN, Store
from clearway.settings import Settings

Row = Mapping[str, Any]


class Desk:
    """The jobs of one service, asked for one question at a time.

    Args:
        settings: Where the database is, and whose jobs.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.service = settings.service.name
        self._store = Store(settings.jobs.database_schema, self.service)

    async def waiting(self, most: int) -> list[Row]:
        """Return the jobs that run or wait, those that run first."""
        return await self._ask("list", most=most)

    async def failed(self, most: int) -> list[Row]:
        """Return the failure queue, the newest first."""
        return await self._ask("failed", most=most)

    async def show(self, id: int) -> Row:
        """Return all that is known of a job.

        Raises:
            NoSuchJob: This service has none of this id, or has it no more.
        """
        rows = await self._ask("show", id=id)
        if not rows:
            raise NoSuchJob(
                f"service {self.service!r} has no job {id}",
                fix="clearway jobs list, or clearway jobs failed; what is done is kept for "
                "jobs.keep_done",
            )
        return rows[0]

    async def retry(self, ids: Sequence[int] | None) -> list[Row]:
        """Let failed jobs run again from their first attempt; return them.

        Args:
            ids: Which; None for the whole failure queue.

        Raises:
            NoSuchJob: One of them is not in the failure queue; none of the others runs.
        """
        wanted = None if ids is None else list(ids)
        if wanted is not None:
            known = {row["id"] for id in wanted for row in await self._ask("show", id=id)
                     if row["state"] in _FAILED}  # fmt: skip
            if missing := sorted(set(wanted) - known):
                raise NoSuchJob(
                    f"not in the failure queue of service {self.service!r}: "
                    f"{', '.join(map(str, missing))}",
                    fix="clearway jobs failed",
                )
        return await self._ask("requeue", wake=True, ids=wanted)

    async def schedules(self) -> list[Row]:
        """Return the schedules that workers have declared."""
        return await self._ask("schedules")

    async def run_now(self, name: str) -> int:
        """Enqueue a scheduled job beside its schedule, and return its id.

        Args:
            name: `module:function`, or the function's name alone if there is one of it.

        Raises:
            NoSuchJob: There is no such schedule, or more than one.
        """
        known = [row["name"] for row in await self.schedules()]
        found = [one for one in known if name in {one, one.partition(":")[2]}]
        if len(found) != 1:
            listed = ", ".join(found or known) or "none: has a worker been started?"
            raise NoSuchJob(
                f"service {self.service!r} has {len(found) or 'no'} schedule named {name!r}",
                fix=f"name one of: {listed}",
            )
        (row,) = await self._ask("run_now", wake=True, name=found[0])
        id: int = row["id"]
        return id

    async def _ask(self, which: str, *, wake: bool = False, **values: Any) -> list[Row]:
        alone = {"budget": "off", "min_size": 0, "read_url": None}
        database = Database(self._settings.database.model_copy(update=alone), self.service)
        if not database.configured:
            raise DatabaseUrlMissing("the jobs are in the database", fix="set DATABASE_URL")
        await database.open()
        try:
            engine = database.engine.execution_options(isolation_level="AUTOCOMMIT")
            async with engine.connect() as connection:
                rows = await self._rows(connection, which, values)
                if wake:
                    await self._store.notify(connection)
                return rows
        finally:
            await database.close()

    async def _rows(self, on: AsyncConnection, which: str, values: Mapping[str, Any]) -> list[Row]:
        try:
            return await self._store.rows(on, which, **values)
        except DBAPIError as error:
            state = sqlstate(error)
            if state in FORBIDDEN:
                raise self._store.forbidden(error) from None
            if state not in ABSENT:
                raise
            raise StoreUnfit(
                f"there are no tables of jobs in schema {self._store.schema!r}",
                fix="is this the right database? They are made when a service with jobs starts, "
                "or by what `clearway jobs sql` prints",
            ) from None


_FAILED = frozenset({"failed", "crashed", "unknown"})
