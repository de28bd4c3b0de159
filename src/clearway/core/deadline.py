"""The moment after which a result is worth nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True, order=True)
class Deadline:
    """A point on the monotonic clock, shared by every wait made on a journey's behalf.

    Attributes:
        at: Seconds on `time.monotonic`, which is also the clock of the event loop.
    """

    at: float

    @classmethod
    def after(cls, seconds: float) -> Self:
        """Return the deadline that lies `seconds` from now."""
        return cls(time.monotonic() + seconds)

    def remaining(self) -> float:
        """Return the seconds left, never less than 0.0."""
        return max(0.0, self.at - time.monotonic())

    @property
    def passed(self) -> bool:
        """Say whether the deadline lies in the past."""
        return time.monotonic() >= self.at
