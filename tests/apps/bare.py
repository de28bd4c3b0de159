"""An app as people have it, which logs by `logging` and prints; `observed` adds the one line."""

from __future__ import annotations

import logging

from fastapi import FastAPI, HTTPException

log = logging.getLogger("shop")


def build() -> FastAPI:
    """Return the app without Clearway."""
    app = FastAPI()

    @app.get("/")
    async def read() -> dict[str, str]:
        log.warning("a warning from the app")
        print("a print from the app")
        return {"hello": "world"}

    @app.get("/missing")
    async def missing() -> None:
        raise HTTPException(404)

    @app.get("/crash")
    async def crash() -> None:
        raise RuntimeError("boom")

    return app


app = build()
