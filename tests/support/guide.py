"""Serve a recipe of the guide: as it is, with the line alone, or once the name is used."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

import asyncpg
import fastapi
import httpx2
import pytest

from support.process import Service, uvicorn

commits_late = pytest.mark.skipif(
    tuple(map(int, fastapi.__version__.split(".")[:2])) < (0, 118),
    reason="from 0.106 to 0.117 FastAPI left a dependency's `yield` before the answer",
)
"""For what is only so where the code behind `yield` runs when the answer has left."""

DDL = """
create table item (
    id serial primary key,
    name text not null unique,
    parent_id int references item (id) deferrable initially deferred
);
create function wait_at_commit() returns trigger language plpgsql as
    'begin perform pg_advisory_xact_lock(1); return null; end';
create constraint trigger slow after insert on item deferrable initially deferred
    for each row when (new.name = 'slow') execute function wait_at_commit();
"""
"""The table; a COMMIT of the row `slow` takes as long as somebody else holds the lock 1."""


class Recipe:
    """One recipe, and the variables that all of its ways share."""

    def __init__(self, name: str, **env: str) -> None:
        self.name = name
        self.env = env

    @contextmanager
    def served(
        self,
        way: str,
        *options: str,
        stdout: IO[bytes] | int | None = subprocess.DEVNULL,
        stderr: IO[bytes] | int | None = subprocess.DEVNULL,
        **env: str,
    ) -> Iterator[Service]:
        """Serve it `before`, `observed` (the line alone), or `after`."""
        variables = {"RECIPE": self.name, **self.env, **env}
        with uvicorn(
            self.app(way), *options, env=variables, stdout=stdout, stderr=stderr
        ) as service:
            yield service

    def app(self, way: str) -> str:
        """Return the import string."""
        return f"apps.guide.{'observed' if way == 'observed' else f'{way}.{self.name}'}:app"

    def told(self, way: str, *calls: str) -> Told:
        """Serve it, make calls such as `GET /items`, and return all that is seen of it."""
        with self.served(way, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as service:
            with httpx2.Client(base_url=service.url, timeout=30) as client:
                answers = [client.request(*call.split(maxsplit=1)) for call in calls]
                lanes = client.get("/lanes").json() if way == "observed" else {}
            service.stop()
            assert service.process.stdout is not None
            text = service.process.stdout.read().decode()
            service.process.stdout.close()
        return Told(answers, text, lanes)


class Told:
    """What a service answered and wrote.

    Attributes:
        answers: Status, headers and body of each answer, without what differs from run to run
            and without the header that the line adds.
        ids: The request ids that the answers had.
        lines: What it wrote, without process ids, ports and times of day.
        lanes: How its lanes stood in the end; the line alone has them.
    """

    def __init__(
        self,
        answers: Sequence[httpx2.Response],
        text: str,
        lanes: Mapping[str, Mapping[str, float]],
    ) -> None:
        self.lanes = lanes
        self.ids = [answer.headers.get("x-request-id") for answer in answers]
        self.answers = [
            (
                answer.status_code,
                sorted((k, v) for k, v in answer.headers.items() if k not in _VARY),
                answer.content,
            )
            for answer in answers
        ]
        text = re.sub(r"\[\d+\]|127\.0\.0\.1:\d+|\d{4}-\d\d-\d\dT[\d:.]+Z", "N", text)
        self.lines = [
            line for line in text.splitlines() if "/livez" not in line and "/lanes" not in line
        ]


_VARY = {"date", "x-request-id"}


def observed(recipe: Recipe, *calls: str) -> Mapping[str, Mapping[str, float]]:
    """Make calls with the line alone, and return how the lanes stood then.

    Raises:
        AssertionError: Something in the answers or in what the service wrote is not as it was
            without the line, but for the one new header.
    """
    before, after = recipe.told("before", *calls), recipe.told("observed", *calls)
    assert before.ids == [None] * len(calls)
    assert len(set(after.ids) - {None}) == len(calls), "each has an id of its own"
    assert before.answers == after.answers
    assert before.lines == after.lines
    return after.lanes


async def query(url: str, sql: str) -> list[object]:
    """Return the first column of what another connection sees now."""
    connection = await asyncpg.connect(url)
    try:
        return [row[0] for row in await connection.fetch(sql)]
    finally:
        await connection.close()


async def names(url: str) -> list[object]:
    """Return the names of the rows that are committed."""
    return await query(url, "select name from item order by id")
