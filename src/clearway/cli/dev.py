"""`clearway dev`: a server that reloads, and a database if there is none."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.panel import Panel

from clearway.cli import failure
from clearway.cli.run import App, AppDir, Factory, Host, Port
from clearway.dev.child import spawn
from clearway.errors import StartError

if TYPE_CHECKING:
    from clearway.dev.postgres import EmbeddedPostgres

_DATA = Path(".clearway/postgres")
_URL_NAMES = ("DATABASE_URL", "CLEARWAY_DATABASE__URL")

# Ctrl-C on a terminal reaches the server as well as us; `kill` reaches only us. So the server
# has this long to have noticed by itself. A SIGTERM *before* the terminal's SIGINT would make
# that the second signal, and uvicorn then skips the application's own shutdown.
_NOTICE = 0.5
_SHUTDOWN_WITHIN = 5.0


def dev(
    app: App = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    reload: Annotated[
        bool, typer.Option("--reload/--no-reload", help="Start again when a file changes.")
    ] = True,
    db: Annotated[
        bool,
        typer.Option("--db/--no-db", help="Start PostgreSQL where DATABASE_URL is not set."),
    ] = True,
    factory: Factory = False,
    app_dir: AppDir = Path(),
) -> None:
    """Serve an application on this machine, with reload and a PostgreSQL of its own."""
    needs_database = db and not any(os.environ.get(name) for name in _URL_NAMES)
    arguments = [str(app)] if app else []
    arguments += ["--host", host, "--port", str(port), "--app-dir", str(app_dir)]
    arguments += ["--reload"] * reload + ["--factory"] * factory
    try:
        with _StopAsInterrupt(), _database() if needs_database else nullcontext() as server:
            _announce(f"http://{_shown(host)}:{port}", server)
            code = _run_server(arguments, _environment(server))
    except KeyboardInterrupt:  # while the database was starting
        code = 0
    except StartError as error:
        code = failure.show(error)
    raise typer.Exit(code)


@contextmanager
def _database() -> Iterator[EmbeddedPostgres]:
    from clearway.dev.postgres import EmbeddedPostgres

    with EmbeddedPostgres(_DATA) as server:
        ignored = _DATA.parent / ".gitignore"
        if not ignored.exists():
            ignored.write_text("*\n", encoding="ascii")
        yield server


def _environment(server: EmbeddedPostgres | None) -> dict[str, str]:
    env = {"CLEARWAY_OPS__SHUTDOWN_WITHIN": str(_SHUTDOWN_WITHIN), **os.environ}
    if server is not None:
        env["DATABASE_URL"] = server.url
    return env | {"FASTAPI_ENV": "development"}


def _run_server(arguments: list[str], env: dict[str, str]) -> int:
    command = [sys.executable, "-m", "clearway", "run", *arguments]
    process = spawn(command, env=env, death_signal=signal.SIGKILL)
    try:
        return 1 if process.wait() else 0
    except KeyboardInterrupt:
        _end(process)
        return 0


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        for number, patience in (
            (None, _NOTICE), (signal.SIGTERM, _SHUTDOWN_WITHIN + 2), (signal.SIGKILL, 2.0)
        ):  # fmt: skip
            if number is not None:
                process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)
                return
    except KeyboardInterrupt:  # a second Ctrl-C: no more patience
        process.kill()


def _announce(url: str, server: EmbeddedPostgres | None) -> None:
    """Print where to look: a panel on a terminal, plain lines elsewhere."""
    rows = [("service", url), ("docs", f"{url}/docs")]
    if server is not None:
        psql = shutil.which("psql") or str(server.psql)
        address = f"-h 127.0.0.1 -p {server.port} -U postgres"
        rows += [
            ("database", f"postgresql://postgres@127.0.0.1:{server.port}/postgres"),
            ("psql", f"PGPASSFILE={server.password_file} {psql} {address}"),
            ("data", f"{server.folder} (to begin with an empty database: rm -rf it)"),
        ]
    text = "\n".join(f"{name:<9} {value}" for name, value in rows)
    console = Console(highlight=False, soft_wrap=True)
    console.print(Panel(text, title="clearway dev", expand=False) if console.is_terminal else text)
    console.file.flush()


def _shown(host: str) -> str:
    if host in {"0.0.0.0", "::", ""}:  # noqa: S104 - compared, not listened on
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


class _StopAsInterrupt:
    """Take SIGTERM for a Ctrl-C, so that both stop everything in the same order."""

    def __enter__(self) -> None:
        # SIGINT as well: a shell that starts us in the background has told us to ignore it.
        # touchpoint: dev-stop-signals
        self._before = {
            number: signal.signal(number, signal.default_int_handler)
            for number in (signal.SIGINT, signal.SIGTERM)
        }

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # touchpoint: dev-stop-signals
