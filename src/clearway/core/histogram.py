"""Count durations in fixed buckets, cheaply enough for every wait of every request."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

# Seconds. The upper part is OpenTelemetry's advice for http.server.request.duration; below
# it come the waits that the advice cannot tell apart and that a healthy lane lives in.
BOUNDS: tuple[float, ...] = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025,
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """A histogram as it stood when it was asked.

    Attributes:
        bounds: Upper bounds of the buckets in seconds, inclusive; one more bucket has none.
        counts: Observations per bucket, one longer than `bounds`.
        total: Sum of all observations in seconds.
        longest: The largest observation in seconds, 0.0 when there is none.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float
    longest: float

    @property
    def count(self) -> int:
        """Return the number of observations."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Return the mean in seconds, 0.0 when there is no observation."""
        return self.total / self.count if self.count else 0.0

    def quantile(self, q: float) -> float:
        """Return an upper bound in seconds of the `q` quantile (0 < q <= 1)."""
        rank = q * self.count
        seen = 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            seen += count
            if seen and seen >= rank:
                return min(bound, self.longest)
        return self.longest


class Histogram:
    """A mutable histogram over `BOUNDS`; one event loop writes, anyone may read."""

    __slots__ = ("_counts", "_longest", "_total")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._total = 0.0
        self._longest = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration, in seconds."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._total += seconds
        if seconds > self._longest:
            self._longest = seconds

    def snapshot(self) -> HistogramSnapshot:
        """Return the counts so far."""
        return HistogramSnapshot(BOUNDS, tuple(self._counts), self._total, self._longest)
