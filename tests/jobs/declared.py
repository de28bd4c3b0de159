"""Jobs that the tests enqueue; a fixture declares them, so that other tests have none."""

from __future__ import annotations

from pydantic import BaseModel

from clearway import JobContext, cron, job
from clearway.jobs.declare import registry


class Invoice(BaseModel):
    """A model that travels."""

    number: int
    lines: list[float] = []


@job()
async def note(number: int = 0) -> int:
    """Return the number."""
    return number


@job(run_in="process", queue="pdf", retries=5, timeout=60, backoff=1)
def render(pages: int, *, scale: float = 1.0) -> float:
    """Stand for CPU work."""
    return pages * scale


@job()
def archive(invoice: Invoice, copies: int) -> None:
    """Take a model, in a thread."""


@job()
async def look(context: JobContext, number: int) -> int:
    """Take what the worker supplies before what travels."""
    return number + context.attempt


@job()
async def say(words: str, times: int) -> None:
    """Take a text."""


@cron("0 3 * * *", timezone="Europe/Berlin", queue="nightly")
async def report(days: int = 1) -> None:
    """Run by itself."""


JOBS = {one.name: one for one in (note, render, archive, look, say, report)}
for _name in JOBS:
    del registry[_name]
