"""A budget of queries, and who has spent it."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, event

from clearway.core.places import Place, own_places
from clearway.db.callers import own_places_of, trail_above

_CONTROL = re.compile(
    r"\s*(?:BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|START TRANSACTION|SET)\b", re.I
)
_DEPTH = 60
_SHOWN = 300  # characters of a statement


class QueryBudgetExceeded(AssertionError):
    """More statements ran than a test allows."""


@contextmanager
def assert_queries(*, max: int) -> Iterator[None]:
    """Fail if more statements run in the block; say which, how often, and from where.

    Counts what any SQLAlchemy engine of this process sends, also in the loop of a `TestClient`:
    no BEGIN, COMMIT, ROLLBACK, SET or savepoints. A statement with many rows of parameters is
    one, and a COPY is none.

    Args:
        max: Statements that are allowed.

    Raises:
        QueryBudgetExceeded: There were more. It is an AssertionError.
    """
    seen: Counter[tuple[str, str]] = Counter()

    def note(
        conn: Connection, cursor: object, sql: str, parameters: object, context: object, many: bool
    ) -> None:
        if not _CONTROL.match(sql):
            seen[" ".join(sql.split()), _caller()] += 1

    # touchpoint: sqlalchemy-events
    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    if seen.total() > max:
        raise QueryBudgetExceeded(_report(seen, max))


def _report(seen: Counter[tuple[str, str]], max: int) -> str:
    lines = [f"{seen.total()} statements, {max} allowed:"]
    for (sql, caller), count in seen.most_common():
        again = "the same statement " if count > 1 else ""
        lines.append(f"  {again}{count} time{'s' * (count > 1)}, from {caller}")
        lines.append(f"    {sql[:_SHOWN]}")
    if seen.most_common(1)[0][1] > 1:
        lines.append("one that is repeated may be an N+1: load it once, by selectinload() or IN")
    return "\n".join(lines)


def _caller() -> str:
    own = own_places_of(trail_above()) or own_places(_places_here())
    return str(own[0]) if own else "(no code of the application)"


def _places_here() -> Iterator[Place]:
    frame = sys._getframe()  # touchpoint: python-frames
    for _ in range(_DEPTH):
        yield Place(frame.f_code, frame.f_lineno)
        if frame.f_back is None:
            return
        frame = frame.f_back
