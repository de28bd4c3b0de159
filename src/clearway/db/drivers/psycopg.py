"""psycopg 3: connections that tell the truth about COMMIT and begin on our terms."""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from math import ceil
from typing import Any, TypeVar

import psycopg
from psycopg import errors, generators, waiting
from psycopg.abc import PQGen, PQGenConn
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus
from psycopg.sql import SQL, Composed, Identifier

from clearway.db.drivers.base import PING_WITHIN
from clearway.db.faults import state_in_text
from clearway.db.terms import Terms

T = TypeVar("T")

_begun: ContextVar[list[PQGenConn[CheckedConnection]]] = ContextVar("clearway_psycopg_begun")

_LOOK_EVERY = 0.1  # seconds; psycopg's own default
_KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}


class CheckedConnection(psycopg.AsyncConnection[Any]):
    """A psycopg connection on our terms.

    A COMMIT in a failed transaction is an error, where PostgreSQL would answer ROLLBACK and
    psycopg return. A cancelled statement raises at once: psycopg itself would first wait for up
    to ten seconds (measured with a frozen server: 10.5 s); whoever ends the connection cancels.
    """

    terms: Terms | None = None

    async def wait(self, gen: PQGen[T], *args: Any, **named: Any) -> T:
        """Run one exchange with the server."""
        if not args:
            named.setdefault("interval", _LOOK_EVERY)
        return await waiting.wait_async(gen, self.pgconn.socket, *args, **named)

    async def commit(self) -> None:
        """Commit as psycopg does, or raise where it would be a rollback."""
        if self.pgconn.transaction_status == TransactionStatus.INERROR:
            # SQLAlchemy takes a COMMIT that raised for the end of the transaction, and the
            # pool would hand the connection on as it is.
            await self.rollback()
            raise errors.InFailedSqlTransaction("COMMIT would be answered by ROLLBACK")
        await self._patiently(super().commit())

    async def rollback(self) -> None:
        """Roll back as psycopg does, but do not wait for ever."""
        await self._patiently(super().rollback())

    async def _patiently(self, call: Any) -> None:
        patience = None if self.terms is None else self.terms.patience
        try:
            async with asyncio.timeout(patience):
                await call
        except TimeoutError:
            await self.close()
            raise

    async def set_autocommit(self, value: bool) -> None:
        """Set it at once.

        psycopg may yield to the loop here although it has nothing to wait for. SQLAlchemy sets
        it while it makes its own connection: whoever was cancelled there lost ours for good.
        """
        async with self.lock:
            await self._at_once(self._set_autocommit_gen(value))

    async def set_isolation_level(self, value: psycopg.IsolationLevel | None) -> None:
        """Set it at once, for the same reason."""
        async with self.lock:
            await self._at_once(self._set_isolation_level_gen(value))

    # touchpoint: psycopg-connection

    async def _at_once(self, gen: PQGen[None]) -> None:
        if self._pipeline:
            await self.wait(gen)
            return
        with suppress(StopIteration):
            next(gen)

    @classmethod
    def _connect_gen(cls, *args: Any, **named: Any) -> PQGenConn[CheckedConnection]:
        connecting: PQGenConn[CheckedConnection] = super()._connect_gen(*args, **named)
        _begun.get([]).append(connecting)
        return connecting

    def _start_query(self) -> PQGen[None]:
        idle = not self._autocommit and self.pgconn.transaction_status == TransactionStatus.IDLE
        along = self.terms.begin() if idle and self.terms is not None else ""
        if not along:
            yield from super()._start_query()
            return
        self.pgconn.send_query(self._get_tx_start_command() + b";" + along.encode())
        for result in (yield from generators.execute(self.pgconn)):
            if result.status == ExecStatus.FATAL_ERROR:
                raise errors.error_from_result(result)


async def _connect(*args: Any, **named: Any) -> CheckedConnection:
    """Connect; what is cancelled in the middle is closed now and not when it is collected."""
    begun: list[PQGenConn[CheckedConnection]] = []
    token = _begun.set(begun)
    try:
        return await CheckedConnection.connect(*args, **named)
    except BaseException:
        for one in begun:
            one.close()
        raise
    finally:
        _begun.reset(token)


class _Psycopg:
    def service(
        self, arguments: Mapping[str, object], server: Mapping[str, str], connect_timeout: float
    ) -> dict[str, Any]:
        return {"connect_timeout": ceil(connect_timeout), **arguments, **server}

    def arguments(self, named: Mapping[str, Any], terms: Terms) -> dict[str, Any]:
        arguments = dict(named)
        if terms.startup:
            ours = " ".join(f"-c {name}={value}" for name, value in terms.startup.items())
            arguments["options"] = f"{ours} {arguments.get('options', '')}".strip()
        if terms.pooled:
            arguments["prepare_threshold"] = None  # a named statement is of one backend alone
        for name, value in _KEEPALIVE.items():
            arguments.setdefault(name, value)
        arguments.setdefault("async_creator_fn", _connect)
        return arguments

    def opened(self, connection: Any, terms: Terms) -> None:
        if isinstance(connection, CheckedConnection):
            connection.terms = terms

    def refusal(self, error: BaseException) -> str | None:
        return state_in_text(error) if isinstance(error, psycopg.Error) else None

    def is_closed(self, connection: Any) -> bool:
        if connection.closed:
            return True
        poll = select.poll()
        poll.register(connection.pgconn.socket, select.POLLIN)
        # Twice: the server's last words are read first, and then that it has left.
        for _ in range(2):
            if not poll.poll(0):
                return False
            try:
                connection.pgconn.consume_input()
            except errors.OperationalError:
                return True
        return bool(connection.pgconn.status == ConnStatus.BAD)

    def is_busy(self, adapted: Any) -> bool:
        return bool(adapted.info.transaction_status == TransactionStatus.ACTIVE)

    def checks_commit(self, connection: Any) -> bool:
        return isinstance(connection, CheckedConnection)

    def backend_pid(self, connection: Any) -> int:
        return int(connection.info.backend_pid)

    def in_transaction(self, connection: Any) -> bool:
        return bool(connection.pgconn.transaction_status != TransactionStatus.IDLE)

    async def copy_rows(
        self,
        connection: Any,
        schema: str | None,
        table: str,
        columns: Sequence[str],
        rows: AsyncIterable[Sequence[object]],
    ) -> int:
        async def feed(copy: psycopg.AsyncCopy) -> None:
            async for row in rows:
                await copy.write_row(row)

        return await _copy(connection, _copy_from(schema, table, columns), feed)

    async def copy_csv(
        self,
        connection: Any,
        schema: str | None,
        table: str,
        columns: Sequence[str],
        source: AsyncIterable[bytes],
        header: bool,
    ) -> int:
        form = SQL(" (FORMAT csv, HEADER)" if header else " (FORMAT csv)")

        async def feed(copy: psycopg.AsyncCopy) -> None:
            async for chunk in source:
                await copy.write(chunk)

        return await _copy(connection, _copy_from(schema, table, columns) + form, feed)

    async def ping(self, connection: Any) -> None:
        async with asyncio.timeout(PING_WITHIN):
            await connection.execute("")
            await connection.rollback()

    async def end(self, connection: Any) -> None:
        if connection.closed:
            return
        try:
            if connection.pgconn.transaction_status == TransactionStatus.ACTIVE:
                await connection.cancel_safe()
        finally:
            await connection.close()

    def abort(self, connection: Any) -> None:
        connection.pgconn.finish()


async def _copy(
    connection: Any, statement: Composed, feed: Callable[[psycopg.AsyncCopy], Awaitable[None]]
) -> int:
    """Copy what is fed; one that is cancelled is cut off: its end would wait for the server."""
    cut = False
    async with connection.cursor() as cursor:
        try:
            async with cursor.copy(statement) as copy:
                try:
                    await feed(copy)
                except asyncio.CancelledError:
                    cut = True
                    connection.pgconn.finish()
                    raise
        except psycopg.Error as error:
            if cut:
                raise asyncio.CancelledError from error
            raise
        return int(cursor.rowcount)


def _copy_from(schema: str | None, table: str, columns: Sequence[str]) -> Composed:
    name = Identifier(table) if schema is None else Identifier(schema, table)
    return SQL("COPY {} ({}) FROM STDIN").format(name, SQL(", ").join(map(Identifier, columns)))


DRIVER = _Psycopg()
