"""How an endpoint asks for the shared aiohttp session."""

from __future__ import annotations

from typing import Annotated

import aiohttp
from fastapi import Depends

from clearway.core.current import find
from clearway.outbound.outbound import Outbound


async def http_dependency() -> aiohttp.ClientSession:
    """Return the shared session."""
    return find(Outbound, "HttpClient").session


HttpClient = Annotated[aiohttp.ClientSession, Depends(http_dependency)]
"""The shared aiohttp session: pooled, bounded by the deadline, its waits in the ledger."""
