"""Parts that are opened for one test and closed after it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from clearway.offload.processes import Processes
from clearway.offload.threads import Threads
from clearway.settings import OffloadSettings


@pytest.fixture
async def processes(anyio_backend: object) -> AsyncIterator[Processes]:
    """Two workers at most, not nice, so that the tests do not wait for the processor."""
    part = Processes(OffloadSettings(processes=2, queue_limit=100, nice=0))
    await part.open()
    yield part
    await part.close()


@pytest.fixture
async def threads(anyio_backend: object) -> AsyncIterator[Threads]:
    """Two threads at most."""
    part = Threads(OffloadSettings(threads=2, queue_limit=3))
    await part.open()
    yield part
    await part.close()
