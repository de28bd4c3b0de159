"""Give every request an id, its own or the caller's, and say it in the answer."""

from __future__ import annotations

import re

from clearway.core.journey import Journey
from clearway.core.observer import Headers, Observer

# Ids end in logs, headers and SQL comments: short, and no character that any of them escapes.
_SAFE = re.compile(rb"[A-Za-z0-9._:/=+@-]{1,128}")


def accepted_id(headers: Headers, name: bytes) -> str | None:
    """Return the caller's request id, None where it is absent, too long or hostile.

    Args:
        headers: The request's headers, names in lower case as ASGI has them.
        name: The header to look for, in lower case.
    """
    for key, value in headers:
        if key == name:
            return value.decode("ascii") if _SAFE.fullmatch(value) else None
    return None


class RequestId(Observer):
    """Add the journey's id to the response, unless the app has set that header itself."""

    def __init__(self, header: str) -> None:
        self._name = header.lower().encode("ascii")

    def responding(self, journey: Journey, headers: Headers) -> None:
        """Add the header."""
        for key, _ in headers:
            if key == self._name:
                return
        headers.append((self._name, journey.id.encode("ascii")))
