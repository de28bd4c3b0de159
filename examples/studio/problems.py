"""Answer the studio's own refusals as RFC 9457 problem details, as Clearway answers its own."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from clearway import current_journey


class Problem(HTTPException):
    """A refusal.

    Args:
        status: Its HTTP status.
        detail: One sentence for the person who reads it.
        members: What a program can act on: the line that is wrong, the id that exists.
    """

    def __init__(self, status: int, detail: str, **members: str | int) -> None:
        super().__init__(status, detail)
        self.members = members


async def answer(request: Request, error: HTTPException) -> JSONResponse:
    """Return the problem document for any HTTPException, Starlette's own 404 included."""
    journey = current_journey()
    content: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(error.status_code).phrase,
        "status": error.status_code,
        "detail": error.detail,
    }
    if journey is not None:
        content["request_id"] = journey.id
    if isinstance(error, Problem):
        content |= error.members
    return JSONResponse(
        content, error.status_code, error.headers, media_type="application/problem+json"
    )


def install(app: FastAPI) -> None:
    """Have an application answer its refusals as problem details."""
    app.exception_handler(HTTPException)(answer)
