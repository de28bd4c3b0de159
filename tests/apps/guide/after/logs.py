"""The same calls with our logger; there is nothing to configure."""

from __future__ import annotations

from fastapi import FastAPI

from clearway import Clearway, get_logger

app = FastAPI()
road = Clearway(app)
log = get_logger("shop")


@app.get("/orders/{number}")
async def order(number: int) -> int:
    """Log one line."""
    log.info("order read", number=number)
    return number


@app.get("/ping")
async def ping() -> str:
    """Log nothing."""
    return "pong"
