"""Probes: answered by us only where the app does not."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from starlette.responses import PlainTextResponse

from clearway import Clearway, Settings
from support.asgi import client_for, serving

pytestmark = pytest.mark.anyio


async def test_the_probes_answer() -> None:
    """Live and ready while the lifespan runs; HEAD has no body; `?verbose` lists the checks."""
    app = FastAPI()
    Clearway(app, Settings())

    async with serving(app) as client:
        live, ready = await client.get("/livez"), await client.get("/readyz")
        head = await client.head("/readyz")
        verbose = await client.get("/readyz?verbose")

    assert [(r.status_code, r.text) for r in (live, ready)] == [(200, "ok\n")] * 2
    assert (head.status_code, head.text) == (200, "")
    assert verbose.text == "[+]lifespan\n"


async def test_not_ready_before_the_start_and_after_the_end() -> None:
    """Without a running lifespan the process lives and is not ready, and says what is missing."""
    app = FastAPI()
    Clearway(app, Settings())

    async with client_for(app) as client:
        live, ready = await client.get("/livez"), await client.get("/readyz")

    assert live.status_code == 200
    assert (ready.status_code, ready.text) == (503, "[-]lifespan\n")


@pytest.mark.parametrize("kind", ["route", "catch-all", "mount"])
async def test_the_apps_own_route_wins(kind: str) -> None:
    """A route of that path, a catch-all and a mount at the root are the app's answer."""
    app = FastAPI()
    Clearway(app, Settings())

    async def own() -> str:
        return "the app's"

    if kind == "route":
        app.get("/livez")(own)
    elif kind == "catch-all":
        app.get("/{path:path}")(own)
    else:
        app.mount("/", PlainTextResponse("the app's"))

    async with serving(app) as client:
        assert "the app's" in (await client.get("/livez")).text


async def test_the_probes_can_be_switched_off() -> None:
    """`ops.probes` off leaves the app's 404."""
    app = FastAPI()
    Clearway(app, Settings.model_validate({"ops": {"probes": False}}))

    async with serving(app) as client:
        assert (await client.get("/livez")).status_code == 404


async def test_other_methods_are_the_apps_business() -> None:
    """A POST to a probe's path is a 404 of the app."""
    app = FastAPI()
    Clearway(app, Settings())

    async with serving(app) as client:
        assert (await client.post("/livez")).status_code == 404
