"""What the tests of this room are made of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from sqlalchemy.engine import make_url

from clearway import Clearway, Settings
from support.wire import Wire, wire_to


def settings_for(url: str, **database: object) -> Settings:
    """Return settings for a database, in development so that answers say why."""
    return Settings.model_validate(
        {"service": {"environment": "development"}, "database": {"url": url, **database}}
    )


def road_to(url: str, **database: object) -> Clearway:
    """Return a Clearway for scripts."""
    return Clearway(FastAPI(), settings_for(url, **database))


@asynccontextmanager
async def wired(url: str) -> AsyncIterator[tuple[Wire, str]]:
    """Put a wire of ours before a server, and give the URL that leads over it."""
    address = make_url(url)
    assert address.host is not None
    assert address.port is not None
    async with wire_to(address.host, address.port) as wire:
        yield wire, address.set(port=wire.port).render_as_string(hide_password=False)
