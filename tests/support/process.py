"""Real uvicorn processes that a test owns and stops by their id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx2
import psutil

TESTS = Path(__file__).parent.parent


class Service:
    """A running service.

    Attributes:
        url: Where it listens.
        process: The process that was started.
    """

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self.process = process
        self.url = url

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def wait_until_ready(self, seconds: float = 20.0) -> None:
        """Wait until it answers `/livez`, bounded."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(f"the service ended with {self.process.returncode}")
            try:
                httpx2.get(self.url + "/livez", timeout=1)
            except httpx2.TransportError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError("the service did not come up")

    def stop(self, sign: int = signal.SIGTERM, seconds: float = 20.0) -> int:
        """Send a signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sign)
        return self.process.wait(seconds)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def workers() -> list[psutil.Process]:
    """Return the worker processes of this process; a run may have other children."""
    children = psutil.Process().children()
    return [child for child in children if any("boot.py" in word for word in child.cmdline())]


@contextmanager
def uvicorn(
    app: str,
    *options: str,
    env: Mapping[str, str] | None = None,
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
) -> Iterator[Service]:
    """Serve `module:app` (importable from `tests/`) by `python -m uvicorn`."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", app, "--port", str(port), *options]
    environ = {**os.environ, "PYTHONPATH": str(TESTS), "PYTHONUNBUFFERED": "1", **(env or {})}
    process = subprocess.Popen(command, env=environ, stdout=stdout, stderr=stderr, cwd=TESTS)
    service = Service(process, f"http://127.0.0.1:{port}")
    try:
        service.wait_until_ready()
        yield service
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
