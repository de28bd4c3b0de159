"""What every test may ask for: both event loops, and a real PostgreSQL."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

from clearway.dev.postgres import EmbeddedPostgres
from clearway.jobs.declare import registry
from clearway.jobs.job import Job

# How fast the machine draws inputs is nothing to fail a test for: the first draw of text in a
# fresh clone builds Unicode's tables, which has taken longer than hypothesis allows.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="asyncio+uvloop"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Run every asynchronous test on asyncio's loop and on uvloop's."""
    backend: tuple[str, dict[str, bool]] = request.param
    return backend


# What may block a loop: asyncpg looks for ~/.pgpass with every connect; the log target is
# opened and given back once, at the start and at the end; its writes are non-blocking; a
# transport of httpx2 reads the certificates when it is made, as its client would.
_MAY_BLOCK = (
    ("asyncpg/connect_utils.py", "_parse_connect_arguments"),
    ("clearway/logs/setup.py", "configure"),
    ("clearway/outbound/transport.py", "default_inner"),
    ("clearway/logs/setup.py", "restore"),
    ("clearway/logs/writer.py", "write"),
)


@pytest.fixture(autouse=True)
def _nothing_of_ours_blocks_the_loop() -> Iterator[None]:
    """Fail the test in which code of ours makes a blocking call on an event loop."""
    rooms = [f"clearway.{room}" for room in ("core", "web", "db", "offload", "outbound")]
    with blockbuster_ctx(scanned_modules=rooms) as guard:
        for function in guard.functions.values():
            for file, name in _MAY_BLOCK:
                function.can_block_in(file, name)
        yield


@pytest.fixture(autouse=True)
def undeclared() -> Iterator[dict[str, Job[..., ..., Any]]]:
    """Return the registry of jobs, empty: what other tests have imported declares nothing here."""
    before = dict(registry)
    registry.clear()
    yield registry
    registry.clear()
    registry.update(before)


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """Return the PostgreSQL of this run, started when it is first asked for."""
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture
def database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """Return the URL of an empty database that is dropped after the test."""
    name = f"test_{secrets.token_hex(6)}"
    _sql(postgres, f"CREATE DATABASE {name}")
    yield postgres.url.removesuffix("postgres") + name
    _sql(postgres, f"DROP DATABASE {name} WITH (FORCE)")


def _sql(server: EmbeddedPostgres, statement: str) -> None:
    # psql and not asyncpg: a fixture that is not asynchronous must not touch the test's loop.
    subprocess.run([server.psql, server.url, "-qXc", statement], check=True, timeout=20)
