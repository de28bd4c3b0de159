"""Sessions that only read."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import ORMExecuteState

from clearway.db.turns import OneAtATime
from clearway.errors import ReadOnlySession

_BEFORE = re.compile(r"[\s(]+|/\*.*?\*/|--[^\n]*(?:\n|$)", re.S)
_READS = re.compile(r"(?:select|with|values|show)\b", re.I)
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|(\$\w*\$).*?\1", re.S)
_SECOND = re.compile(r";\s*[^\s;]")
_WRITES = re.compile(r"[()]\s*(?:insert|update|delete|merge)\b", re.I)
_WRITE_FIX = "take a DbSession where you write"


class AsyncReadSession(AsyncSession):
    """A session that only reads: AUTOCOMMIT, so that a SELECT is one round trip.

    Raises:
        ReadOnlySession: At a flush, and at any statement but SELECT, WITH, VALUES and SHOW.
    """


class ReadSession(OneAtATime):
    """The session below an `AsyncReadSession`."""

    def get_bind(self, *args: Any, **kwargs: Any) -> Engine | Connection:
        """Return the unit's own connection while it has one."""
        return self.unit.bind_for_read(self, super().get_bind(*args, **kwargs))

    def connection(self, *args: Any, **kwargs: Any) -> Connection:
        """Return a connection of its own, or refuse to give the unit's away."""
        connection = super().connection(*args, **kwargs)
        if self.unit.read_is_joined:
            raise ReadOnlySession(
                "a read session gives no connection away while the unit of work has one",
                fix=_WRITE_FIX,
            )
        return connection

    def rollback(self) -> None:
        """End the reading."""
        self.commit()  # there is nothing to roll back but what the unit of work has written

    def flush(self, objects: Any = None) -> None:
        """Refuse where there is something to write."""
        if self.new or self.dirty or self.deleted:
            raise ReadOnlySession(
                "a read session was asked to write what is pending in it", fix=_WRITE_FIX
            )


def refuse_writes(sql: str) -> None:
    """Raise `ReadOnlySession` for anything but SELECT, WITH, VALUES and SHOW."""
    start = 0
    while skipped := _BEFORE.match(sql, start):
        start = skipped.end()
    found = _READS.match(sql, start)
    if found is None or _hides_a_write(sql, found.group()):
        raise ReadOnlySession(
            f"a read session was asked to run {sql.strip()[:60]!r}", fix=_WRITE_FIX
        )


def _hides_a_write(sql: str, first: str) -> bool:
    """Say whether a second statement follows, or a part of a WITH is an INSERT, say."""
    with_parts = first.lower() == "with"
    if not with_parts and ";" not in sql:
        return False
    bare = _QUOTED.sub("''", sql)
    return bool(_SECOND.search(bare) or (with_parts and _WRITES.search(bare)))


@event.listens_for(ReadSession, "do_orm_execute")
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
