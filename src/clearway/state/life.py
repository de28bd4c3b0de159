"""The life of one resource, from its opening to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from clearway.errors import ClearwayError, ResourceFailed, ResourceInvalid

if TYPE_CHECKING:
    from clearway.state.resource import Resource

_FIX = (
    "see the traceback that the logger clearway.state wrote; in tests put something else in its "
    "place by app.dependency_overrides"
)


class Life:
    """One resource of one Clearway while it opens, is open and closes.

    All of it happens in a task of its own: an anyio cancel scope, and with it every task
    group, must be left by the task that entered it, and start and shutdown are two.

    Args:
        resource: What is opened.
        needed_by: Who asked for it first, for messages.
        asker: The resource that asked, None where it was none.

    Attributes:
        ready: Ends with the value, or with why there is none.
        seconds: How long the opening took, without what it needs.
        waits: What its own opening waits for now.
        task: Runs it; set by who starts it.
    """

    def __init__(self, resource: Resource[Any], needed_by: str, asker: Life | None) -> None:
        self.resource = resource
        self.needed_by = needed_by
        self.ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.seconds = 0.0
        self.waits: list[Life] = []
        self.task: asyncio.Task[None] | None = None
        self._asker = asker
        self._closing = asyncio.Event()

    @property
    def opened(self) -> bool:
        """Say whether there is a value."""
        return self.ready.done() and self.ready.exception() is None

    @property
    def trail(self) -> str:
        """Return who needs it, and who needs that."""
        above = "" if self._asker is None else f", needed by {self._asker.trail}"
        return self.needed_by + above

    async def run(self, needs: dict[str, Any], within: float, opened: Callable[[], None]) -> None:
        """Open, stay open until `close`, and close.

        Args:
            needs: Its arguments.
            within: Seconds that it may take to open.
            opened: Is called when it is open.
        """
        began = time.monotonic()
        timer = asyncio.get_running_loop().call_later(within, self._too_slow, within)
        try:
            async with asynccontextmanager(self.resource.generator)(**needs) as value:
                timer.cancel()
                self.seconds = time.monotonic() - began
                if not self.ready.done():
                    self.ready.set_result(value)
                    opened()
                    await self._closing.wait()
        finally:
            timer.cancel()

    def close(self) -> None:
        """Let it go on past its `yield`."""
        self._closing.set()

    def cut_off(self) -> None:
        """Cancel it wherever it is."""
        if self.task is not None:
            self.task.cancel()

    def fail(self, error: BaseException | None, how: str = "") -> None:
        """End an opening without a value.

        Args:
            error: What it raised; a need's failure is passed on as it is.
            how: What happened, where it raised nothing.
        """
        failure: ClearwayError
        if isinstance(error, ResourceFailed | ResourceInvalid):
            failure = error
        else:
            said = how if error is None else f"{type(error).__name__}: {error}"
            failure = ResourceFailed(
                f"resource {self.resource.name} could not be opened: {said} "
                f"(needed by {self.trail})",
                fix=_FIX,
            )
            failure.__cause__ = error
        self.ready.set_exception(failure)
        self.ready.exception()  # who waited may be gone by now; nobody has to hear it

    def _too_slow(self, within: float) -> None:
        if not self.ready.done():
            self.fail(None, f"it took longer than state.open_within, {within:g} s")
            self.cut_off()

    def path_to(self, goal: Life) -> list[Life]:
        """Return the chain of waiting openings that leads to another, empty for none."""
        if self is goal:
            return [self]
        for need in self.waits:
            if path := need.path_to(goal):
                return [self, *path]
        return []
