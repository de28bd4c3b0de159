"""What the recipes work with: CPU work, a mailer, a renderer, things to open once."""

from __future__ import annotations

import os
from pathlib import Path


def cpu_bound(n: int) -> int:
    """Add up numbers: one call in C, which keeps the GIL from its beginning to its end."""
    return sum(range(n))


def mark(text: str) -> None:
    """Append a line, by one write, to the file `MARKS`, where the test sees what was done."""
    fd = os.open(os.environ["MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{text}\n".encode())
    os.close(fd)


def gate() -> Path:
    """Return the file that opens the gate at which slow work waits."""
    return Path(os.environ["MARKS"] + ".gate")


class Client:
    """Something that is opened once and has to be closed, as a client of another service."""

    async def connect(self) -> None:
        """Open it."""
        mark("client opened")

    async def aclose(self) -> None:
        """Close it."""
        mark("client closed")


def load_model(path: str) -> str:
    """Read a model from a file."""
    return Path(path).read_text(encoding="utf-8")
