"""What a worker process runs for a job with `run_in="process"`."""

from __future__ import annotations

import importlib

from clearway.errors import NoSuchJob
from clearway.jobs.context import JobContext
from clearway.jobs.job import Job


def run(name: str, arguments: str, context: JobContext) -> None:
    """Find a job by its name and call it. Its result goes nowhere.

    Args:
        name: `module:qualname`.
        arguments: JSON.
        context: For a body that takes it.

    Raises:
        NoSuchJob: There is no job of this name here.
    """
    module, _, path = name.partition(":")
    found: object = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Job):
        raise NoSuchJob(f"{name} is no job in this process")
    found.fn(
        **dict.fromkeys(found.arguments.supplied, context), **found.arguments.unpack(arguments)
    )
