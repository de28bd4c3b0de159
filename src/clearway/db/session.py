"""The unit of work: one session and one transaction for each journey."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction

from clearway.db.drivers import driver_of
from clearway.db.faults import commit_error
from clearway.errors import CommitFailed, ReadOnlySession

_BEFORE = re.compile(r"[\s(]+|/\*.*?\*/|--[^\n]*(?:\n|$)", re.S)
_READS = re.compile(r"(?:select|with|values|show)\b", re.I)


class UnitOfWork:
    """What one journey reads and writes in one transaction, opened at the first statement.

    A journey holds one connection: while the unit has none, reads take their own and give it
    back before the unit takes one; afterwards they run on the unit's. Two at a time would let
    twenty requests dead-lock a pool of four.
    """

    def __init__(self, engine: AsyncEngine, reader: AsyncEngine, *, expire: bool) -> None:
        self._reader = reader
        self._read: AsyncReadSession | None = None
        self._connection: Connection | None = None
        self._joined: Connection | None = None
        self.session = AsyncSession(
            engine,
            sync_session_class=_UnitSession,
            expire_on_commit=expire,
            close_resets_only=False,
            info={"unit": self},
        )

    @property
    def read(self) -> AsyncReadSession:
        """The journey's read session."""
        if self._read is None:
            self._read = AsyncReadSession(
                self._reader,
                sync_session_class=_ReadSession,
                expire_on_commit=False,
                close_resets_only=False,
                # On the unit's connection it begins and ends nothing of its own: a savepoint
                # of its own would die with one that the unit closes first.
                join_transaction_mode="rollback_only",
                info={"unit": self},
            )
        return self._read

    async def settle(self, commit: bool) -> None:
        """Commit or roll back, give the connection back, and close the session for good.

        Raises:
            CommitFailed: Nothing was stored, or nobody can know (`CommitUnknown`).
        """
        try:
            if commit and self.session.in_transaction():
                await self._commit()
        finally:
            try:
                await _end(self.session)
            finally:
                if self._read is not None:
                    await _end(self._read)

    async def _commit(self) -> None:
        session = self.session
        try:
            # Apart from COMMIT: a flush that fails leaves no doubt about the outcome.
            if session.new or session.dirty or session.deleted:
                await session.flush()
            if not self._checked():
                await (await session.connection()).exec_driver_sql("SELECT 1")
        except SQLAlchemyError as error:
            raise commit_error(error, sent=False) from error
        try:
            await session.commit()
        except Exception as error:
            raise commit_error(error, sent=True) from error

    def _checked(self) -> bool:
        """Say whether the connection itself tells a COMMIT that was a ROLLBACK.

        One that was open before its engine was adopted, or that the app makes itself, does
        not: there a statement before COMMIT meets the failed transaction (25P02).
        """
        if self._connection is None:
            return True
        driver = driver_of(self._connection.dialect)
        connection = self._connection.connection.driver_connection
        if driver.is_closed(connection):
            raise CommitFailed(
                "the server had closed the connection before COMMIT: nothing was stored",
                fix="a transaction that sits idle is ended after "
                "database.idle_in_transaction_session_timeout; hold it for a shorter time",
            )
        return driver.checks_commit(connection)

    # The sessions below report here; all of it runs in SQLAlchemy's greenlet.

    def _began(self, connection: Connection) -> None:
        self._connection = connection

    def _ended(self) -> None:
        self._connection = None

    def _release_read(self) -> None:
        """Have the read session give back a connection of its own; its objects stay."""
        if self._read is not None and self._read.in_transaction() and self._joined is None:
            self._read.sync_session.commit()

    def _bind_for_read(self, session: Session, reader: Engine | Connection) -> Engine | Connection:
        if session.in_transaction() and self._joined is not self._connection:
            session.commit()
        self._joined = self._connection
        return self._joined or reader


async def _end(session: AsyncSession) -> None:
    try:
        async with session:  # its exit completes even when it is cancelled
            pass
    except (SQLAlchemyError, OSError):
        # The connection died, and its transaction with it: nothing is left to roll back.
        await session.invalidate()


class _UnitSession(Session):
    """The session of a unit of work."""

    def get_bind(self, *args: Any, **kwargs: Any) -> Engine | Connection:
        unit: UnitOfWork = self.info["unit"]
        unit._release_read()
        return super().get_bind(*args, **kwargs)


@event.listens_for(_UnitSession, "after_begin")
def _unit_began(session: Session, _: SessionTransaction, connection: Connection) -> None:
    session.info["unit"]._began(connection)


@event.listens_for(_UnitSession, "after_transaction_end")
def _unit_ended(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info["unit"]._ended()


class AsyncReadSession(AsyncSession):
    """A session that only reads: AUTOCOMMIT, so that a SELECT is one round trip.

    Raises:
        ReadOnlySession: At a flush, and at any statement but SELECT, WITH, VALUES and SHOW.
    """


class _ReadSession(Session):
    """The session below an `AsyncReadSession`."""

    def get_bind(self, *args: Any, **kwargs: Any) -> Engine | Connection:
        unit: UnitOfWork = self.info["unit"]
        return unit._bind_for_read(self, super().get_bind(*args, **kwargs))

    def connection(self, *args: Any, **kwargs: Any) -> Connection:
        connection = super().connection(*args, **kwargs)
        if self.info["unit"]._joined is not None:
            raise ReadOnlySession(
                "a read session gives no connection away while the unit of work has one",
                fix=_WRITE_FIX,
            )
        return connection

    def rollback(self) -> None:
        self.commit()  # there is nothing to roll back but what the unit of work has written

    def flush(self, objects: Any = None) -> None:
        if self.new or self.dirty or self.deleted:
            raise ReadOnlySession(
                "a read session was asked to write what is pending in it", fix=_WRITE_FIX
            )


_WRITE_FIX = "take a DbSession where you write"


def refuse_writes(sql: str) -> None:
    """Raise `ReadOnlySession` for anything but SELECT, WITH, VALUES and SHOW."""
    start = 0
    while skipped := _BEFORE.match(sql, start):
        start = skipped.end()
    if not _READS.match(sql, start):
        raise ReadOnlySession(
            f"a read session was asked to run {sql.strip()[:60]!r}", fix=_WRITE_FIX
        )


@event.listens_for(_ReadSession, "do_orm_execute")
def _guard_statement(state: ORMExecuteState) -> None:
    if not state.is_select:
        refuse_writes(str(state.statement))


def guard_engine(engine: AsyncEngine) -> None:
    """Guard the connections of a read engine as well: `session.connection()` passes by us."""

    def guard(
        conn: Connection, cursor: object, sql: str, parameters: object, context: object, many: bool
    ) -> None:
        refuse_writes(sql)

    # touchpoint: sqlalchemy-events
    event.listen(engine.sync_engine, "before_cursor_execute", guard)
