"""`clearway run`: a server with the right shutdown flags."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Annotated, Self

import typer
import uvicorn

from clearway.cli import discovery, failure, serve
from clearway.errors import StartError
from clearway.settings import Settings

_STOPPING = (signal.SIGTERM, signal.SIGINT)

App = Annotated[
    str | None,
    typer.Argument(
        help="module:attribute, module or path/file.py:attribute. Default: what pyproject.toml "
        "names, else main.py, app.py, api.py or app/main.py.",
        show_default=False,
    ),
]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(help="TCP port.", envvar="PORT", min=0, max=65_535)]
AppDir = Annotated[
    Path, typer.Option(help="Folder that modules and paths begin at.", file_okay=False, exists=True)
]
Factory = Annotated[bool, typer.Option("--factory", help="APP is a function that makes it.")]


def run(
    app: App = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    workers: Annotated[
        int, typer.Option(help="Server processes.", envvar="WEB_CONCURRENCY", min=1, max=512)
    ] = 1,
    reload: Annotated[
        bool, typer.Option("--reload", help="Start again when a file changes (development).")
    ] = False,
    factory: Factory = False,
    app_dir: AppDir = Path(),
) -> None:
    """Serve an application until SIGTERM or Ctrl-C, then finish its requests."""
    workers = 1 if reload else workers
    try:
        within = Settings().ops.shutdown_within
        found = discovery.locate(app, app_dir.resolve())
    except StartError as error:
        raise typer.Exit(failure.show(error)) from None
    code = serve.rehearse(found, factory=factory, apart=workers > 1)
    if code:
        raise typer.Exit(code)
    os.environ["WEB_CONCURRENCY"] = str(workers)  # each of them plans its connections by it
    serving = partial(
        uvicorn.run,
        serve.announce(found, factory=factory, reload=reload),
        factory=True,
        host=host,
        port=port,
        workers=workers,
        reload=reload,
        reload_dirs=[str(found.folder)] if reload else None,
        # With `auto` an application whose start-up failed would be served all the same.
        lifespan="on",
        # What is left of the time closes connections and writes the last lines.
        timeout_graceful_shutdown=int(within * 0.8),
    )
    raise typer.Exit(_exit_code(serving, workers=workers))


def _exit_code(serving: Callable[[], None], *, workers: int) -> int:
    """Serve until the end; return 0 if somebody asked for it, else 1."""
    with _StopSignals() as stop:
        try:
            serving()
        except SystemExit as end:
            return 0 if end.code in (None, 0) else 1
        # The supervisor of several workers returns in the same way after a signal as when no
        # worker could start, and keeps the signal to itself.
        return 0 if workers == 1 or stop.came() else 1


class _StopSignals:
    """Exit with 0 at SIGTERM and SIGINT, and know afterwards whether one came.

    uvicorn finishes its requests and then raises the signal again for whoever had it before:
    without us that would be the default, and a clean stop would look like a crash.
    """

    def __enter__(self) -> Self:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        # touchpoint: stop-signals
        self._before = {sig: signal.signal(sig, _leave) for sig in _STOPPING}
        # touchpoint: signal-wakeup. Sees a signal whoever handles it.
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        return self

    def came(self) -> bool:
        """Say whether a stop signal has arrived."""
        try:
            return not set(_STOPPING).isdisjoint(self._read.recv(4096))
        except BlockingIOError:
            return False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.set_wakeup_fd(-1)  # touchpoint: signal-wakeup
        for sig, handler in self._before.items():
            signal.signal(sig, handler)  # touchpoint: stop-signals
        self._read.close()
        self._write.close()


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)
