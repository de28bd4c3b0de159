"""Hold the lines that the target does not take yet, in a bounded number of real bytes."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

BANDS = ("debug", "info", "warning", "error", "critical")
_STARTS = (20, 30, 40, 50)
_ERROR = BANDS.index("error")

# What a queued line costs beside its text (sizes of CPython 3.11 on 64 bit): the bytes object
# 33, its tuple 64, the sequence number 32, its slot in the deque 8.
OVERHEAD = 137


def band(level: int) -> int:
    """Return the index in `BANDS` of a numeric level; levels in between fall to the lower."""
    return bisect_right(_STARTS, level)


class Backlog:
    """A queue in order of arrival that, when full, gives up its least important lines.

    A line that finds no room first turns out lines of lower levels, the oldest first. An
    eighth of the room is kept for `error` and above.

    Args:
        limit: Most bytes of memory, overhead included.
    """

    __slots__ = ("_bands", "_count", "_limit", "_next", "_reserve", "_size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reserve = limit // 8
        self._bands: tuple[deque[tuple[int, bytes]], ...] = tuple(deque() for _ in BANDS)
        self._size = 0
        self._count = 0
        self._next = 0

    def __len__(self) -> int:
        return self._count

    @property
    def size(self) -> int:
        """Return the bytes of memory in use."""
        return self._size

    def push(self, line: bytes, place: int) -> list[int]:
        """Queue a line, and return the bands of the lines that had to go for it.

        Args:
            line: One rendered line. The caller hands over a copy without spare room: orjson's
                own results hold 4 KiB each, whatever their length (measured).
            place: The line's band; it is in the result if the line itself found no room.
        """
        room = self._limit if place >= _ERROR else self._limit - self._reserve
        cost = len(line) + OVERHEAD
        if cost > room:
            return [place]
        gone: list[int] = []
        while self._size + cost > room:
            victim = next((low for low in range(place) if self._bands[low]), None)
            if victim is None:
                return [*gone, place]
            self._remove(victim)
            gone.append(victim)
        self._bands[place].append((self._next, line))
        self._next += 1
        self._size += cost
        self._count += 1
        return gone

    def pop(self, most: int) -> list[tuple[bytes, int]]:
        """Remove the oldest lines, with their bands: at least one, then up to `most` bytes."""
        taken: list[tuple[bytes, int]] = []
        total = 0
        while self._count:
            place = min(
                (low for low, lines in enumerate(self._bands) if lines),
                key=lambda low: self._bands[low][0][0],
            )
            length = len(self._bands[place][0][1])
            if taken and total + length > most:
                break
            total += length
            taken.append((self._remove(place), place))
        return taken

    def clear(self) -> list[int]:
        """Remove every line and return how many there were in each band."""
        counts = [len(lines) for lines in self._bands]
        for lines in self._bands:
            lines.clear()
        self._size = self._count = 0
        return counts

    def _remove(self, place: int) -> bytes:
        _, line = self._bands[place].popleft()
        self._size -= len(line) + OVERHEAD
        self._count -= 1
        return line
