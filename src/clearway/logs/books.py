"""Count every log line: given, written, dropped, waiting."""

from __future__ import annotations

import time
from dataclasses import dataclass

from clearway.logs.backlog import BANDS

_REPORT_EVERY = 1.0  # seconds, where the queue is never through


@dataclass(frozen=True, slots=True)
class Dropped:
    """Lines that were dropped since the last report.

    Attributes:
        by_level: How many of each level.
        since: Unix time of the first, in seconds.
    """

    by_level: dict[str, int]
    since: float


@dataclass(frozen=True, slots=True)
class WriterSnapshot:
    """The writer's books: `emitted` is always `written` + `lost` + `pending`.

    Attributes:
        emitted: Lines that were given to the writer, its own drop reports included.
        written: Lines that the target took whole.
        dropped: Lines that were given up, by the name of their level.
        pending: Lines that wait in memory.
        pending_bytes: Memory of the waiting lines in bytes, overhead included.
    """

    emitted: int
    written: int
    dropped: dict[str, int]
    pending: int
    pending_bytes: int

    @property
    def lost(self) -> int:
        """Return the number of dropped lines of all levels."""
        return sum(self.dropped.values())


class Books:
    """The counts of one writer, and what of them its stream has not been told yet.

    Attributes:
        emitted: Lines that were given to the writer.
        written: Lines that the target took whole.
    """

    def __init__(self) -> None:
        self.emitted = self.written = 0
        self._dropped = [0] * len(BANDS)
        self._unreported = [0] * len(BANDS)
        self._since = self._reported_at = 0.0

    def drop(self, place: int, count: int = 1) -> None:
        """Count lines of one band as given up."""
        self._dropped[place] += count
        self._unreported[place] += count
        if count and not self._since:
            self._since = time.time()

    @property
    def untold(self) -> bool:
        """Say whether lines were dropped since the last report."""
        return self._since > 0

    def report_due(self, *, through: bool) -> bool:
        """Say whether to report now: the queue is through, or a second has passed."""
        late = time.monotonic() - self._reported_at >= _REPORT_EVERY
        return self.untold and (through or late)

    def take_report(self) -> Dropped:
        """Return what is untold, and count it as told."""
        report = Dropped(_named(self._unreported), self._since)
        self._unreported = [0] * len(BANDS)
        self._since = 0.0
        self._reported_at = time.monotonic()
        return report

    def snapshot(self, pending: int, pending_bytes: int) -> WriterSnapshot:
        """Return the books beside what waits."""
        return WriterSnapshot(
            self.emitted, self.written, _named(self._dropped), pending, pending_bytes
        )


def _named(counts: list[int]) -> dict[str, int]:
    return {name: count for name, count in zip(BANDS, counts, strict=True) if count}
