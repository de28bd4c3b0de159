"""Ask what the layer costs a bare `async def` endpoint, in CPU per request.

The app is driven in this process on uvloop, one request after the other, without a socket: what
is left is the framework and us. Sides: the bare app, the app with the one line, and the app
with logs taken over and an access line for each request to /dev/null.

    python -m bench.overhead [--rounds 25] [--requests 2000] [--check]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable

import uvloop
from fastapi import FastAPI
from starlette.types import ASGIApp, Message

from bench.rounds import Spread, interleaved, machine, ratios
from clearway import Clearway, Settings

GOAL = 1.25
SCOPE = {
    "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
    "scheme": "http", "path": "/", "raw_path": b"/", "query_string": b"", "root_path": "",
    "headers": [(b"host", b"bench"), (b"user-agent", b"bench/1"), (b"accept", b"*/*")],
    "client": ("127.0.0.1", 1234), "server": ("127.0.0.1", 80),
}  # fmt: skip


def app_of(settings: Settings | None) -> FastAPI:
    """Return the app, with the line if there are settings for it."""
    app = FastAPI()

    @app.get("/")
    async def read() -> dict[str, str]:
        return {"hello": "world"}

    if settings is not None:
        Clearway(app, settings)
    return app


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: Message) -> None:
    assert message["type"] != "http.response.start" or message["status"] == 200


async def drive(app: ASGIApp, requests: int, path: str = "/") -> float:
    """Return the CPU time of one request, in microseconds."""
    scope = {**SCOPE, "path": path, "raw_path": path.encode()}
    begun = time.process_time()
    for _ in range(requests):
        await app({**scope, "state": {}}, _receive, _send)
    return 1e6 * (time.process_time() - begun) / requests


async def run_lifespan(app: ASGIApp, started: asyncio.Event, stop: asyncio.Event) -> None:
    """Run an app's lifespan: set `started` when it is up, end it when `stop` is set."""

    async def receive() -> Message:
        if not started.is_set():
            return {"type": "lifespan.startup"}
        await stop.wait()
        return {"type": "lifespan.shutdown"}

    async def send(message: Message) -> None:
        started.set()

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)


def measure(rounds: int, requests: int) -> dict[str, list[float]]:
    """Return microseconds of CPU per request for each side, round by round."""
    quiet = {"ops": {"server_timing": False}}
    logged = {**quiet, "logs": {"take_over": "on", "target": os.devnull, "format": "json"}}
    sides = {
        "bare": app_of(None),
        "the line": app_of(Settings.model_validate(quiet)),
        "the line, access log": app_of(Settings.model_validate(logged)),
    }
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stop = asyncio.Event()

        async def start() -> list[asyncio.Task[None]]:
            tasks = []
            for app in sides.values():
                started = asyncio.Event()
                tasks.append(asyncio.create_task(run_lifespan(app, started, stop)))
                await started.wait()
            return tasks

        async def end(tasks: list[asyncio.Task[None]]) -> None:
            stop.set()
            await asyncio.gather(*tasks)

        def side(app: FastAPI) -> Callable[[], float]:
            return lambda: runner.run(drive(app, requests))

        tasks = runner.run(start())
        calls = {name: side(app) for name, app in sides.items()}
        interleaved(calls, 2)  # warms caches of every side
        figures = interleaved(calls, rounds)
        runner.run(end(tasks))
    return figures


def main() -> int:
    """Print the table; with --check, exit 1 above the goal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--check", action="store_true", help=f"fail above {GOAL}x")
    options = parser.parse_args()
    figures = measure(options.rounds, options.requests)
    against = ratios(figures, "bare")
    print(f"CPU per request; {options.rounds} rounds of {options.requests}; {machine()}")
    print(f"{'':24}{'us (median)':>12}{'ratio':>8}   (lowest - highest)")
    for name, values in figures.items():
        ratio = against[name]
        print(
            f"{name:24}{Spread.of(values).median:12.1f}{ratio.median:8.2f}"
            f"   ({ratio.low:.2f} - {ratio.high:.2f})"
        )
    worst = max(ratio.median for ratio in against.values())
    print(f"goal: at most {GOAL}x; reached: {'yes' if worst <= GOAL else 'no'}")
    return int(options.check and worst > GOAL)


if __name__ == "__main__":
    sys.exit(main())
