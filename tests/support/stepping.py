"""Do something while a coroutine is suspended for the n-th time."""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class Steps:
    """How often a coroutine was suspended.

    Args:
        at: The suspension at which `do` is called, counted from one.
        do: What is done then.
    """

    def __init__(self, at: int, do: Callable[[], object]) -> None:
        self.taken = 0
        self._at = at
        self._do = do

    @types.coroutine
    def of(self, inner: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        """Run a coroutine, and count."""
        failure: BaseException | None = None
        sent: Any = None
        while True:
            try:
                if failure is None:
                    waits_for = inner.send(sent)
                else:
                    # Not kept: it would hold this frame, and all below it, in a cycle.
                    thrown, failure = [failure], None
                    waits_for = inner.throw(thrown.pop())
            except StopIteration as end:
                result: T = end.value
                return result
            self.taken += 1
            if self.taken == self._at:
                self._do()
            try:
                sent = yield waits_for
            except BaseException as error:  # noqa: BLE001 - it goes to the coroutine
                failure = error
