"""Recipe 1, `run_in_executor(ThreadPoolExecutor(8), cpu_bound)`, and who is answered meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx2
import pytest

from support.guide import Recipe, observed
from support.process import Service

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

RECIPE = Recipe("executor")
CALCULATE = "/calculate/100000000"
"""About a second in one call of C."""


@asynccontextmanager
async def client_of(service: Service) -> AsyncIterator[httpx2.AsyncClient]:
    """Give a client that waits longer than any calculation takes."""
    async with httpx2.AsyncClient(base_url=service.url, timeout=55) as client:
        await client.get("/calculate/1")  # what is started at the first use is started
        yield client


@dataclass(frozen=True)
class Calculation:
    """One calculation as its client saw it.

    Attributes:
        lasted: Seconds from the request to its answer.
        meanwhile: Other requests that were answered in the middle half of that time.
        timing: The answer's Server-Timing.
    """

    lasted: float
    meanwhile: int
    timing: str


async def calculation(client: httpx2.AsyncClient) -> Calculation:
    """Have one calculated, and ask for something else all the while."""
    answered: list[float] = []
    begun = time.monotonic()
    request = asyncio.create_task(client.get(CALCULATE))
    while not request.done():
        assert (await client.get("/ping")).json() == "pong"
        answered.append(time.monotonic())
        await asyncio.sleep(0.005)
    lasted = time.monotonic() - begun
    answer = await request
    assert answer.json() == {"result": 4_999_999_950_000_000}
    middle = (begun + lasted / 4, begun + lasted * 3 / 4)
    meanwhile = sum(middle[0] < moment < middle[1] for moment in answered)
    return Calculation(lasted, meanwhile, answer.headers.get("server-timing", ""))


async def test_the_recipe_stops_everybody_while_a_thread_computes() -> None:
    """One thread of eight computes in a call that keeps the GIL: nobody else has an answer."""
    with RECIPE.served("before") as service:
        async with client_of(service) as client:
            assert (await calculation(client)).meanwhile == 0


async def test_the_line_alone_says_how_long_the_request_took() -> None:
    """Nothing is different but the id; Server-Timing and the lane have the request's time."""
    observed(RECIPE, "GET /calculate/10", "GET /ping", "GET /calculate/x")

    with RECIPE.served("observed", FASTAPI_ENV="development") as service:
        async with client_of(service) as client:
            seen = await calculation(client)
            lane = (await client.get("/lanes")).json()["requests"]
    assert seen.meanwhile == 0, "it looks on, and changes nothing"
    total = float(seen.timing.removeprefix("total;dur=")) / 1000
    assert seen.lasted / 2 < total <= seen.lasted
    assert seen.lasted / 2 < lane["longest_hold"] <= seen.lasted


async def test_with_offload_everybody_is_answered_meanwhile() -> None:
    """The same function in a process: pings go on; beyond its time it is killed, a 504."""
    with RECIPE.served("after") as service:
        async with client_of(service) as client:
            assert (await calculation(client)).meanwhile >= 3
            late = await client.get("/calculate/1000000000000", params={"within": 0.2})
            assert (late.status_code, late.json()["code"]) == (504, "CW401")
            assert (await client.get("/calculate/4")).json() == {"result": 6}
