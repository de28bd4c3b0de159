"""A server that does not take connections at the moment."""

from __future__ import annotations

import random
import time

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 0.5


class Outage:
    """Decide whether a failed connect is worth another try: a restart takes a second or two.

    Once an outage has lasted longer than that, every connect fails at once, so that requests
    are answered instead of kept waiting.

    Args:
        within: Seconds from the first failure on in which a connect is tried again.
    """

    def __init__(self, within: float) -> None:
        self._within = within
        self._since: float | None = None

    def over(self) -> None:
        """Note that a connect succeeded."""
        self._since = None

    def pause(self, tries: int, until: float | None) -> float | None:
        """Return the seconds to wait before the next try, None to give up.

        Args:
            tries: How often the caller has failed.
            until: When the caller's deadline is, on the monotonic clock; None for none.
        """
        now = time.monotonic()
        if self._since is None:
            self._since = now
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**tries) * random.uniform(0.5, 1)  # noqa: S311
        end = self._since + self._within
        if until is not None:
            end = min(end, until)
        return pause if now + pause < end else None
