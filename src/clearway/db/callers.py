"""Who uses a session or a connection: the task, and where in its code it is."""

from __future__ import annotations

import asyncio
from types import CodeType, FrameType
from typing import Any

import greenlet

from clearway.core.places import Place, coroutine_places, own_places

_DEPTH = 12  # frames that are looked at above SQLAlchemy's own


def current_task() -> asyncio.Task[Any] | None:
    """Return the task that runs now, None outside of a loop."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


Trail = list[tuple[CodeType, int]]
"""Codes and offsets in them, the innermost first: places that nobody has asked for yet."""


def trail_above() -> Trail:
    """Note what led into SQLAlchemy's greenlet."""
    parent = greenlet.getcurrent().parent
    frame: FrameType | None = None if parent is None else parent.gr_frame
    found: Trail = []
    while frame is not None and len(found) < _DEPTH:
        found.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return found


def own_places_of(trail: Trail) -> list[Place]:
    """Return the places on a trail that are the application's own code."""
    return own_places([Place.at(code, offset) for code, offset in trail])


def place_of(task: asyncio.Task[Any] | None) -> str:
    """Say where in the application's code a suspended task is."""
    if task is None or task.done():
        return "somewhere"
    own = own_places(coroutine_places(task.get_coro()))
    return str(own[0]) if own else task.get_name()
