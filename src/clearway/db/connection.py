"""A driver connection that tells the truth about COMMIT."""

from __future__ import annotations

from typing import Any

import asyncpg


class CheckedConnection(asyncpg.Connection):
    """An asyncpg connection for which a COMMIT that PostgreSQL rolled back is an error.

    After a swallowed statement error the server answers COMMIT with the tag ROLLBACK, and
    `session.commit()` returns as if all were well (measured: 201 with nothing stored).
    """

    __slots__ = ()

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """Execute as asyncpg does, and raise where a COMMIT was answered by ROLLBACK."""
        tag = await super().execute(query, *args, timeout=timeout)
        if tag == "ROLLBACK" and query.strip(" ;").upper() == "COMMIT":
            raise asyncpg.InFailedSQLTransactionError("COMMIT was answered by ROLLBACK")
        return tag
