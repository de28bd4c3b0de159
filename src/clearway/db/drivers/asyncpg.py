"""asyncpg: connections that tell the truth about COMMIT and begin on our terms."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterable, Mapping, Sequence
from typing import Any

import asyncpg

from clearway.db.drivers.base import PING_WITHIN
from clearway.db.faults import sqlstate
from clearway.db.terms import Terms

_CONTROL = frozenset({"COMMIT;", "ROLLBACK;"})

# Through a pooler a name that one client gave a statement meets another's on the same backend
# (42P05, 26000). Without a name and a cache asyncpg sends each statement whole.
_POOLED = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": str,
}

# A peer that is gone without a word is noticed after about a minute, not after two hours.
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


class CheckedConnection(asyncpg.Connection):
    """An asyncpg connection for which a COMMIT that PostgreSQL rolled back is an error.

    After a swallowed statement error the server answers COMMIT with the tag ROLLBACK, and
    `session.commit()` returns as if all were well (measured: 201 with nothing stored).
    """

    __slots__ = ("terms",)

    terms: Terms | None

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """Execute as asyncpg does; BEGIN takes our terms along, COMMIT has to be one."""
        terms: Terms | None = getattr(self, "terms", None)
        if args or terms is None:
            return await super().execute(query, *args, timeout=timeout)
        if query.startswith("BEGIN"):
            return await self._begin(query, terms)
        if query in _CONTROL and timeout is None:
            timeout = terms.patience
        tag = await super().execute(query, timeout=timeout)
        if tag == "ROLLBACK" and query.strip(" ;").upper() == "COMMIT":
            raise asyncpg.InFailedSQLTransactionError("COMMIT was answered by ROLLBACK")
        return tag

    async def _begin(self, query: str, terms: Terms) -> str:
        try:
            along = terms.begin()
        except BaseException:
            self._top_xact = None  # nothing has begun
            raise
        try:
            return await super().execute(query + along, timeout=terms.patience)
        except asyncpg.PostgresError:
            if along and not self.is_closed():
                # BEGIN itself was done, and nobody else will end it; asyncpg would take the
                # next one for a savepoint in it.
                await super().execute("ROLLBACK;", timeout=terms.patience)
                self._top_xact = None  # touchpoint: asyncpg-connection
            raise


class _Asyncpg:
    def service(
        self, arguments: Mapping[str, object], server: Mapping[str, str], connect_timeout: float
    ) -> dict[str, Any]:
        return {"timeout": connect_timeout, **arguments, "server_settings": dict(server)}

    def arguments(self, named: Mapping[str, Any], terms: Terms) -> dict[str, Any]:
        arguments = dict(named)
        if terms.startup:
            given = arguments.get("server_settings") or {}
            arguments["server_settings"] = {**terms.startup, **given}
        if terms.pooled:
            arguments.update(_POOLED)
        if "async_creator_fn" not in arguments:
            arguments.setdefault("connection_class", CheckedConnection)
        return arguments

    def opened(self, connection: Any, terms: Terms) -> None:
        # Not isinstance: to asyncpg's metaclass every connection is one of every class.
        if CheckedConnection in type(connection).__mro__:
            connection.terms = terms
        transport = getattr(connection, "_transport", None)  # touchpoint: asyncpg-connection
        own = None if transport is None else transport.get_extra_info("socket")
        if own is not None and own.family != getattr(socket, "AF_UNIX", None):
            own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE:
                if hasattr(socket, name):
                    own.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def refusal(self, error: BaseException) -> str | None:
        return sqlstate(error)

    def is_closed(self, connection: Any) -> bool:
        return bool(connection.is_closed())

    def is_busy(self, adapted: Any) -> bool:
        mutex = getattr(adapted, "_execute_mutex", None)  # touchpoint: sqlalchemy-adapted
        return mutex is not None and mutex.locked()

    def checks_commit(self, connection: Any) -> bool:
        return getattr(connection, "terms", None) is not None

    def backend_pid(self, connection: Any) -> int:
        return int(connection.get_server_pid())

    def in_transaction(self, connection: Any) -> bool:
        return bool(connection.is_in_transaction())

    async def copy_rows(
        self,
        connection: Any,
        schema: str | None,
        table: str,
        columns: Sequence[str],
        rows: AsyncIterable[Sequence[object]],
    ) -> int:
        tag = await connection.copy_records_to_table(
            table, records=rows, columns=columns, schema_name=schema
        )
        return _rows_of(tag)

    async def copy_csv(
        self,
        connection: Any,
        schema: str | None,
        table: str,
        columns: Sequence[str],
        source: AsyncIterable[bytes],
        header: bool,
    ) -> int:
        tag = await connection.copy_to_table(
            table, source=source, columns=columns, schema_name=schema, format="csv", header=header
        )
        return _rows_of(tag)

    async def ping(self, connection: Any) -> None:
        await connection.fetchrow(";", timeout=PING_WITHIN)

    async def end(self, connection: Any) -> None:
        try:
            # Closing would cut the cancel request short, and leave its error to nobody.
            requests = list(getattr(connection, "_cancellations", ()))
            if requests:
                await asyncio.wait(requests)
            await connection.close()
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            connection.terminate()
        except asyncio.CancelledError:
            connection.terminate()
            raise

    def abort(self, connection: Any) -> None:
        connection.terminate()


def _rows_of(tag: str) -> int:
    return int(tag.rpartition(" ")[2])


DRIVER = _Asyncpg()
