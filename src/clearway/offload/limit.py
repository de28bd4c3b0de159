"""The moment at which a call is given up, and which error says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from clearway.core.deadline import Deadline
from clearway.core.journey import current_journey
from clearway.core.lane import Lane, Permit
from clearway.errors import CallTimedOut, ClearwayError, DeadlineExceeded


@dataclass(frozen=True, slots=True)
class Limit:
    """The earlier of a call's own timeout and the journey's deadline.

    Attributes:
        what: Names the call in messages.
        deadline: When it is over; None for no bound.
        timeout: The call's own timeout in seconds if that is the earlier one, else None.
        fix: What to advise when the timeout is reached.
    """

    what: str
    deadline: Deadline | None
    timeout: float | None
    fix: str

    @classmethod
    def of(cls, what: str, timeout: float | None, fix: str) -> Limit:
        """Return the limit of a call that begins now."""
        journey = current_journey()
        outer = journey.deadline if journey is not None else None
        if timeout is None:
            return cls(what, outer, None, fix)
        own = Deadline.after(timeout)
        if outer is not None and outer < own:
            return cls(what, outer, None, fix)
        return cls(what, own, timeout, fix)

    def error(self) -> ClearwayError:
        """Return the error that says whose limit was reached."""
        if self.timeout is None:
            return DeadlineExceeded(f"the deadline passed before {self.what} was done")
        return CallTimedOut(
            f"{self.what} was not done {self.timeout:g} s after it was handed over",
            fix=self.fix,
        )

    async def admit(self, lane: Lane) -> Permit:
        """Wait for a permit, no longer than the limit."""
        try:
            return await lane.acquire(self.deadline)
        except DeadlineExceeded:
            raise self.error() from None

    @asynccontextmanager
    async def bound(self) -> AsyncIterator[None]:
        """Cancel the block at the limit, and raise `error()` in its place."""
        scope = asyncio.timeout_at(None if self.deadline is None else self.deadline.at)
        try:
            async with scope:
                yield
        except TimeoutError:
            # A TimeoutError of the called function's own is its answer, not our limit.
            if scope.expired():
                raise self.error() from None
            raise
