"""One PostgreSQL and one running studio for all tests; nothing in them is a stand-in."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from PIL import Image

from clearway.dev.postgres import EmbeddedPostgres
from studio.migrate import migrate
from studio.service import Service, free_port

MOST_BYTES = 300_000
"""Size limit of uploads in the service under test."""


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
    """A running service, its database and its log."""

    def __init__(self, url: str, database_url: str, log: Path) -> None:
        self.http = httpx.Client(base_url=url, timeout=30)
        self.url = url
        self.database_url = database_url
        self._log = log

    def query(self, sql: str, *args: object) -> Any:
        """Return the one value that a query gives on a connection of its own."""
        return query(self.database_url, sql, *args)

    def access_line(self, answer: httpx.Response) -> Mapping[str, Any]:
        """Return the access line of a request; it is written after the answer was sent."""
        for _ in range(200):
            for line in self._log.read_text().splitlines():
                event = json.loads(line) if line.startswith("{") else {}
                same = event.get("request_id") == answer.headers["X-Request-ID"]
                if same and event["event"] == "request":
                    return dict(event)
            asyncio.run(asyncio.sleep(0.05))
        raise AssertionError("no access line")


@pytest.fixture(scope="session")
def studio(server: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """Return the service, migrated, with its demo user, as a process of its own."""
    database_url = _new_database(server)
    migrate(database_url)
    log = tmp_path_factory.mktemp("studio") / "log"
    env = {
        "CLEARWAY_LOGS__FORMAT": "json",
        "STUDIO_MAX_PHOTO_BYTES": str(MOST_BYTES),
        "STUDIO_MAX_CSV_BYTES": str(MOST_BYTES),
    }
    with (
        log.open("wb") as output,
        Service(database_url, free_port(), output=output, env=env) as service,
    ):
        running = Studio(service.url, database_url, log)
        with running.http:
            yield running


@pytest.fixture
def unique() -> str:
    """Return text that no other test uses."""
    return secrets.token_hex(6)


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
