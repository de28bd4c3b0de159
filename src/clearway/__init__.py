"""Clearway shows with one line why a FastAPI service is slow, and makes it hold up.

The names below are the contract. Each is imported when it is first used: an app needs only the
packages of the parts that it has, and a worker process starts without the web framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clearway import offload
    from clearway.app import Clearway
    from clearway.background import Background
    from clearway.core.journey import Journey, current_journey
    from clearway.db import AsyncReadSession, DbSession, ReadDbSession, after_commit
    from clearway.errors import ClearwayError
    from clearway.jobs import Job, JobContext, cron, job
    from clearway.logs import get_logger
    from clearway.outbound.client import HttpClient
    from clearway.settings import Settings
    from clearway.state import resource

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - grouped, to read like a table of contents
    # The one line
    "Clearway",
    "Settings",
    # The database
    "DbSession",
    "ReadDbSession",
    "AsyncReadSession",
    # Off the loop
    "offload",
    # After the response, after the commit
    "Background",
    "after_commit",
    # Durable work
    "job",
    "cron",
    "Job",
    "JobContext",
    # Other services
    "HttpClient",
    # Opened once, shared
    "resource",
    # Logs
    "get_logger",
    # Where am I
    "Journey",
    "current_journey",
    # What can go wrong
    "ClearwayError",
]

_HOMES = {
    "AsyncReadSession": "clearway.db",
    "Background": "clearway.background",
    "Clearway": "clearway.app",
    "ClearwayError": "clearway.errors",
    "DbSession": "clearway.db",
    "HttpClient": "clearway.outbound.client",
    "Job": "clearway.jobs",
    "JobContext": "clearway.jobs",
    "Journey": "clearway.core.journey",
    "ReadDbSession": "clearway.db",
    "Settings": "clearway.settings",
    "after_commit": "clearway.db",
    "cron": "clearway.jobs",
    "current_journey": "clearway.core.journey",
    "get_logger": "clearway.logs",
    "job": "clearway.jobs",
    "resource": "clearway.state",
}

_EXTRAS = {
    "clearway.db": "db",
    "clearway.jobs": "jobs",
    "clearway.logs": "logs",
    "clearway.outbound.client": "http",
}
"""The extra that has what a home imports."""


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(home), name)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(home)
        if extra is None:
            raise
        needed = (error.name or "").partition(".")[0]
        raise ModuleNotFoundError(
            f"{name} needs {needed}: pip install 'clearway[{extra}]'", name=error.name
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
