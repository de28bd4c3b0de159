"""Show a request's ledger where every browser can read it: the `Server-Timing` header.

Source: W3C Server Timing, https://www.w3.org/TR/server-timing/ (durations in milliseconds).
"""

from __future__ import annotations

from clearway.core.journey import Journey
from clearway.core.observer import Headers, Observer


class ServerTiming(Observer):
    """Add `Server-Timing`: the time until the response began, and each lane's share of it."""

    def responding(self, journey: Journey, headers: Headers) -> None:
        """Add the header."""
        marks = [("total", journey.age)]
        for lane, entry in journey.ledger:
            if entry.waits:
                marks.append((f"{lane}-wait", entry.waited))
            if entry.holds:
                marks.append((lane, entry.held))
        value = ", ".join(f"{name};dur={1000 * seconds:.2f}" for name, seconds in marks)
        headers.append((b"server-timing", value.encode("latin-1", "replace")))
