"""One PostgreSQL and one running studio for all tests; nothing in them is a stand-in."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import httpx
import pytest
from PIL import Image

from clearway.dev.postgres import EmbeddedPostgres
from studio.migrate import migrate
from studio.others import Answer, Others
from studio.service import Service, free_port, worker

T = TypeVar("T")

MOST_BYTES = 300_000
"""Size limit of uploads in the service under test."""
RATES_TIMEOUT = 3.0
"""Seconds that the service under test waits for the rates."""


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedPostgres]:
    """Return a PostgreSQL that ends with the run."""
    with EmbeddedPostgres() as running:
        yield running


@pytest.fixture
def empty_database(server: EmbeddedPostgres) -> str:
    """Return the URL of a new, empty database."""
    return _new_database(server)


class Studio:
    """A running service with its worker, its database, its log, and the others that it calls."""

    def __init__(self, url: str, database_url: str, log: Path, others: Others) -> None:
        self.http = httpx.Client(base_url=url, timeout=30)
        self.url = url
        self.database_url = database_url
        self.others = others
        self._log = log

    @contextmanager
    def other(self, path: str, answer: Answer) -> Iterator[None]:
        """Have one of the others answer otherwise for a while."""
        before = self.others.answers[path]
        self.others.answers[path] = answer
        try:
            yield
        finally:
            self.others.answers[path] = before

    def until(self, look: Callable[[], T | None]) -> T:
        """Look until there is something, and return it; a job or a task takes its time."""
        for _ in range(400):
            if found := look():
                return found
            time.sleep(0.05)
        raise AssertionError("it did not come within 20 seconds")

    def query(self, sql: str, *args: object) -> Any:
        """Return the one value that a query gives on a connection of its own."""
        return query(self.database_url, sql, *args)

    def events(self) -> list[dict[str, Any]]:
        """Return what the service has logged."""
        lines = self._log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def access_line(self, answer: httpx.Response) -> Mapping[str, Any]:
        """Return the access line of a request; it is written after the answer was sent."""
        for _ in range(200):
            for event in self.events():
                same = event.get("request_id") == answer.headers["X-Request-ID"]
                if same and event["event"] == "request":
                    return event
            asyncio.run(asyncio.sleep(0.05))
        raise AssertionError("no access line")


@pytest.fixture(scope="session")
def studio(server: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """Return service and worker, migrated, with the demo user, as processes of their own."""
    database_url = _new_database(server)
    migrate(database_url)
    folder = tmp_path_factory.mktemp("studio")
    log = folder / "log"
    env = {
        "CLEARWAY_LOGS__FORMAT": "json",
        "STUDIO_MAX_PHOTO_BYTES": str(MOST_BYTES),
        "STUDIO_MAX_CSV_BYTES": str(MOST_BYTES),
        "STUDIO_RATES_TIMEOUT": str(RATES_TIMEOUT),
    }
    with (
        Others() as others,
        log.open("wb") as output,
        (folder / "worker").open("wb") as work,
        Service(database_url, free_port(), output=output, env=env | others.env) as service,
        worker(database_url, output=work, env=env | others.env),
    ):
        running = Studio(service.url, database_url, log, others)
        with running.http:
            yield running


@pytest.fixture
def unique() -> str:
    """Return text that no other test uses."""
    return secrets.token_hex(6)


@pytest.fixture
def invoice(unique: str) -> dict[str, Any]:
    """Return an invoice as it is sent."""
    return {
        "number": unique,
        "customer": "Ada",
        "issued_on": "2026-01-31",
        "total": "180.00",
        "lines": [{"description": "portrait", "quantity": "1.5", "unit_price": "120.00"}],
    }


@pytest.fixture(scope="session")
def small_photo() -> Callable[..., bytes]:
    """Return a function that makes a small JPEG: its top left quarter red, the rest blue."""

    def make(width: int = 400, height: int = 300, orientation: int = 1) -> bytes:
        picture = Image.new("RGB", (width, height), "blue")
        picture.paste("red", (0, 0, width // 2, height // 2))
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=95, exif=exif)
        return file.getvalue()

    return make


def query(url: str, sql: str, *args: object) -> Any:
    """Return the one value that a query gives."""

    async def run() -> Any:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(sql, *args)
        finally:
            await connection.close()

    return asyncio.run(run())


_numbers = itertools.count(1)


def _new_database(server: EmbeddedPostgres) -> str:
    name = f"studio_{next(_numbers)}"
    query(server.url, f"CREATE DATABASE {name}")
    return server.url.removesuffix("postgres") + name
