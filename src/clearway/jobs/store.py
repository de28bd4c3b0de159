"""The truth about every job, in the service's own database: SQL files, and what fills them in."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import Result, TextClause, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from clearway.db.faults import sqlstate
from clearway.errors import StoreUnfit

VERSION = 1
CRASHES = 3
"""Crashes after which a job is in the failure queue."""
ALONE = 2
"""Crashes from which on a job has no neighbour in its process."""

ABSENT = frozenset({"3F000", "42P01"})  # no such schema, no such table
FORBIDDEN = frozenset({"42501", "25006"})  # not the rights, or a read-only server
_FILES = {
    # With the import, as code is: a loop does not wait for a disk.
    file.name.removesuffix(".sql"): file.read_text(encoding="utf-8")
    for file in resources.files(__package__).joinpath("sql").iterdir()
    if file.name.endswith(".sql")
}
_FIX = "run what `clearway jobs sql` prints, by a role that may create a schema"


class Executes(Protocol):
    """A connection or a session: whatever runs a statement in the transaction it is in."""

    async def execute(self, statement: TextClause, parameters: Mapping[str, Any], /) -> Result[Any]:
        """Run one statement."""


@dataclass(frozen=True, slots=True)
class Order:
    """One run of a job, as it was claimed.

    Attributes:
        id: The job's.
        token: What every write about this run has to show.
        arguments: JSON.
        attempt: Which one this is, from 1.
        crashes: How often its process has died before.
    """

    id: int
    token: UUID
    name: str
    queue: str
    arguments: str
    attempt: int
    crashes: int
    enqueued_at: datetime
    request_id: str | None
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class JobName:
    """A job that a worker knows, as it tells others of it."""

    name: str
    queue: str
    body: str
    schedule: str | None = None
    timezone: str | None = None


class Store:
    """The statements of one service's jobs, each run by a connection of the caller's.

    Args:
        schema: Where the tables are.
        service: Whose jobs; two services may share the tables.
    """

    def __init__(self, schema: str, service: str) -> None:
        self.schema = schema
        self.service = service

    @property
    def channel(self) -> str:
        """The channel of NOTIFY that says that there may be work."""
        return f"{self.schema}_jobs"

    async def install(self, engine: AsyncEngine, *, make: bool) -> None:
        """See to it that the tables are there.

        Args:
            engine: Of a role that may make them, if `make`.
            make: Make them where they are missing.

        Raises:
            StoreUnfit: They are missing and may not be made, or may not be used.
        """
        version = await self._version(engine)
        if version == VERSION:
            return
        if version is not None and version > VERSION:
            raise StoreUnfit(
                f"the tables in schema {self.schema!r} are of version {version}, made by a newer "
                f"Clearway; this one knows version {VERSION}",
                fix="update this service",
            )
        if not make:
            raise StoreUnfit(
                f"there are no tables of jobs in schema {self.schema!r}, and jobs.install is off",
                fix=_FIX,
            )
        await self._make(engine)

    async def _version(self, engine: AsyncEngine) -> int | None:
        try:
            async with engine.connect() as connection:
                result = await connection.execute(self._sql("version"))
                version: int | None = result.scalar()
                return version
        except DBAPIError as error:
            state = sqlstate(error)
            if state in ABSENT:
                return None
            if state not in FORBIDDEN:
                raise
            raise self.forbidden(error) from error

    def forbidden(self, error: DBAPIError) -> StoreUnfit:
        """Return what it means that the tables are there and this role may not use them."""
        return StoreUnfit(
            f"the tables of jobs in schema {self.schema!r} may not be used: {error.orig}",
            fix="GRANT this role USAGE on the schema and its sequences, and SELECT, INSERT, "
            "UPDATE and DELETE on its tables",
        )

    async def _make(self, engine: AsyncEngine) -> None:
        try:
            async with engine.begin() as connection:
                # Ten instances may start at once: CREATE ... IF NOT EXISTS alone would race.
                await connection.execute(self._sql("lock"), {"schema": self.schema})
                for statement in statements(self.schema):
                    await connection.exec_driver_sql(statement)
        except DBAPIError as error:
            if sqlstate(error) not in FORBIDDEN:
                raise
            raise StoreUnfit(
                f"the tables of jobs cannot be made in schema {self.schema!r}: {error.orig}",
                fix=_FIX,
            ) from error

    async def enqueue(
        self, on: Executes, columns: Mapping[str, list[Any]], **journey: str | None
    ) -> list[int]:
        """Insert jobs; return their ids, or those of the holders of their keys, in order.

        Args:
            on: The caller's session, whose transaction this is part of.
            columns: names, queues, bodies, arguments, delays, keys and windows, of one length.
            journey: `request_id` and `traceparent` of the caller.
        """
        keys = sorted({key for key in columns["keys"] if key is not None})
        if any(columns["windows"]):
            await self._run(on, "let_go", service=self.service, keys=keys)
        ids: list[int | None] = [None] * len(columns["keys"])
        missing = list(range(len(ids)))
        while missing:
            chosen = {name: [column[i] for i in missing] for name, column in columns.items()}
            result = await self._run(on, "enqueue", service=self.service, **chosen, **journey)
            for i, row in zip(missing, result, strict=True):
                ids[i] = row.id
            missing = [i for i in missing if ids[i] is None]
            if missing:  # somebody was first; or was, and is done by now: then once more
                result = await self._run(on, "holders", service=self.service, keys=keys)
                holders = {row.key: row.job_id for row in result}
                for i in missing:
                    ids[i] = holders.get(columns["keys"][i])
                missing = [i for i in missing if ids[i] is None]
        return [id for id in ids if id is not None]

    async def claim(
        self,
        on: Executes,
        body: str,
        *,
        names: Collection[str],
        queues: Collection[str],
        most: int,
        lease: float,
        alone: bool = False,
    ) -> list[Order]:
        """Take jobs that are due.

        Args:
            on: In AUTOCOMMIT.
            body: Kind of slot, `loop` or `process`.
            names: What this worker can run.
            queues: What it serves; empty for all.
            most: How many.
            lease: Seconds.
            alone: Those that have crashed so often that they get a process of their own.
        """
        from_, to = (ALONE, CRASHES) if alone else (0, ALONE - 1)
        if body == "process":
            from_, to = 0, CRASHES  # they have none with anybody
        result = await self._run(
            on, "claim", service=self.service, body=body, names=list(names), queues=list(queues),
            most=most, lease=lease, crashes_from=from_, crashes_to=to,
        )  # fmt: skip
        orders = [Order(**row) for row in result.mappings()]
        orders.sort(key=lambda order: order.id)
        return orders

    async def renew(self, on: Executes, orders: Sequence[Order], lease: float) -> set[UUID]:
        """Renew leases; return the tokens of those that are still held."""
        result = await self._run(on, "renew", **_keys(orders), lease=lease)
        return {row.token for row in result}

    async def complete(self, on: Executes, orders: Sequence[Order]) -> set[int]:
        """Write that jobs are done; return the ids of those that were still held."""
        return set(await self._ids(on, "complete", **_keys(orders)))

    async def retry(
        self, on: Executes, orders: Sequence[Order], delays: list[float], errors: list[str]
    ) -> set[int]:
        """Let jobs wait for another attempt, `delays` in seconds."""
        return set(await self._ids(on, "retry", **_keys(orders), delays=delays, errors=errors))

    async def bury(
        self, on: Executes, orders: Sequence[Order], errors: list[str], tracebacks: list[str]
    ) -> set[int]:
        """Move jobs into the failure queue."""
        keys = _keys(orders)
        return set(await self._ids(on, "bury", **keys, errors=errors, tracebacks=tracebacks))

    async def hand_back(self, on: Executes, orders: Sequence[Order]) -> set[int]:
        """Give jobs back as if they had never been begun."""
        return set(await self._ids(on, "hand_back", **_keys(orders)))

    async def crash(
        self, on: Executes, keys: Sequence[tuple[int, UUID]], errors: list[str], *, lapsed: bool
    ) -> dict[int, bool]:
        """Count a crash for each job; return their ids, and whether that was one too many.

        Args:
            on: In AUTOCOMMIT.
            keys: Id and token.
            errors: What to say of each.
            lapsed: Only those that nobody has renewed in time.
        """
        result = await self._run(
            on, "crash", ids=[id for id, _ in keys], tokens=[token for _, token in keys],
            errors=errors, lapsed=lapsed, cap=CRASHES,
        )  # fmt: skip
        return {row.id: row.buried for row in result}

    async def lapsed(self, on: Executes, lease: float) -> list[tuple[int, UUID]]:
        """Return id and token of what nobody has renewed in time."""
        result = await self._run(on, "lapsed", service=self.service, lease=lease)
        return [(row.id, row.token) for row in result]

    async def bury_unknown(self, on: Executes, patience: float) -> list[tuple[int, str]]:
        """Move what no worker has known for `patience` seconds into the failure queue."""
        result = await self._run(on, "unknown", service=self.service, patience=patience)
        return [(row.id, row.name) for row in result]

    async def announce(
        self, on: Executes, names: Sequence[JobName]
    ) -> tuple[datetime | None, dict[str, datetime]]:
        """Tell others which jobs this worker knows.

        Returns:
            The server's time, and when each name was first seen with its schedule.
        """
        result = await self._run(
            on,
            "announce",
            service=self.service,
            names=[name.name for name in names],
            queues=[name.queue for name in names],
            bodies=[name.body for name in names],
            schedules=[name.schedule for name in names],
            timezones=[name.timezone for name in names],
        )
        rows = result.all()
        return (rows[0].now if rows else None), {row.name: row.first_seen for row in rows}

    async def adopt(self, on: Executes, names: Sequence[JobName]) -> None:
        """Let waiting jobs take the kind of slot that this version of the application gives."""
        await self._run(
            on, "adopt", service=self.service, names=[name.name for name in names],
            bodies=[name.body for name in names],
        )  # fmt: skip

    async def tick(self, on: Executes, slots: Mapping[str, datetime]) -> list[tuple[int, str]]:
        """Enqueue moments of schedules that nobody has enqueued; return the jobs."""
        result = await self._run(
            on, "tick", service=self.service, names=list(slots), slots=list(slots.values())
        )
        return [(row.id, row.name) for row in result]

    async def clean(self, on: Executes, *, keep_done: float, keep_failed: float, most: int) -> int:
        """Throw away what has been kept for long enough, in seconds.

        Args:
            on: In AUTOCOMMIT.
            keep_done: For jobs that are done.
            keep_failed: For the failure queue.
            most: How many that are done.

        Returns:
            How many that were done are gone.
        """
        result = await self._run(
            on, "clean", service=self.service, keep_done=keep_done, keep_failed=keep_failed,
            most=most,
        )  # fmt: skip
        count: int = result.scalar_one()
        return count

    async def notify(self, on: Executes) -> None:
        """Say that there may be work."""
        await self._run(on, "notify", channel=self.channel)

    async def rows(self, on: Executes, which: str, /, **values: Any) -> list[Mapping[str, Any]]:
        """Return what a person asked to see: `list`, `failed`, `show`, `schedules`, ..."""
        result = await self._run(on, which, service=self.service, **values)
        return [dict(row) for row in result.mappings()]

    async def _ids(self, on: Executes, name: str, /, **values: Any) -> list[int]:
        return [row.id for row in await self._run(on, name, **values)]

    async def _run(self, on: Executes, name: str, /, **values: Any) -> Result[Any]:
        return await on.execute(self._sql(name), values)

    def _sql(self, name: str) -> TextClause:
        return _clause(name, self.schema)


def statements(schema: str) -> list[str]:
    """Return the statements that make the tables, one by one."""
    parts = schema_sql(schema).split(";\n")
    return [part.strip() for part in parts if part.strip()]


def schema_sql(schema: str) -> str:
    """Return the same as one script, for a person or a migration."""
    return _read("schema", schema)


@functools.cache
def _clause(name: str, schema: str) -> TextClause:
    return text(_read(name, schema))


def _read(name: str, schema: str) -> str:
    return _FILES[name].replace("{schema}", f'"{schema}"')


def _keys(orders: Sequence[Order]) -> dict[str, list[Any]]:
    return {"ids": [order.id for order in orders], "tokens": [order.token for order in orders]}
