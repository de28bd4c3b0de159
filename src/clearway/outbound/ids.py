"""What is passed on to another service: the request id, and the trace that the request is in."""

from __future__ import annotations

import re
from collections.abc import MutableMapping

from clearway.core.journey import Journey

TRACEPARENT = "traceparent"
_SOUND = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C Trace Context


class Ids:
    """Put a journey's ids on the headers of its calls.

    Args:
        header: Name of the header that carries the request id.
    """

    __slots__ = ("_header",)

    def __init__(self, header: str) -> None:
        self._header = header

    def put(self, headers: MutableMapping[str, str], journey: Journey | None) -> tuple[str, ...]:
        """Add the journey's ids, where the caller has not set them, and return what was added.

        Args:
            headers: The headers of a call; their names know no case.
            journey: None, outside of one, adds nothing.
        """
        if journey is None:
            return ()
        values = {self._header: journey.id, TRACEPARENT: _traceparent(journey)}
        added = tuple(name for name, value in values.items() if value and name not in headers)
        for name in added:
            headers[name] = values[name] or ""
        return added


def take_back(headers: MutableMapping[str, str], added: tuple[str, ...]) -> None:
    """Remove what `put` has added: another host is none of ours to tell."""
    for name in added:
        headers.pop(name, None)


def _traceparent(journey: Journey) -> str | None:
    """Return the trace as the request brought it, None for none and for one that is unsound."""
    if journey.exchange is not None:
        for name, value in journey.exchange.headers:
            if name == b"traceparent":
                return value.decode("ascii") if _SOUND.fullmatch(value) else None
    return None
