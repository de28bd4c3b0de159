"""Find an open part of Clearway by its type, from inside a request or from outside."""

from __future__ import annotations

from typing import Protocol, TypeVar

from clearway.core.journey import current_journey
from clearway.errors import NotOpen, SeveralOpen

P = TypeVar("P")


class Part(Protocol):
    """A room's working object: opened at start-up, closed at shutdown, in reverse order."""

    async def open(self) -> None:
        """Acquire what the part needs. Raise a `StartError` to refuse the start."""

    async def close(self) -> None:
        """Give everything back; nothing may be left behind."""


class Parts:
    """The open parts of one Clearway, each found by its type.

    Args:
        owner: Whose parts these are; `current_parts` leads back to it.
    """

    __slots__ = ("_by_type", "owner")

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self._by_type: dict[type, Part] = {}

    async def open(self, part: Part) -> None:
        """Open a part and make it findable."""
        await part.open()
        self._by_type[type(part)] = part
        if self not in _open:
            _open.append(self)

    async def close(self) -> None:
        """Close every part, the last opened first, each whatever the others do.

        Raises:
            Exception: The first failure, after every part has been closed.
        """
        failure: Exception | None = None
        while self._by_type:
            _, part = self._by_type.popitem()
            try:
                await part.close()
            except Exception as error:  # noqa: BLE001 - raised again below, all parts closed
                failure = failure or error
        if self in _open:
            _open.remove(self)
        if failure is not None:
            raise failure

    def get(self, cls: type[P]) -> P | None:
        """Return the open part of this type, None where there is none."""
        part = self._by_type.get(cls)
        return part if isinstance(part, cls) else None


_open: list[Parts] = []
"""What is open in this process: one in a service, more only in tests and scripts."""


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
    if len(_open) > 1:
        raise SeveralOpen(
            f"{name} was used outside a request while {len(_open)} Clearways are open",
            fix="use it in a request, or inside `async with road.journey(...)`",
        )
    if not _open:
        raise _not_open(name)
    return _open[0]


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
        fix="run the lifespan: start the app with a server or `with TestClient(app)`; in a "
        "script, `async with road:`. Under CLEARWAY=off nothing opens",
    )
