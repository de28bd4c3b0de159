"""What a Clearway has open: its parts, each found by its type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

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
        self.add(part)

    def add(self, part: Part) -> None:
        """Make a part findable that is open already."""
        self._by_type[type(part)] = part
        if self not in _open:
            _open.append(self)

    async def close(self) -> None:
        """Close every part, the last opened first, each whatever the others do.

        Raises:
            BaseException: The first failure, after every part has been closed.
        """
        failure: BaseException | None = None
        while self._by_type:
            _, part = self._by_type.popitem()
            try:
                await part.close()
            except BaseException as error:  # noqa: BLE001 - raised again below, all parts closed
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


def open_parts() -> Sequence[Parts]:
    """Return what is open in this process: one in a service, more only in tests and scripts."""
    return _open
