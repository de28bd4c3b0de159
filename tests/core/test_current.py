"""The open parts, and how they are found."""

from __future__ import annotations

import pytest

from clearway.core.current import find
from clearway.core.journey import Journey, travelling
from clearway.core.parts import Parts
from clearway.errors import NotOpen, SeveralOpen

pytestmark = pytest.mark.anyio


class Engine:
    """A part that remembers what was done to it."""

    def __init__(self, log: list[str], *, breaks: bool = False) -> None:
        self.log = log
        self.breaks = breaks

    async def open(self) -> None:
        self.log.append(f"open {type(self).__name__}")

    async def close(self) -> None:
        self.log.append(f"close {type(self).__name__}")
        if self.breaks:
            raise RuntimeError("will not close")


class Wheels(Engine):
    """A second part."""


async def test_parts_close_in_reverse_order_even_when_one_fails() -> None:
    """The last opened closes first, a failure is raised after all have closed."""
    log: list[str] = []
    parts = Parts(None)
    await parts.open(Engine(log))
    await parts.open(Wheels(log, breaks=True))

    with pytest.raises(RuntimeError, match="will not close"):
        await parts.close()

    assert log == ["open Engine", "open Wheels", "close Wheels", "close Engine"]
    with pytest.raises(NotOpen):
        find(Engine, "engine")


async def test_a_journey_leads_to_its_own_parts() -> None:
    """Inside a journey its own Clearway is meant, however many are open."""
    one, two = Parts(None), Parts(None)
    mine, other = Engine([]), Engine([])
    await one.open(mine)
    await two.open(other)

    with travelling(Journey("request", parts=two)):
        assert find(Engine, "engine") is other
    with pytest.raises(SeveralOpen, match="2 Clearways are open"):
        find(Engine, "engine")
    await two.close()
    assert find(Engine, "engine") is mine
    await one.close()


async def test_what_is_not_open_is_named_with_the_fix() -> None:
    """The error names what was written and says how to open it."""
    with pytest.raises(NotOpen, match=r"offload\.process was used.*\n.*with TestClient"):
        find(Engine, "offload.process")
