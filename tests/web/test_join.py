"""Joining an app, and leaving it."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from clearway import Clearway, Settings
from clearway.errors import AlreadyStarted
from clearway.web.middleware import ClearwayMiddleware
from support.asgi import client_for, serving

pytestmark = pytest.mark.anyio


def test_after_the_start_it_is_too_late() -> None:
    """Clearway(app) after the first request says where it belongs."""
    app = FastAPI()
    TestClient(app).get("/")

    with pytest.raises(AlreadyStarted, match="before it serves a request"):
        Clearway(app, Settings())


async def test_the_last_of_two_clearways_counts() -> None:
    """A second line takes the place of the first: one layer, one id."""
    app = FastAPI()
    first = Clearway(app, Settings())
    second = Clearway(app, Settings())

    async with serving(app) as client:
        answer = await client.get("/nothing")

    assert len(answer.headers.get_list("x-request-id")) == 1
    assert first.lanes["requests"].snapshot().admitted == 0
    assert second.lanes["requests"].snapshot().admitted == 1


@pytest.mark.parametrize("value", ["off", "0", "OFF"])
async def test_switched_off_it_is_a_pass_through(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLEARWAY=off leaves the app as it was, even with a setting that cannot be read."""
    monkeypatch.setenv("CLEARWAY", value)
    monkeypatch.setenv("CLEARWAY_NONSENSE", "1")
    app = FastAPI()
    Clearway(app)

    async with client_for(app) as client:
        answer = await client.get("/livez")

    assert answer.status_code == 404
    assert "x-request-id" not in answer.headers
    assert not isinstance(app.middleware_stack, ClearwayMiddleware)
    assert "build_middleware_stack" not in vars(app)
