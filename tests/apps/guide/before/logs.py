"""structlog as its set-ups have it: JSON lines through `logging` to stdout."""

from __future__ import annotations

import logging
import sys

import structlog
from fastapi import FastAPI

logging.basicConfig(format="%(message)s", stream=sys.stdout, level=logging.INFO)
structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
    cache_logger_on_first_use=True,
)

app = FastAPI()
log = structlog.get_logger("shop")


@app.get("/orders/{number}")
async def order(number: int) -> int:
    """Log one line."""
    log.info("order read", number=number)
    return number


@app.get("/ping")
async def ping() -> str:
    """Log nothing."""
    return "pong"
