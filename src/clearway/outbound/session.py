"""The shared aiohttp session."""

from __future__ import annotations

import aiohttp

from clearway.core.lane import Lane
from clearway.outbound.middleware import LaneMiddleware
from clearway.outbound.trace import Hooks
from clearway.settings import OutboundSettings


def make_session(settings: OutboundSettings, lane: Lane, hooks: Hooks) -> aiohttp.ClientSession:
    """Return a session on the running loop, with the lane in front of it.

    Cookies are kept nowhere: the session is shared by the requests of all users.
    """
    connector = aiohttp.TCPConnector(
        limit=settings.max_connections, limit_per_host=settings.max_per_host
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=settings.timeout),
        trace_configs=[hooks.config()],
        middlewares=[LaneMiddleware(lane)],
    )
