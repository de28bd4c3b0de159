"""The process of a worker that has the application: `clearway worker` starts it.

python -m clearway.cli.carry MODULE ATTRIBUTE FOLDER FACTORY FD LIFELINE PARENT
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.types import ASGIApp, Message

from clearway.app import Clearway
from clearway.cli import discovery, failure
from clearway.cli.discovery import Found
from clearway.errors import AppNotFound, StartError
from clearway.jobs.worker.channel import Channel
from clearway.offload.lifeline import die_with, leave_stopping_to_the_parent
from clearway.web.join import road_of


def main(arguments: list[str]) -> int:
    """Run an application and its jobs until the channel ends; return the exit code."""
    module, attribute, folder, factory = arguments[:4]
    fd, lifeline, parent = map(int, arguments[4:])
    for inherited in (fd, lifeline):
        os.set_inheritable(inherited, False)
    die_with(lifeline, parent)
    leave_stopping_to_the_parent()
    found = Found(module, attribute or None, Path(folder))
    try:
        app = discovery.load(found, factory=bool(factory))
        app = app() if factory and callable(app) else app
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(_carry(app, socket.socket(fileno=fd)))
    except Exception as error:  # noqa: BLE001 - the app's code may raise anything; it is shown
        return failure.show(error)
    return 0


async def _carry(app: object, sock: socket.socket) -> None:
    road = road_of(app)
    if not isinstance(road, Clearway):
        raise AppNotFound(
            "the application has no Clearway, whose jobs a worker could run",
            fix="road = Clearway(app), where the app is made",
        )
    for module in road.settings.jobs.modules:
        importlib.import_module(module)
    async with _lifespan(road.app):
        manifest, slots = await road.carry()
        channel = await Channel.over(sock)
        channel.send(manifest.to_json())
        await slots.serve(channel)
        channel.close()


@contextlib.asynccontextmanager
async def _lifespan(app: ASGIApp) -> AsyncIterator[None]:
    """Run an application's lifespan as a server does."""
    to_app: asyncio.Queue[Message] = asyncio.Queue()
    from_app: asyncio.Queue[Message] = asyncio.Queue()

    async def tell(phase: str) -> None:
        await to_app.put({"type": f"lifespan.{phase}"})
        answer = await from_app.get()
        if answer["type"] != f"lifespan.{phase}.complete":
            raise _Refused(answer.get("message", ""))

    async def run() -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
        try:
            await app(scope, to_app.get, from_app.put)
        except Exception as error:  # noqa: BLE001 - told to whoever waits for an answer
            await from_app.put({"type": "lifespan.raised", "message": repr(error)})

    task = asyncio.create_task(run(), name="lifespan")
    try:
        await tell("startup")
        try:
            yield
        finally:
            await tell("shutdown")
    finally:
        await task


class _Refused(StartError):
    """The application's own start-up or shutdown failed; the message is all there is to say."""

    def __str__(self) -> str:
        return self.what.strip()


def _new_loop() -> asyncio.AbstractEventLoop:
    """Return the loop that a server would use: uvloop's where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
