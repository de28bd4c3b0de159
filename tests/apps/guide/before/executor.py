"""CPU work in a pool of threads, so that the loop stays free."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from fastapi import FastAPI

from apps.guide.work import cpu_bound

app = FastAPI()
executor = ThreadPoolExecutor(max_workers=8)


@app.get("/calculate/{n}")
async def calculate(n: int) -> dict[str, int]:
    """Calculate beside the loop."""
    loop = asyncio.get_running_loop()
    return {"result": await loop.run_in_executor(executor, cpu_bound, n)}


@app.get("/ping")
async def ping() -> str:
    """Answer at once."""
    return "pong"
