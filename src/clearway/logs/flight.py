"""Lines on their way out in one write."""

from __future__ import annotations

from collections import deque


class Flight:
    """Lines that are on their way out in one piece; never evicted, never reordered.

    Args:
        lines: The lines with their bands.
        done: Bytes of the first that are out already.
    """

    __slots__ = ("_blob", "_done", "_ends", "bands")

    def __init__(self, lines: list[tuple[bytes, int]], done: int = 0) -> None:
        self._blob = b"".join(line for line, _ in lines)
        self._done = done
        self.bands = deque(place for _, place in lines)
        self._ends: deque[int] = deque()
        end = 0
        for line, _ in lines:
            end += len(line)
            self._ends.append(end)

    def __len__(self) -> int:
        return len(self._blob)

    @property
    def rest(self) -> memoryview:
        """Return what is not out yet."""
        return memoryview(self._blob)[self._done :]

    def advance(self, taken: int) -> int:
        """Note that `taken` more bytes are out, and return how many lines that completed."""
        self._done += taken
        before = len(self._ends)
        while self._ends and self._ends[0] <= self._done:
            self._ends.popleft()
            self.bands.popleft()
        return before - len(self._ends)
