"""The jobs that a test has enqueued, as they stand in the store."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from clearway.app import Clearway


@dataclass(frozen=True, slots=True)
class EnqueuedJob:
    """One job that would have been committed.

    Attributes:
        id: In the store.
        name: `module:qualname`.
        arguments: As JSON has them, validated and with their defaults.
        queue: It goes by.
        delay: Seconds from the beginning of the test's transaction before which it does not run.
        unique: The key of `options(unique=...)`, None without.
    """

    id: int
    name: str
    arguments: dict[str, object]
    queue: str
    delay: float
    unique: str | None


async def enqueued(road: Clearway, session: AsyncSession) -> list[EnqueuedJob]:
    """Return the jobs that were enqueued in a test's transaction, in their order.

    They were really inserted, and are read back: what was rolled back is not among them.

    Args:
        road: The application's Clearway.
        session: What `rolled_back` gave.
    """
    schema = '"' + road.settings.jobs.database_schema.replace('"', '""') + '"'
    # Both are now(), which is when the transaction began: nobody else's rows are among them.
    found = await session.execute(
        text(
            "SELECT id, name, arguments::text, queue, unique_key,"  # noqa: S608 - a quoted setting
            " extract(epoch FROM run_at - enqueued_at)::float8 AS delay"
            f" FROM {schema}.jobs WHERE service = :service AND enqueued_at = now() ORDER BY id"
        ),
        {"service": road.settings.service.name},
    )
    return [
        EnqueuedJob(
            row.id, row.name, json.loads(row.arguments), row.queue, row.delay, row.unique_key
        )
        for row in found
    ]
