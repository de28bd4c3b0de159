"""Run the command line as its users do: as a process in a project's folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

APP = """
import os
from fastapi import FastAPI
app = FastAPI()

@app.get("/")
def read():
    return {"env": os.environ.get("FASTAPI_ENV"), "db": os.environ.get("DATABASE_URL"), "v": 1}
"""

_NOT_INHERITED = ("CLEARWAY", "DATABASE_URL", "FASTAPI_ENV", "PORT", "WEB_CONCURRENCY")


def environment(**extra: str) -> dict[str, str]:
    """Return this environment without what would change a service, and with `extra`."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(_NOT_INHERITED)}
    return clean | extra


def command(*arguments: str) -> list[str]:
    """Return the command line for these arguments."""
    return [sys.executable, "-m", "clearway", *arguments]


def clearway(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command(*arguments),
        cwd=cwd, env=environment(**env), capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip


@contextmanager
def serving(*arguments: str, cwd: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the block ends, then kill it; its output is in `output.txt`."""
    with (cwd / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            command(*arguments), cwd=cwd, env=environment(**env), stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        family = offspring(process.pid)
        process.kill()
        process.wait()
        until(lambda: all(gone(member) for member in family))


def offspring(pid: int) -> list[psutil.Process]:
    """Return the descendants of a process, none if it is gone."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def gone(process: psutil.Process) -> bool:
    """Say whether a process has ended, reaped or not."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def until(condition: Callable[[], bool], seconds: float = 15.0) -> bool:
    """Wait until a condition holds; say whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def fetch(port: int) -> str | None:
    """Return what the service answers, None if it does not."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            body: bytes = answer.read()
            return body.decode()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def answer_of(port: int, seconds: float = 15.0) -> str:
    """Wait for the service and return what it answers."""
    body = ""

    def answered() -> bool:
        nonlocal body
        body = fetch(port) or ""
        return bool(body)

    assert until(answered, seconds), "the service did not answer"
    return body
