"""The studio as a process of its own, owned by whoever started it."""

from __future__ import annotations

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
    """The service did not come up."""


class Service:
    """A server that dies with this process, kill -9 included.

    Args:
        database_url: A database that has been migrated.
        port: TCP port on 127.0.0.1.
        output: Takes stdout and stderr; None leaves both to the terminal.
        env: Variables to add to this process's own.
    """

    def __init__(
        self,
        database_url: str,
        port: int,
        *,
        output: IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.url = f"http://{_HOST}:{port}"
        self._command = [
            sys.executable, "-m", "clearway", "run", "studio.main:app",
            "--app-dir", str(_EXAMPLES), "--host", _HOST, "--port", str(port),
        ]  # fmt: skip
        self._env = _environment(database_url) | dict(env or {})
        self._output = output
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it is ready.

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
        while not _ready(self.url):
            if self._process.poll() is not None or time.monotonic() > patience:
                self.stop()
                raise ServiceFailed(f"the service was not ready; its exit code: {self.code}")
            time.sleep(0.05)

    @property
    def code(self) -> int | None:
        """Return the exit code; None while the server runs."""
        return None if self._process is None else self._process.returncode

    def wait(self) -> int:
        """Wait until the server ends by itself and return its exit code."""
        assert self._process is not None
        return self._process.wait()

    def stop(self) -> None:
        """Let the server finish its requests; kill it if that takes over 7 seconds."""
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


def _environment(database_url: str) -> dict[str, str]:
    # Whatever database this machine knows of, the demo is not for it.
    inherited = {k: v for k, v in os.environ.items() if k != "CLEARWAY_DATABASE__URL"}
    defaults = {
        "CLEARWAY_SERVICE__NAME": "studio",
        "CLEARWAY_OPS__SHUTDOWN_WITHIN": str(_SHUTDOWN_WITHIN),
        "FASTAPI_ENV": "development",
    }
    ours = {"DATABASE_URL": database_url, "STUDIO_DEMO_USER": "true"}
    return defaults | inherited | ours


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:  # noqa: S310 - our own URL, http
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
