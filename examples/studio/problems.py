"""Answer the studio's own refusals as RFC 9457 problem details, as Clearway answers its own."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from clearway import current_journey


class Problem(HTTPException):
    """A refusal.

    Args:
        status: Its HTTP status.
        detail: One sentence for the person who reads it.
        retry_after: Seconds after which the same request may succeed.
        members: What a program can act on: the line that is wrong, the id that exists.
    """

    def __init__(
        self, status: int, detail: str, *, retry_after: int | None = None, **members: str | int
    ) -> None:
        headers = None if retry_after is None else {"retry-after": str(retry_after)}
        super().__init__(status, detail, headers)
        self.members = members


async def answer(request: Request, error: HTTPException) -> JSONResponse:
    """Return the problem document for any HTTPException, Starlette's own 404 included."""
    members = error.members if isinstance(error, Problem) else {}
    return _document(error.status_code, error.detail, members, error.headers)


async def answer_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    """Return what is wrong with a request, without what was sent.

    FastAPI's own answer repeats the input: a password that was too long comes back and ends in
    somebody's log, and a lone surrogate makes the answer itself fail (measured: a 500).
    """
    errors = [{"at": list(fault["loc"]), "why": fault["msg"]} for fault in error.errors()]
    return _document(422, "the request is not valid", {"errors": errors})


def install(app: FastAPI) -> None:
    """Have an application answer its refusals as problem details."""
    app.exception_handler(HTTPException)(answer)
    app.exception_handler(RequestValidationError)(answer_invalid)


def _document(
    status: int,
    detail: str,
    members: Mapping[str, object],
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    journey = current_journey()
    content: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **members,
    }
    if journey is not None:
        content["request_id"] = journey.id
    return JSONResponse(content, status, headers, media_type="application/problem+json")
