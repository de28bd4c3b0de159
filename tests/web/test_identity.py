"""Request ids: the caller's if it is harmless, ours otherwise."""

from __future__ import annotations

import re

import pytest
from fastapi import FastAPI, Response

from clearway import Clearway, Settings, current_journey
from clearway.web.identity import accepted_id
from support.asgi import serving

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("value", ["a", "req-1", "01J9:abc/def_0.1=", "x" * 128])
def test_a_harmless_id_is_accepted(value: str) -> None:
    """Ids of the usual alphabets, up to 128 characters, are taken over."""
    assert accepted_id([(b"x-request-id", value.encode())], b"x-request-id") == value


@pytest.mark.parametrize(
    "value",
    [b"", b"x" * 129, b"a b", b'a"b', b"a\nINFO forged line", b"a\r\nSet-Cookie: x=1", b"\xff\xfe",
     b"<script>", b"'; drop table--", b"${jndi:ldap}", b"\x1b[2J", "é".encode()],
)  # fmt: skip
def test_a_hostile_or_long_id_is_not(value: bytes) -> None:
    """What could break a line, a header, a page or a statement is replaced, not repaired."""
    assert accepted_id([(b"x-request-id", value)], b"x-request-id") is None


async def test_the_id_is_in_the_answer_and_in_the_journey() -> None:
    """The caller's id comes back; without one the answer has an id of ours."""
    app = FastAPI()
    Clearway(app, Settings())

    @app.get("/")
    async def read() -> str | None:
        journey = current_journey()
        return journey.id if journey else None

    async with serving(app) as client:
        theirs = await client.get("/", headers={"X-Request-ID": "abc-123"})
        ours = await client.get("/", headers={"X-Request-ID": "x" * 300})

    assert theirs.headers["x-request-id"] == theirs.json() == "abc-123"
    assert re.fullmatch(r"[0-9a-f]{32}", ours.headers["x-request-id"])
    assert ours.json() == ours.headers["x-request-id"]


async def test_an_id_that_the_app_sets_itself_is_left_alone() -> None:
    """An app with a correlation-id middleware of its own keeps its header, once."""
    app = FastAPI()
    Clearway(app, Settings())

    @app.get("/")
    async def read(response: Response) -> None:
        response.headers["X-Request-ID"] = "the app's"

    async with serving(app) as client:
        answer = await client.get("/")

    assert answer.headers.get_list("x-request-id") == ["the app's"]


async def test_the_header_can_have_another_name() -> None:
    """`request.id_header` names the header for both directions."""
    app = FastAPI()
    Clearway(app, Settings.model_validate({"request": {"id_header": "X-Correlation-ID"}}))

    async with serving(app) as client:
        answer = await client.get("/", headers={"X-Correlation-ID": "one"})

    assert answer.headers["x-correlation-id"] == "one"
    assert "x-request-id" not in answer.headers
