"""Wait for what comes true soon, whatever the machine's speed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(holds: Callable[[], bool], patience: float = 20.0) -> None:
    """Return once it holds; fail where it does not within `patience` seconds."""
    async with asyncio.timeout(patience):
        while not holds():
            await asyncio.sleep(0.01)
