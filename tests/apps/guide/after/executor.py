"""CPU work in another process."""

from __future__ import annotations

from fastapi import FastAPI

from apps.guide.work import cpu_bound
from clearway import Clearway, offload

app = FastAPI()
road = Clearway(app)


@app.get("/calculate/{n}")
async def calculate(n: int, within: float = 60) -> dict[str, int]:
    """Calculate beside the loop, and not beyond the time."""
    return {"result": await offload.process(cpu_bound, n, timeout=within)}


@app.get("/ping")
async def ping() -> str:
    """Answer at once."""
    return "pong"
