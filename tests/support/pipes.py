"""Real pipes whose reader does what the test says, and real child processes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

FILLER = b"#" * 4095 + b"\n"


class Pipe:
    """A pipe that nobody reads unless the test does."""

    def __init__(self, ends: tuple[int, int] | None = None) -> None:
        self.reader, self.writer = ends or os.pipe()
        os.set_blocking(self.reader, False)
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for fd in (self.reader, self.writer):
            with contextlib.suppress(OSError):
                os.close(fd)

    def fill(self) -> None:
        """Write filler until the pipe takes nothing more."""
        with contextlib.suppress(BlockingIOError):
            while True:
                os.pwritev(self.writer, [FILLER], -1, os.RWF_NOWAIT)

    def flags(self) -> int:
        """Return the status flags of the writing end."""
        return fcntl.fcntl(self.writer, fcntl.F_GETFL)

    def lines(self) -> list[bytes]:
        """Read what is there, and return its whole lines without the filler."""
        data = self._rest
        with contextlib.suppress(BlockingIOError, OSError):
            while chunk := os.read(self.reader, 65_536):
                data += chunk
        *whole, self._rest = data.split(b"\n")
        return [line.rstrip(b"\r") for line in whole if not line.startswith(b"#")]

    def wait_for(self, count: int, within: float = 15) -> list[bytes]:
        """Read until `count` lines have come, or for `within` seconds."""
        lines: list[bytes] = []
        until = time.monotonic() + within
        while len(lines) < count and time.monotonic() < until:
            select.select([self.reader], [], [], 0.05)
            lines += self.lines()
        return lines


def eventually(holds: Callable[[], bool], within: float = 15) -> bool:
    """Say whether something comes to hold within the time, in seconds."""
    until = time.monotonic() + within
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


def run_child(code: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run Python source in a child process, and return its output and exit code."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=30,
        **options,
    )


def events(output: bytes) -> list[dict[str, Any]]:
    """Return the lines of an output, each of which must be JSON."""
    return [json.loads(line) for line in output.splitlines()]
