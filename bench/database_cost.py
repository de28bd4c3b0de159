"""What one request over the database costs: round trips and CPU."""

from __future__ import annotations

from functools import partial
from urllib.parse import urlsplit

import uvloop
from fastapi import FastAPI

from bench.database_sides import (
    ASYNCPG,
    OURS,
    PLAIN,
    PSYCOPG,
    RECIPE,
    ask,
    clearway,
    over_asyncpg,
    over_psycopg,
    recipe,
    running,
)
from bench.overhead import drive
from bench.rounds import Spread, in_turn, ratios
from bench.wire import wire_to

KINDS = ("core/read", "core/write", "orm/read", "orm/write")


def sides(url: str) -> dict[str, FastAPI]:
    """Return every side by its name."""
    return {
        RECIPE: recipe(url, pool_pre_ping=True),
        PLAIN: recipe(url, name=PLAIN),
        OURS: clearway(url),
        ASYNCPG: over_asyncpg(url),
        PSYCOPG: over_psycopg(url),
    }


async def trips(url: str, requests: int = 20) -> dict[str, dict[str, float]]:
    """Return round trips per request, by side and route."""
    server = urlsplit(url)
    assert server.hostname is not None
    assert server.port is not None
    found: dict[str, dict[str, float]] = {}
    async with wire_to(server.hostname, server.port) as wire:
        there = url.replace(f":{server.port}/", f":{wire.port}/")
        for name, app in sides(there).items():
            found[name] = {}
            async with running(app):
                for kind in kinds_of(name):
                    for _ in range(10):  # connects, prepares
                        assert await ask(app, f"/{kind}") == 200, (name, kind)
                    before = wire.trips
                    for _ in range(requests):
                        await ask(app, f"/{kind}")
                    found[name][kind] = (wire.trips - before) / requests
    return found


def kinds_of(name: str) -> tuple[str, ...]:
    """Return the routes that a side has."""
    return KINDS[:2] if name in (ASYNCPG, PSYCOPG) else KINDS


def show_trips(url: str, rounds: int) -> None:
    """Print round trips per request."""
    found = uvloop.run(trips(url))
    print(f"{'round trips per request':24}" + "".join(f"{kind:>12}" for kind in KINDS))
    for name, by_kind in found.items():
        cells = (f"{by_kind[kind]:12.1f}" if kind in by_kind else "" for kind in KINDS)
        print(f"{name:24}" + "".join(cells))
    print("goal: 1 to read, 3 to write")


async def cpu(url: str, rounds: int, requests: int = 200) -> dict[str, dict[str, list[float]]]:
    """Return microseconds of CPU per request, by route and side, round by round."""
    apps = sides(url)
    found = {}
    async with running(*apps.values()):
        for kind in KINDS:
            calls = {
                name: partial(drive, app, requests, f"/{kind}")
                for name, app in apps.items()
                if kind in kinds_of(name)
            }
            await in_turn(calls, 1)  # every side is warm after this
            found[kind] = await in_turn(calls, rounds)
    return found


def show_cpu(url: str, rounds: int) -> None:
    """Print CPU per request, and its ratio to the recipe."""
    found = uvloop.run(cpu(url, rounds))
    print(f"{'CPU per request':16}{'':14}{'us (median)':>12}{'x recipe':>10}   (lowest - highest)")
    for kind, figures in found.items():
        for name, ratio in ratios(figures, RECIPE).items():
            print(
                f"{kind:16}{name:14}{Spread.of(figures[name]).median:12.0f}{ratio.median:10.2f}"
                f"   ({ratio.low:.2f} - {ratio.high:.2f})"
            )
    print("goal: read 0.75 and write 0.85 of the recipe, then 0.55 and 0.75")
