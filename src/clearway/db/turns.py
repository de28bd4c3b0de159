"""One task at a time in the sessions of a unit of work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.orm import Session

from clearway.db.callers import current_task, own_places_of, place_of, trail_above
from clearway.errors import SessionShared

if TYPE_CHECKING:
    from clearway.db.session import UnitOfWork


T = TypeVar("T")


class Turns:
    """Who is inside; a second task is refused before it can do harm.

    SQLAlchemy's sessions are not made for two tasks at once: which statement belongs to which
    transaction would be chance. The same task may come in again: a flush runs statements.
    """

    __slots__ = ("_inside",)

    def __init__(self) -> None:
        self._inside: asyncio.Task[Any] | None = None

    def take(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call while nobody else is inside.

        Raises:
            SessionShared: Another task is inside; both places are named.
        """
        task = current_task()
        if task is None or self._inside is task:
            return call(*args, **kwargs)
        if self._inside is not None:
            raise self._refusal(self._inside)
        self._inside = task
        try:
            return call(*args, **kwargs)
        finally:
            self._inside = None

    def _refusal(self, other: asyncio.Task[Any]) -> SessionShared:
        own = own_places_of(trail_above())
        here = str(own[0]) if own else "here"
        return SessionShared(
            f"two tasks use one session at the same time: {here}, while {place_of(other)} "
            "waits for its statement",
            fix="await one after the other; what shall run side by side takes a session of its "
            "own: async with road.db.session() as session",
        )


class OneAtATime(Session):
    """A session of a unit of work, which lets in one task at a time."""

    @property
    def unit(self) -> UnitOfWork:
        """The unit of work that this session belongs to."""
        unit: UnitOfWork = self.info["unit"]
        return unit

    def _autobegin_t(self, *args: Any, **kwargs: Any) -> Any:  # touchpoint: sqlalchemy-session
        self.unit.refuse_if_over()
        return super()._autobegin_t(*args, **kwargs)

    def _execute_internal(self, *args: Any, **kwargs: Any) -> Any:  # touchpoint: sqlalchemy-session
        return self.unit.turns.take(super()._execute_internal, *args, **kwargs)

    def flush(self, objects: Any = None) -> None:
        """Write what is pending."""
        self.unit.turns.take(super().flush, objects)

    def commit(self) -> None:
        """Commit, as SQLAlchemy does."""
        self.unit.turns.take(super().commit)

    def rollback(self) -> None:
        """Roll back, as SQLAlchemy does."""
        self.unit.turns.take(super().rollback)
