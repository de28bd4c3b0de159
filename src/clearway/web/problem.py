"""Answer for our own errors, as RFC 9457 problem details (`application/problem+json`)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from clearway.core.journey import current_journey
from clearway.core.observer import Headers
from clearway.errors import ClearwayError


@dataclass(frozen=True, slots=True)
class Problem:
    """A complete answer: status, headers and body."""

    status: int
    headers: Headers
    body: bytes


def describe(error: BaseException, request_id: str | None, *, detailed: bool) -> Problem:
    """Return the answer for an error.

    Args:
        error: A `ClearwayError` brings its status, code and title; anything else is a 500.
        request_id: The id under which the log has the whole story.
        detailed: Say what happened and the fix. Off outside development: the text may
            name hosts, pool sizes and functions.
    """
    ours = error if isinstance(error, ClearwayError) else ClearwayError("Internal error")
    members: dict[str, object] = {
        "type": f"urn:clearway:{ours.code}" if ours is error else "about:blank",
        "title": ours.title if ours is error else "Internal Server Error",
        "status": ours.status,
    }
    if ours is error:
        members["code"] = ours.code
    if request_id is not None:
        members["request_id"] = request_id
    if detailed:
        members["detail"] = ours.what if ours is error else repr(error)
        if ours.fix:
            members["fix"] = ours.fix
    body = json.dumps(members, ensure_ascii=False).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if ours.retry_after is not None:
        headers.append((b"retry-after", str(math.ceil(ours.retry_after)).encode()))
    return Problem(ours.status, headers, body)


class ProblemHandler:
    """Answer a `ClearwayError` that a dependency or an endpoint has let through.

    Args:
        detailed: As for `describe`.
    """

    def __init__(self, *, detailed: bool) -> None:
        self._detailed = detailed

    async def __call__(self, request: Request, error: Exception) -> Response:
        """Return the response, in the shape of a Starlette exception handler."""
        journey = current_journey()
        if journey is not None:
            journey.error = error
        problem = describe(error, journey.id if journey else None, detailed=self._detailed)
        response = Response(problem.body, problem.status)
        response.raw_headers = problem.headers
        return response
