"""When a failed job runs again."""

from __future__ import annotations

import random

LONGEST = 3600.0
"""Seconds between two attempts at most."""


def delay(attempt: int, backoff: float) -> float:
    """Return the seconds to wait after an attempt has failed.

    Doubles with each attempt, and half of it is random, so that jobs that failed together do
    not come back together ("equal jitter":
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).

    Args:
        attempt: The attempt that failed, from 1.
        backoff: Seconds after the first.
    """
    whole = min(LONGEST, backoff * 2.0 ** min(attempt - 1, 32))
    return whole * random.uniform(0.5, 1.0)  # noqa: S311 - nothing secret
