"""`clearway worker`: run an application's jobs."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from clearway.cli import discovery, failure
from clearway.cli.discovery import Found
from clearway.cli.run import App, AppDir, Factory
from clearway.errors import StartError


def worker(
    app: App = None,
    queues: Annotated[
        str | None,
        typer.Option(
            help="Queues to serve, separated by commas. Default: all.",
            envvar="CLEARWAY_JOBS__QUEUES",
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            help="Most jobs at one time, beside those in processes. Default: 20.",
            envvar="CLEARWAY_JOBS__CONCURRENCY",
            min=1,
        ),
    ] = None,
    factory: Factory = False,
    app_dir: AppDir = Path(),
) -> None:
    """Run an application's jobs until SIGTERM or Ctrl-C, then finish what has begun."""
    from clearway.jobs.worker.run import work  # not above: it needs packages that `run` does not

    # To the process with the application, whose settings count.
    if queues is not None:
        os.environ["CLEARWAY_JOBS__QUEUES"] = queues
    if concurrency is not None:
        os.environ["CLEARWAY_JOBS__CONCURRENCY"] = str(concurrency)
    try:
        found = discovery.locate(app, app_dir.resolve())
    except StartError as error:
        raise typer.Exit(failure.show(error)) from None
    raise typer.Exit(asyncio.run(work(_command(found, factory=factory))))


def _command(found: Found, *, factory: bool) -> list[str]:
    """Return the command that starts the process with the application."""
    place = (found.module, found.attribute or "", str(found.folder), "factory" if factory else "")
    return [sys.executable, "-m", "clearway.cli.carry", *place]
