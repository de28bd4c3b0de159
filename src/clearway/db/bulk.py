"""Many rows at once: COPY, in the session's own transaction."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.inspection import inspect
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.sql.type_api import TypeEngine
from sqlalchemy.util import await_only

from clearway.core.journey import current_journey
from clearway.db.drivers import Driver, driver_of
from clearway.db.reading import AsyncReadSession
from clearway.db.turns import OneAtATime
from clearway.errors import CopyInvalid, DeadlineExceeded, ReadOnlySession

Progress = Callable[[int], object]
"""Called with how much has been handed to the server so far."""

Row = Sequence[object] | Mapping[str, object]

_STRIDE = 256  # rows between two breaths of the loop: about a millisecond
_SAY_EVERY = 1024  # rows

Target = type[DeclarativeBase] | Table | type[Any]


async def copy_rows(
    session: AsyncSession,
    table: Target,
    rows: Iterable[Row] | AsyncIterable[Row],
    *,
    columns: Sequence[str] | None = None,
    on_progress: Progress | None = None,
) -> int:
    """Store rows by COPY, many times faster than INSERT, in the session's transaction.

    What the session has pending is flushed first. The loop goes on meanwhile. Nothing is loaded
    and no ORM event fires; defaults that only Python knows are not applied.

    Args:
        session: Its COMMIT or ROLLBACK decides about the rows.
        table: A mapped class or a `Table`.
        rows: Tuples in the order of `columns`, or mappings from their names; may be endless.
        columns: Names of columns; by default all that the database does not fill in itself.
        on_progress: Called with the number of rows so far, every 1,024 rows and at the end.

    Returns:
        The number of rows.

    Raises:
        CopyInvalid: A column is unknown, or left out although only Python knows its default.
        ReadOnlySession: The session only reads.
        sqlalchemy.exc.DBAPIError: PostgreSQL refused a row; a note says which line and column.
    """
    copy = _Copy(table, columns)
    count = 0

    async def paced(encode: Callable[[Row], tuple[object, ...]]) -> AsyncIterator[Sequence[object]]:
        nonlocal count
        async for row in _each(rows):
            count += 1
            if count % _STRIDE == 0:
                await asyncio.sleep(0)
                if on_progress is not None and count % _SAY_EVERY == 0:
                    on_progress(count)
            yield encode(row)

    await copy.run(
        session,
        lambda driver, raw, dialect: driver.copy_rows(
            raw, copy.schema, copy.name, copy.columns, paced(copy.encoder(dialect))
        ),
    )
    if on_progress is not None and count % _SAY_EVERY:
        on_progress(count)
    return count


async def copy_csv(
    session: AsyncSession,
    table: Target,
    source: AsyncIterable[bytes],
    *,
    columns: Sequence[str] | None = None,
    header: bool = True,
    on_progress: Progress | None = None,
) -> int:
    """Store a CSV file by COPY as it arrives: it is never in memory as a whole.

    Args:
        session: Its COMMIT or ROLLBACK decides about the rows.
        table: A mapped class or a `Table`.
        source: The file's bytes in the server's encoding, in chunks of any size.
        columns: The columns of the file, in its order; by default all that the database does not
            fill in itself.
        header: The first line is a header, which is passed over.
        on_progress: Called with the number of bytes so far, after each chunk.

    Returns:
        The number of rows.

    Raises:
        CopyInvalid: A column is unknown, or left out although only Python knows its default.
        ReadOnlySession: The session only reads.
        sqlalchemy.exc.DBAPIError: PostgreSQL refused a row; a note says which line and column.
    """
    copy = _Copy(table, columns)

    async def counted() -> AsyncIterator[bytes]:
        size = 0
        async for chunk in source:
            size += len(chunk)
            yield chunk
            await asyncio.sleep(0)
            if on_progress is not None:
                on_progress(size)

    return await copy.run(
        session,
        lambda driver, raw, _: driver.copy_csv(
            raw, copy.schema, copy.name, copy.columns, counted(), header
        ),
    )


class _Copy:
    """One COPY into the columns of one table."""

    def __init__(self, target: Target, columns: Sequence[str] | None) -> None:
        found = target if isinstance(target, Table) else inspect(target).local_table
        assert isinstance(found, Table)
        self.schema, self.name = found.schema, found.name
        if columns is None:
            columns = [
                column.name
                for column in found.columns
                if column.server_default is None
                and column.identity is None
                and column.computed is None
                and column is not found.autoincrement_column
            ]
        else:
            unknown = [name for name in columns if name not in found.columns]
            if unknown:
                raise CopyInvalid(
                    f"{found.name} has no column {', '.join(unknown)}",
                    fix=f"its columns are {', '.join(found.columns.keys())}",
                )
        left_out = [
            column.name
            for column in found.columns
            if column.name not in columns and column.default is not None
        ]
        if left_out:
            raise CopyInvalid(
                f"{found.name}.{left_out[0]} has a default that only Python knows, and COPY does "
                "not go through Python",
                fix="give the column in the rows, or make the default the server's",
            )
        self.columns = list(columns)
        self._types: list[TypeEngine[Any]] = [found.columns[name].type for name in columns]

    def encoder(self, dialect: Any) -> Callable[[Row], tuple[object, ...]]:
        """Return what turns a row into what the driver takes, as SQLAlchemy itself would."""
        columns = self.columns
        binds = [
            (index, bind)
            for index, kind in enumerate(self._types)
            if (bind := kind.dialect_impl(dialect).bind_processor(dialect)) is not None
        ]

        def encode(row: Row) -> tuple[object, ...]:
            values = [row[name] for name in columns] if isinstance(row, Mapping) else list(row)
            if len(values) != len(columns):
                raise CopyInvalid(
                    f"a row has {len(values)} values for the {len(columns)} columns "
                    f"{', '.join(columns)}",
                    fix="give `columns` in the order of the values",
                )
            for index, bind in binds:
                if values[index] is not None:
                    values[index] = bind(values[index])
            return tuple(values)

        return encode

    async def run(
        self, session: AsyncSession, call: Callable[[Driver, Any, Any], Awaitable[int]]
    ) -> int:
        if isinstance(session, AsyncReadSession):
            raise ReadOnlySession(
                f"a read session was asked to copy into {self.name}",
                fix="take a DbSession where you write",
            )
        return await session.run_sync(self._run, call)

    def _run(self, session: Session, call: Callable[[Driver, Any, Any], Awaitable[int]]) -> int:
        session.flush()
        if isinstance(session, OneAtATime):
            return session.unit.turns.take(self._copy, session.connection(), call)
        return self._copy(session.connection(), call)

    def _copy(
        self, connection: Connection, call: Callable[[Driver, Any, Any], Awaitable[int]]
    ) -> int:
        driver = driver_of(connection.dialect)
        raw = connection.connection.driver_connection
        adapted: Any = connection.connection.dbapi_connection
        if adapted.autocommit:
            raise CopyInvalid(
                f"COPY into {self.name} was asked for in AUTOCOMMIT: half of it could stay",
                fix="take a DbSession, or a session of an engine without AUTOCOMMIT",
            )
        if not driver.in_transaction(raw):
            # SQLAlchemy sends BEGIN with its first statement, and COPY goes past it.
            connection.exec_driver_sql("SELECT 1")
        try:
            return await_only(_in_time(call(driver, raw, connection.dialect)))
        except BaseException as error:
            self._fail(connection, adapted, error)
            raise

    def _fail(self, connection: Connection, adapted: Any, error: BaseException) -> None:
        """Raise what SQLAlchemy would have raised for a statement of its own."""
        if isinstance(error, DeadlineExceeded):
            connection.invalidate()  # it waits for rows that will not come
            raise error
        translated = error
        # touchpoint: sqlalchemy-adapted
        translate = getattr(adapted, "_handle_exception", None)
        if isinstance(error, Exception) and translate is not None:
            try:
                translate(error)
            except Exception as raised:  # noqa: BLE001 - what it raises is its answer
                translated = raised
        known = isinstance(translated, connection.dialect.loaded_dbapi.Error)
        statement = f"COPY {self.name} FROM STDIN" if known else None
        try:
            # touchpoint: sqlalchemy-connection
            connection._handle_dbapi_exception(translated, statement, None, None, None)
        except BaseException as final:
            diagnosis = getattr(error, "diag", error)
            where = getattr(diagnosis, "context", None)
            if where:
                final.add_note(str(where))
            raise


async def _in_time(copy: Awaitable[int]) -> int:
    """Await a COPY until the journey's deadline: the server waits for its rows without a bound."""
    journey = current_journey()
    if journey is None or journey.deadline is None:
        return await copy
    try:
        async with asyncio.timeout(journey.deadline.remaining()) as scope:
            return await copy
    except TimeoutError as error:
        if scope.expired():
            raise DeadlineExceeded("the deadline passed in the middle of a COPY") from error
        raise


async def _each(rows: Iterable[Row] | AsyncIterable[Row]) -> AsyncIterator[Row]:
    if isinstance(rows, AsyncIterable):
        async for row in rows:
            yield row
    else:
        for row in rows:
            yield row
