"""What is passed on to another service: the request id, and the trace that the request is in."""

from __future__ import annotations

from collections.abc import MutableMapping

from clearway.core.journey import Journey

TRACEPARENT = "traceparent"


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
        values = {self._header: journey.id, TRACEPARENT: journey.traceparent}
        added = tuple(name for name, value in values.items() if value and name not in headers)
        for name in added:
            headers[name] = values[name] or ""
        return added


def take_back(headers: MutableMapping[str, str], added: tuple[str, ...]) -> None:
    """Remove what `put` has added: another host is none of ours to tell."""
    for name in added:
        headers.pop(name, None)
