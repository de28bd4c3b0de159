"""Route templates, through every way in which an app can be nested."""

from __future__ import annotations

import pytest
from fastapi import APIRouter, FastAPI

from clearway import Clearway, Settings, current_journey
from support.asgi import serving

pytestmark = pytest.mark.anyio


async def test_the_template_holds_prefixes_of_routers_and_mounts() -> None:
    """The route is the whole template, and None where nothing matched."""
    app, sub = FastAPI(), FastAPI()
    inner, outer = APIRouter(prefix="/inner"), APIRouter(prefix="/outer")

    async def route(id: str) -> str | None:
        journey = current_journey()
        return journey.route if journey else None

    app.get("/plain/{id}")(route)
    inner.get("/{id}")(route)
    outer.include_router(inner, prefix="/mid")
    app.include_router(outer, prefix="/v1")
    sub.get("/items/{id}")(route)
    app.mount("/sub", sub)
    Clearway(app, Settings())

    async with serving(app) as client:
        found = [
            (await client.get(path)).json()
            for path in ("/plain/1", "/v1/outer/mid/inner/2", "/sub/items/3")
        ]

    assert found == ["/plain/{id}", "/v1/outer/mid/inner/{id}", "/sub/items/{id}"]
