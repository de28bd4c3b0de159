"""The promises, end to end: real uvicorn processes, real PostgreSQL, real signals."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO

import asyncpg
import httpx2
import psutil
import pytest

from db import schema
from support.process import Service, uvicorn


@pytest.fixture
def shop_database(database_url: str) -> str:
    """Return a database with the shop's table."""
    asyncio.run(schema.create(database_url))
    return database_url


@pytest.fixture
def shop(shop_database: str) -> Iterator[Service]:
    """Serve `apps.shop`; its log lines go nowhere."""
    env = {"DATABASE_URL": shop_database}
    with uvicorn("apps.shop:app", env=env, stdout=subprocess.DEVNULL) as service:
        yield service


def test_a_row_is_visible_the_moment_the_2xx_arrives(shop: Service, shop_database: str) -> None:
    """A thousand times: another connection sees the row as soon as the client has its 201."""

    async def look() -> int:
        seen = 0
        connection = await asyncpg.connect(shop_database)
        async with httpx2.AsyncClient(base_url=shop.url) as client:
            for number in range(1000):
                answer = await client.post(f"/items/row-{number}")
                assert answer.status_code == 201
                row = await connection.fetchrow(
                    "select name from item where id = $1", answer.json()["id"]
                )
                seen += row is not None
        await connection.close()
        return seen

    assert asyncio.run(look()) == 1000


@pytest.mark.parametrize(
    ("path", "status"), [("orphan", 500), ("swallowed", 500), ("conflict", 409)]
)
def test_what_was_not_stored_is_never_answered_with_a_2xx(
    shop: Service, shop_database: str, path: str, status: int
) -> None:
    """A failing COMMIT, a COMMIT that was a ROLLBACK, and a returned 409 leave no row."""
    answer = httpx2.post(f"{shop.url}/{path}")

    assert answer.status_code == status
    assert asyncio.run(schema.names(shop_database)) == []


def test_a_killed_worker_process_costs_only_its_own_call(shop: Service) -> None:
    """SIGKILL of an idle worker costs nothing, of a busy one that one call."""
    with httpx2.Client(base_url=shop.url, timeout=30) as client:
        idle = client.get("/pid").json()
        os.kill(idle, signal.SIGKILL)
        after_idle = client.get("/pid")
        with ThreadPoolExecutor(2) as pool:
            neighbour = pool.submit(client.get, "/burn", params={"seconds": 0.5})
            killed = client.get("/suicide")
            survivor = neighbour.result()
        after_busy = client.get("/pid")

    assert after_idle.status_code == 200
    assert after_idle.json() != idle
    assert (killed.status_code, killed.json()["code"]) == (500, "CW402")
    assert (survivor.status_code, survivor.json()) == (200, "burnt")
    assert after_busy.status_code == 200


def test_nothing_is_left_when_the_service_is_killed(shop: Service) -> None:
    """Kill -9 of the service: its worker processes end with it."""
    httpx2.get(f"{shop.url}/pid")
    children = psutil.Process(shop.pid).children(recursive=True)
    assert children

    shop.stop(signal.SIGKILL)

    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_stalled_reader_of_stdout_stops_nothing(shop_database: str, loop: str) -> None:
    """Ten seconds without a reader: every request is answered, every line accounted for.

    What did not fit is reported in the stream by its own count, and the descriptor that is
    shared with others is as blocking afterwards as it was before.
    """
    read, write = os.pipe()
    flags = fcntl.fcntl(write, fcntl.F_GETFL)
    env = {"DATABASE_URL": shop_database, "CLEARWAY_LOGS__BUFFER_BYTES": "65536"}
    with uvicorn("apps.shop:app", "--loop", loop, env=env, stdout=write) as service:
        end = time.monotonic() + 10
        answered, slowest = 0, 0.0
        with httpx2.Client(base_url=service.url, timeout=9) as client:
            while time.monotonic() < end:
                begun = time.monotonic()
                assert client.get("/talk", params={"lines": 20}).status_code == 200
                slowest = max(slowest, time.monotonic() - begun)
                answered += 1
                time.sleep(0.01)
            counts = client.get("/counts").json()
            assert fcntl.fcntl(write, fcntl.F_GETFL) == flags
            os.close(write)
            lines = Lines(read)
            service.stop()
    seen = lines.all()

    assert counts["emitted"] == counts["written"] + counts["dropped"] + counts["pending"]
    assert counts["dropped"] > 0
    assert slowest < 9, "no answer waited for the reader"
    reports = [line for line in seen if line["event"] == "log lines dropped"]
    emitted = 20 * answered
    talked = sum(line["event"] == "talk" for line in seen)
    accounted = sum(line["event"] == "request" for line in seen)
    dropped = sum(int(str(report["dropped"])) for report in reports)
    assert talked + accounted + dropped == emitted + answered + 1, "one is that of /counts"
    assert talked < emitted


class Lines:
    """Reads a pipe to its end in a thread; every line must be JSON."""

    def __init__(self, fd: int) -> None:
        self._file: IO[bytes] = os.fdopen(fd, "rb")
        self._raw: list[bytes] = []
        self._thread = threading.Thread(target=lambda: self._raw.extend(self._file))
        self._thread.start()

    def all(self) -> list[dict[str, object]]:
        """Wait for the end and return the lines."""
        self._thread.join(20)
        self._file.close()
        return [json.loads(line) for line in self._raw]


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_under_load_loses_no_line_and_no_request(shop_database: str, workers: int) -> None:
    """What has begun is answered in full and has its line; nothing else was begun."""
    read, write = os.pipe()
    env = {"DATABASE_URL": shop_database}
    answered: set[int] = set()
    refused: set[int] = set()
    with uvicorn("apps.shop:app", "--workers", str(workers), env=env, stdout=write) as service:
        os.close(write)
        lines = Lines(read)
        stop = threading.Event()

        def hammer(first: int) -> None:
            number = first
            while not stop.is_set() and number < first + 100_000:
                try:
                    httpx2.get(f"{service.url}/slow/{number}", timeout=15)
                    answered.add(number)
                except httpx2.TransportError:
                    refused.add(number)
                    if service.process.poll() is not None:
                        return
                number += 1

        threads = [threading.Thread(target=hammer, args=(k * 1_000_000,)) for k in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(1.5)
        code = service.stop(signal.SIGTERM)
        stop.set()
        for thread in threads:
            thread.join(20)
    seen = lines.all()

    begun = {line["number"] for line in seen if line["event"] == "begun"}
    ended = {line["number"] for line in seen if line["event"] == "request"}
    assert len(answered) > 20
    assert begun == ended
    assert begun == answered
    assert not begun & refused
    assert code in {0, -signal.SIGTERM}


def run_and_collect(app: str) -> tuple[list[str], list[int], int, int]:
    """Serve an app, send it requests, and return what it wrote, answered and started."""
    with uvicorn(app, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as service:
        with httpx2.Client(base_url=service.url) as client:
            statuses = [client.get(path).status_code for path in ("/", "/missing", "/crash")]
        process = psutil.Process(service.pid)
        children = len(process.children(recursive=True))
        connections = sum(c.status == "ESTABLISHED" for c in process.net_connections("tcp"))
        service.stop()
        assert service.process.stdout is not None
        text = service.process.stdout.read().decode()
        service.process.stdout.close()
    text = re.sub(r"\[\d+\]|127\.0\.0\.1:\d+", "N", text)
    ours = [line for line in text.splitlines() if "livez" not in line]
    return ours, statuses, children, connections


def test_the_line_alone_writes_the_same_lines_and_starts_nothing() -> None:
    """With and without the line: same output, same statuses, no process, no connection."""
    bare, observed = run_and_collect("apps.bare:app"), run_and_collect("apps.observed:app")

    def without_our_frames(lines: list[str]) -> list[str]:
        """Leave the traceback of the crash out: its frames name the layers it passed."""
        begin = lines.index("Traceback (most recent call last):")
        end = lines.index("RuntimeError: boom")
        return lines[:begin] + lines[end:]

    assert without_our_frames(bare[0]) == without_our_frames(observed[0])
    assert bare[1:] == observed[1:] == ([200, 404, 500], 0, 0)
