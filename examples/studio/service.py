"""The studio as processes of its own, server and worker, owned by whoever started them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from clearway.dev.child import spawn

_HOST = "127.0.0.1"
_START_WITHIN = 30.0
_SHUTDOWN_WITHIN = 5.0
_EXAMPLES = Path(__file__).parents[1]


class ServiceFailed(RuntimeError):
    """A process did not come up."""


class Process:
    """A `clearway` command on the studio that dies with this process, kill -9 included.

    Args:
        command: `run` or `worker`.
        options: Its own options.
        database_url: A database that has been migrated.
        output: Takes stdout and stderr; None leaves both to the terminal.
        env: Variables to add to this process's own.
    """

    def __init__(
        self,
        command: str,
        *options: str,
        database_url: str,
        output: IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = command
        self._command = [
            sys.executable, "-m", "clearway", command, "studio.main:app",
            "--app-dir", str(_EXAMPLES), *options,
        ]  # fmt: skip
        self._env = environment(database_url) | dict(env or {})
        self._output = output
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it is ready.

        Raises:
            ServiceFailed: It ended, or was not ready within 30 seconds.
        """
        # A session of its own: Ctrl-C reaches only us, and we stop service and database in order.
        self._process = spawn(
            self._command,
            death_signal=signal.SIGKILL,
            env=self._env,
            output=self._output,
            new_session=True,
        )
        patience = time.monotonic() + _START_WITHIN
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > patience:
                self.stop()
                raise ServiceFailed(
                    f"`clearway {self.name}` was not ready; its exit code: {self.code}"
                )
            time.sleep(0.05)

    def ready(self) -> bool:
        """Say whether it does its work."""
        return True

    @property
    def code(self) -> int | None:
        """Return the exit code; None while it runs."""
        return None if self._process is None else self._process.poll()

    def stop(self) -> None:
        """Let it finish its requests or jobs; kill it if that takes over 7 seconds."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_SHUTDOWN_WITHIN + 2)
        finally:  # a second Ctrl-C comes through here as well
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class Service(Process):
    """The studio's server; see `Process`.

    Args:
        database_url: A database that has been migrated.
        port: TCP port on 127.0.0.1.
        output: As for `Process`.
        env: As for `Process`.
    """

    def __init__(
        self,
        database_url: str,
        port: int,
        *,
        output: IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        where = ("--host", _HOST, "--port", str(port))
        super().__init__("run", *where, database_url=database_url, output=output, env=env)
        self.url = f"http://{_HOST}:{port}"

    def ready(self) -> bool:
        """Say whether it answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as answer:  # noqa: S310 - our own URL, http
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def worker(
    database_url: str,
    *,
    output: IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
) -> Process:
    """Return the studio's worker. It is not waited for: what it is to do waits for it."""
    return Process("worker", database_url=database_url, output=output, env=env)


async def command(
    *arguments: str, database_url: str, env: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run a `clearway` command on the studio's database; return its exit code and its output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "clearway", *arguments,
        env=environment(database_url) | dict(env or {}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode or 0, output.decode()


def free_port(preferred: int = 0) -> int:
    """Return a TCP port of 127.0.0.1 that is free: the preferred one if possible."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, preferred))
        except OSError:
            probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def environment(database_url: str) -> dict[str, str]:
    """Return the variables of every `clearway` command on the studio's database."""
    # Whatever database this machine knows of, the demo is not for it.
    inherited = {k: v for k, v in os.environ.items() if k != "CLEARWAY_DATABASE__URL"}
    defaults = {
        "CLEARWAY_SERVICE__NAME": "studio",
        "CLEARWAY_OPS__SHUTDOWN_WITHIN": str(_SHUTDOWN_WITHIN),
        "FASTAPI_ENV": "development",
    }
    ours = {"DATABASE_URL": database_url, "STUDIO_DEMO_USER": "true"}
    return defaults | inherited | ours
