"""Find what the calling code should use: its journey's parts, or else the only open ones."""

from __future__ import annotations

from typing import TypeVar

from clearway.core.journey import current_journey
from clearway.core.parts import Parts, open_parts
from clearway.errors import NotOpen, SeveralOpen

P = TypeVar("P")


def current_parts(name: str) -> Parts:
    """Return the parts that the calling code should use: its journey's, or the only open ones.

    Args:
        name: What the caller wrote, for the message (`offload.process`).

    Raises:
        NotOpen: No Clearway is open.
        SeveralOpen: Outside a request, and more than one is open.
    """
    journey = current_journey()
    if journey is not None and journey.parts is not None:
        return journey.parts
    candidates = open_parts()
    if len(candidates) > 1:
        raise SeveralOpen(
            f"{name} was used outside a request while {len(candidates)} Clearways are open",
            fix="use it in a request, or inside `async with road.journey(...)`",
        )
    if not candidates:
        raise _not_open(name)
    return candidates[0]


def find(cls: type[P], name: str) -> P:
    """Return the open part of this type that the calling code should use.

    Args:
        cls: The type of the part.
        name: What the caller wrote, for the message (`offload.process`).

    Raises:
        NotOpen: No Clearway with this part is open.
        SeveralOpen: Outside a request, and more than one is open.
    """
    part = current_parts(name).get(cls)
    if part is None:
        raise _not_open(name)
    return part


def _not_open(name: str) -> NotOpen:
    return NotOpen(
        f"{name} was used while no Clearway was open",
        fix="is there a Clearway(app)? Then run the lifespan: start the app with a server or "
        "`with TestClient(app)`; in a script, `async with road:`. Under CLEARWAY=off nothing opens",
    )
