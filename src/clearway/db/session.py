"""The unit of work: one session and one transaction for each journey."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.util import greenlet_spawn

from clearway.core.journey import Journey
from clearway.db.drivers import driver_of
from clearway.db.faults import commit_error
from clearway.db.hooks import Hook, Hooks, InThread
from clearway.db.reading import AsyncReadSession, ReadSession
from clearway.db.turns import OneAtATime, Turns
from clearway.errors import CommitFailed, SessionEnded


class UnitOfWork:
    """What one journey reads and writes in one transaction, opened at the first statement.

    A journey holds one connection: while the unit has none, reads take their own and give it
    back before the unit takes one; afterwards they run on the unit's. Two at a time would let
    twenty requests dead-lock a pool of four.

    Args:
        engine: Where it writes.
        reader: Where it reads while it has no transaction.
        expire: Expire objects at COMMIT.
        session_class: The class of its session.
        journey: Whose it is; None for a block of its own.
        in_thread: Calls plain functions that wait for the COMMIT.

    Attributes:
        turns: One task at a time is in the unit's sessions.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        reader: AsyncEngine,
        *,
        expire: bool,
        session_class: type[AsyncSession] = AsyncSession,
        journey: Journey | None = None,
        in_thread: InThread = asyncio.to_thread,
    ) -> None:
        self.turns = Turns()
        self._reader = reader
        self._journey = journey
        self._in_thread = in_thread
        self._read: AsyncReadSession | None = None
        self._connection: Connection | None = None
        self._joined: Connection | None = None
        self._hooks: Hooks | None = None
        self._settling = False
        self._over = False
        self._engine = engine
        self._expire = expire
        self._session_class = session_class
        self._session: AsyncSession | None = None

    @property
    def session(self) -> AsyncSession:
        """The session, for whoever asks."""
        if self._session is None:
            self._session = self._session_class(
                self._engine,
                sync_session_class=_unit_session(self._session_class),
                expire_on_commit=self._expire,
                close_resets_only=False,
                info={"unit": self},
            )
        return self._session

    @property
    def read(self) -> AsyncReadSession:
        """The journey's read session."""
        if self._read is None:
            self._read = AsyncReadSession(
                self._reader,
                sync_session_class=ReadSession,
                expire_on_commit=False,
                close_resets_only=False,
                # On the unit's connection it begins and ends nothing of its own: a savepoint
                # of its own would die with one that the unit closes first.
                join_transaction_mode="rollback_only",
                info={"unit": self},
            )
        return self._read

    def after_commit(self, hook: Hook) -> None:
        """Have a hook run after the COMMIT; see `hooks.after_commit`."""
        self.refuse_if_over()
        if self._hooks is None:
            self._hooks = Hooks()
            if self._journey is not None:
                self._journey.after_response.append(self.run_hooks)
        sync = self.session.sync_session
        hook.within = sync.get_nested_transaction() or sync.get_transaction()
        self._hooks.add(hook)

    async def run_hooks(self, _: bool = True) -> None:
        """Call what waited for a COMMIT, where there was one, whatever came of the journey."""
        if self._hooks is not None:
            await self._hooks.run(self._in_thread)

    async def settle(self, commit: bool) -> None:
        """Commit or roll back, give the connection back, and close the session for good.

        Raises:
            CommitFailed: Nothing was stored, or nobody can know (`CommitUnknown`).
        """
        connection = self._connection
        try:
            if commit:
                if self._session is not None and self._session.in_transaction():
                    await self._commit(self._session)
                self._committed()
        finally:
            self._settling = True
            try:
                if self._session is not None:
                    await _end(self._session, self._session.in_transaction(), connection)
            finally:
                try:
                    if self._read is not None:
                        await _end(self._read, not commit or self._reads_in_transaction)
                finally:
                    self._over = True

    @property
    def _reads_in_transaction(self) -> bool:
        assert self._read is not None
        options = self._reader.sync_engine.get_execution_options()
        return self._read.in_transaction() and options.get("isolation_level") != "AUTOCOMMIT"

    async def _commit(self, session: AsyncSession) -> None:
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
        except (SQLAlchemyError, OSError) as error:  # not what a listener of the app's raises
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

    # The sessions report here; all of it runs in SQLAlchemy's greenlet.

    def refuse_if_over(self) -> None:
        """Raise `SessionEnded` once the unit has been settled."""
        if not self._over:
            return
        journey = self._journey
        whose = "of a block that is over"
        if journey is not None:
            whose = f"of {journey.route or journey.kind} ({journey.id}), whose answer has begun,"
        raise SessionEnded(
            f"a session {whose} was used",
            fix="async with road.db.session() as session: in streams, in background tasks and in "
            "tasks that outlive the request",
        )

    @property
    def read_is_joined(self) -> bool:
        """Say whether the read session runs on the unit's own connection."""
        return self._joined is not None

    def bind_for_read(self, session: Session, reader: Engine | Connection) -> Engine | Connection:
        """Return where the read session shall read now."""
        if session.in_transaction() and self._joined is not self._connection:
            session.commit()
        self._joined = self._connection
        return self._joined or reader

    def _began(self, connection: Connection) -> None:
        if self._settling:
            # A task that was left behind has only now got its connection, and nobody else
            # would give it back.
            _drop(connection)
            self._over = True
            self.refuse_if_over()
        self._connection = connection

    def _ended(self, transaction: SessionTransaction) -> None:
        self._connection = None
        self._rolled_back(transaction)  # `close` and `reset` tell of it nowhere else

    def _committed(self) -> None:
        if self._hooks is not None:
            self._hooks.committed()

    def _rolled_back(self, transaction: SessionTransaction) -> None:
        if self._hooks is not None:
            self._hooks.rolled_back(transaction)

    def _release_read(self) -> None:
        """Have the read session give back a connection of its own; its objects stay."""
        if self._read is not None and self._read.in_transaction() and self._joined is None:
            self._read.sync_session.commit()


async def _end(session: AsyncSession, tells: bool, connection: Connection | None = None) -> None:
    """Close a session; `tells` where the server has to be told, which may be cancelled."""
    try:
        if tells:
            async with session:  # its exit completes even when it is cancelled
                pass
        else:
            await session.close()  # as it is, without a task of its own: 8 % of a read's CPU
    except (SQLAlchemyError, OSError):
        # The connection died, and its transaction with it: nothing is left to roll back.
        with suppress(SQLAlchemyError):
            await session.invalidate()
        if connection is not None and not connection.closed:
            # A task that was left behind is in a statement: asyncpg refuses the ROLLBACK, and
            # SQLAlchemy then forgets the connection without giving it back.
            await greenlet_spawn(_drop, connection)


def _drop(connection: Connection) -> None:
    connection.invalidate()
    connection.close()


class _UnitSession(OneAtATime):
    """The session of a unit of work."""

    def get_bind(self, *args: Any, **kwargs: Any) -> Engine | Connection:
        self.unit._release_read()
        return super().get_bind(*args, **kwargs)

    def commit(self) -> None:
        # An old `get_db` may still commit after its `yield`, when all has been done already.
        if not self.unit._over:
            super().commit()


_classes: dict[type[Session], type[_UnitSession]] = {Session: _UnitSession}


def _unit_session(session_class: type[AsyncSession]) -> type[_UnitSession]:
    """Return the class below an asynchronous session, with what its own kind adds (SQLModel)."""
    base = session_class.sync_session_class
    made = _classes.get(base)
    if made is None:
        made = _classes[base] = type(f"Unit{base.__name__}", (_UnitSession, base), {})
    return made


@event.listens_for(_UnitSession, "after_begin")
def _unit_began(session: Session, _: SessionTransaction, connection: Connection) -> None:
    session.info["unit"]._began(connection)


@event.listens_for(_UnitSession, "after_transaction_end")
def _unit_ended(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info["unit"]._ended(transaction)


@event.listens_for(_UnitSession, "after_commit")
def _unit_committed(session: Session) -> None:
    if not session.in_nested_transaction():
        session.info["unit"]._committed()


@event.listens_for(_UnitSession, "after_soft_rollback")
def _unit_rolled_back(session: Session, transaction: SessionTransaction) -> None:
    session.info["unit"]._rolled_back(transaction)
