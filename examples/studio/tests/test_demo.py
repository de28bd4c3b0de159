"""The demo as a person runs it: one command, real processes, real signals."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from studio.inputs import make_inputs
from studio.migrate import migrate
from studio.service import free_port
from studio.smoke import smoke
from studio.tests.conftest import Studio, query
from studio.visitor import Visitor

EXAMPLES = Path(__file__).parents[2]
_MARK = "STUDIO_TEST_RUN"


class Demo:
    """A run of `python -m studio` and everything that it starts, known by a mark."""

    def __init__(self, *arguments: str) -> None:
        self.mark = secrets.token_hex(8)
        self.process = subprocess.Popen(  # noqa: S603 - this test's own program
            [sys.executable, "-m", "studio", "--port", "0", *arguments],
            cwd=EXAMPLES,
            env=os.environ | {_MARK: self.mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def read_until(self, pattern: str) -> str:
        """Return the first match in the output."""
        assert self.process.stdout is not None
        output = ""
        for line in self.process.stdout:
            output += line
            if found := re.search(pattern, line):
                return found[0]
        raise AssertionError(output)

    def opened(self) -> str:
        """Return the URL of the service once it says that it is open."""
        self.read_until("The studio is open")
        return self.read_until(r"http://127\.0\.0\.1:\d+")

    def has_started(self, *parts: str) -> bool:
        """Wait until there is a process for each part, a word of its command line."""
        for _ in range(400):
            words: set[str] = set()
            for process in self.running():
                with suppress(psutil.NoSuchProcess):
                    words.update(process.cmdline())
            if words.issuperset(parts):
                return True
            time.sleep(0.05)
        return False

    def running(self) -> list[psutil.Process]:
        """Return every live process that this run has started, itself included."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def everything_ends_within(self, seconds: float) -> bool:
        """Wait for the last process to end."""
        patience = time.monotonic() + seconds
        while self.running():
            if time.monotonic() > patience:
                return False
            time.sleep(0.05)
        return True

    def end(self) -> None:
        """Kill what is left."""
        for process in self.running():
            process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return (
                process.environ().get(_MARK) == self.mark
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False


@pytest.fixture
def demo() -> Iterator[Callable[..., Demo]]:
    """Return a function that starts the demo."""
    started: list[Demo] = []

    def start(*arguments: str) -> Demo:
        started.append(Demo(*arguments))
        return started[-1]

    yield start
    for run in started:
        run.end()


def _use(url: str, small_photo: Callable[..., bytes]) -> None:
    """Have the service open a connection and start a worker process."""
    answer = httpx.post(f"{url}/images", files={"files": small_photo()}, timeout=30)
    assert answer.status_code == 201


@pytest.mark.timeout(240)
def test_smoke_drives_everything_and_leaves_nothing(demo: Callable[..., Demo]) -> None:
    """Exit code 0, a table of what happened, and no process behind."""
    run = demo("--smoke")
    output, _ = run.process.communicate(timeout=220)
    assert run.process.returncode == 0, output
    for row in ("24 from 8 photos", "60 created", "60 PDFs", "60 delivered, of 60", "1.0836 USD",
                "send_reminder in the failure queue", "is enqueued: 60 invoices over 14202.00",
                "100,000 rows", "0 dropped", "0 not logged"):  # fmt: skip
        assert row in output
    assert run.everything_ends_within(10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_everything(
    demo: Callable[..., Demo], small_photo: Callable[..., bytes], number: signal.Signals
) -> None:
    """Service, workers and PostgreSQL end within seconds, and the exit code is 0."""
    run = demo()
    url = run.opened()
    _use(url, small_photo)
    run.process.send_signal(number)
    assert run.process.wait(20) == 0
    assert run.everything_ends_within(5)


def test_kill_9_leaves_nothing(
    demo: Callable[..., Demo], small_photo: Callable[..., bytes]
) -> None:
    """The kernel takes service, workers and PostgreSQL along."""
    run = demo()
    url = run.opened()
    _use(url, small_photo)
    assert run.has_started("run", "worker", "clearway.cli.carry")
    run.process.kill()
    assert run.everything_ends_within(20)


@pytest.mark.parametrize("command", ["run", "worker"])
def test_the_demo_says_when_a_part_of_it_has_died(demo: Callable[..., Demo], command: str) -> None:
    """A service or a worker that ends by itself ends the demo, with exit code 1."""
    run = demo()
    run.opened()
    part = next(p for p in run.running() if command in p.cmdline())
    part.kill()
    run.read_until(f"`clearway {command}` ended by itself, with -9")
    assert run.process.wait(20) == 1
    assert run.everything_ends_within(5)


def test_a_port_that_is_taken_is_said(demo: Callable[..., Demo], studio: Studio) -> None:
    """A port that was asked for is not silently replaced by another."""
    run = demo("--port", studio.url.rpartition(":")[2])
    output, _ = run.process.communicate(timeout=20)
    assert run.process.returncode == 1
    assert "is taken: name another" in output


@pytest.mark.timeout(240)
def test_the_lines_to_try_work_as_printed(demo: Callable[..., Demo], tmp_path: Path) -> None:
    """A person can paste them, one after the other, and see what they promise."""
    run = demo()
    run.read_until("Try in another terminal")
    exports, said = "", {}
    while not (line := run.read_until(".*").strip()).startswith("Ctrl-C"):
        if line.startswith("export"):
            exports += f"{line}\n"
        elif line:
            said[line] = _paste(f"{exports}{line}", tmp_path)
    assert (tmp_path / "invoice.pdf").read_bytes().startswith(b"%PDF")
    assert len([line for line in said if line.startswith("curl ")]) == 7
    failed, scheduled = (said[line] for line in said if " jobs " in line)
    assert "send_reminder" in failed
    assert "is enqueued" in scheduled


def _paste(script: str, folder: Path) -> str:
    """Return what a shell prints; what a worker makes a moment later is asked for again."""
    wanted = "send_reminder" if script.endswith("jobs failed") else ""
    strict = "curl --silent " if "curl -f" in script else "curl --silent --fail-with-body "
    patience = time.monotonic() + 60
    while True:
        done = subprocess.run(  # noqa: S602 - a shell is what a person pastes into
            script.replace("curl ", strict),
            shell=True,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=30,
        )
        right = done.returncode == 0 and wanted in done.stdout
        if right or time.monotonic() > patience:
            assert right, (script, done.stdout)
            return done.stdout
        time.sleep(0.1)


@pytest.mark.timeout(240)
def test_the_smoke_run_fails_on_a_service_that_does(
    empty_database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the trigger a wrong total is stored: exit code 1, and the reason in words."""
    migrate(empty_database)
    query(empty_database, "DROP FUNCTION check_invoice_total CASCADE")
    assert smoke(empty_database, free_port(), make_inputs()) == 1
    assert "answered 201, not 500" in " ".join(capsys.readouterr().out.split())


def test_a_visitor_notices_a_wrong_status(studio: Studio) -> None:
    """A wrong status is a fault, a right one is not."""

    async def visit() -> list[str]:
        async with Visitor(studio.url) as visitor:
            await visitor.get("/invoices/999999999")
            await visitor.get("/invoices?limit=1")
            return visitor.faults

    faults = asyncio.run(visit())
    assert len(faults) == 1
    assert "answered 404, not 200" in faults[0]
