"""What is to happen once a transaction has been committed, and only then."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import SessionTransaction

from clearway.errors import SessionUnknown

if TYPE_CHECKING:
    from clearway.db.session import UnitOfWork

P = ParamSpec("P")

_log = logging.getLogger("clearway.db")

InThread = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Calls a plain function off the event loop."""


def after_commit(
    session: AsyncSession, fn: Callable[P, object], *args: P.args, **kwargs: P.kwargs
) -> None:
    """Call a function once the session's transaction has been committed, and never if it is not.

    In a request it runs after the response, in a job after its completion, with
    `road.db.session()` at the end of the block. It is dropped with the transaction, or the
    savepoint, in which it was asked for. One that fails is logged by name: it neither changes the
    answer nor skips the next. What must not be lost in a crash is a job.

    Args:
        session: A `DbSession`, or one of `road.db.session()`.
        fn: An `async def` function, or a plain one, which runs in a thread.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Raises:
        SessionUnknown: The session is none of Clearway's.
    """
    unit: UnitOfWork | None = session.info.get("unit")
    if unit is None or session is not unit.session:
        raise SessionUnknown(
            "after_commit was given a session whose COMMIT nobody tells us",
            fix="a DbSession, road.db.dependency or road.db.session() gives one that is ours",
        )
    unit.after_commit(Hook(functools.partial(fn, *args, **kwargs), _name(fn)))


def _name(fn: Callable[..., object]) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return getattr(fn, "__qualname__", repr(fn))


@dataclass(slots=True, eq=False)
class Hook:
    """One call that waits for its COMMIT.

    Attributes:
        call: What to do.
        name: Its name, for the log.
        within: The transaction or savepoint in which it was asked for; None before there was one.
    """

    call: Callable[[], object]
    name: str
    within: SessionTransaction | None = None


class Hooks:
    """The calls that wait for the COMMIT of one unit of work."""

    def __init__(self) -> None:
        self._waiting: list[Hook] = []
        self._due: list[Hook] = []

    def add(self, hook: Hook) -> None:
        """Wait for the COMMIT of the transaction that the hook was asked for in."""
        self._waiting.append(hook)

    def committed(self) -> None:
        """Note that the outermost transaction was committed."""
        self._due += self._waiting
        self._waiting = []

    def rolled_back(self, transaction: SessionTransaction) -> None:
        """Forget what was asked for in a transaction or savepoint, or in one inside of it."""
        outermost = transaction.parent is None
        self._waiting = [
            hook for hook in self._waiting if not (outermost or _is_in(hook.within, transaction))
        ]

    async def run(self, in_thread: InThread) -> None:
        """Call what is due, one after the other, each whatever the others do."""
        while self._due:
            hook = self._due.pop(0)
            try:
                plain = not inspect.iscoroutinefunction(hook.call)
                result = await in_thread(hook.call) if plain else hook.call()
                if inspect.isawaitable(result):
                    await result
            except (Exception, asyncio.CancelledError):
                # Of a task that somebody else has cancelled it is an error like any other.
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise
                _log.exception("after_commit: %s failed", hook.name)


def _is_in(inner: SessionTransaction | None, outer: SessionTransaction) -> bool:
    while inner is not None and inner is not outer:
        inner = inner.parent
    return inner is outer
