"""Write log lines without ever waiting for whoever reads them, and account for each."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable

from clearway.logs import sinks
from clearway.logs.backlog import BANDS, Backlog, band
from clearway.logs.books import Books, Dropped, WriterSnapshot
from clearway.logs.drains import Drain, LoopDrain, ThreadDrain, await_room
from clearway.logs.flight import Flight

_BATCHES_AT_A_TIME = 64  # 256 KiB on a pipe: under a millisecond of the loop
_BACK_OFF = (1.0, 60.0)  # seconds after a first failure, and the longest


class Writer:
    """Write lines at once where the target takes them, else queue, else drop and count.

    Any thread, any loop and any signal handler may call `write`. One of them at a time owns
    the books, through a lock that is only ever tried: whoever finds it taken leaves the line
    in an inbox, and the owner looks there after letting go. So nobody waits for anybody, and
    a signal handler that interrupts the owner cannot deadlock.

    Args:
        fd: Where to write. It is duplicated; its flags are never changed.
        buffer_bytes: Most bytes of memory for lines that the target does not take.
        max_line_bytes: Longest line that callers should make; by default 4,096 on a pipe,
            where a longer one could be torn by other processes, and 16,000 elsewhere.
        report: Renders the line that tells of dropped lines.
        probe: Finds the way to write to `fd`.
    """

    def __init__(
        self,
        fd: int,
        *,
        report: Callable[[Dropped], bytes],
        buffer_bytes: int = 1 << 20,
        max_line_bytes: int | None = None,
        probe: sinks.Probe = sinks.probe,
    ) -> None:
        self.max_line_bytes = max_line_bytes or (sinks.PIPE_BUF if sinks.is_pipe(fd) else 16_000)
        self._buffer_bytes = buffer_bytes
        self._report = report
        self._sink = probe(fd)
        self._closed = False
        self._begin()
        _writers.add(self)
        _watch_forks()

    def _begin(self) -> None:
        """Start with empty books: at first, and in a forked child, whose parent keeps its own."""
        self._owner = threading.Lock()
        self._inbox: deque[tuple[bytes, int]] = deque()
        self._backlog = Backlog(self._buffer_bytes)
        self._flight: Flight | None = None
        self._books = Books()
        self._broken_until = self._back_off = 0.0
        self._last = self._books.snapshot(0, 0)
        self._drain: Drain = (
            ThreadDrain(self._step)
            if self._sink.blocks
            else LoopDrain(self._sink.fd, self._pump, self._follow_up)
        )

    def write(self, line: bytes, level: int) -> None:
        """Write, queue or drop one line; never wait and never raise.

        Args:
            line: One line with its end, at most `max_line_bytes` long.
            level: Its level as a number of `logging`.
        """
        owner = self._owner
        if owner.acquire(False):
            try:
                self._admit(line, level)
            finally:
                owner.release()
        else:
            self._inbox.append((line, level))
        if self._inbox or self._flight is not None or self._backlog:
            self._follow_up()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the loop that moves queued lines on for threads that log before it does."""
        self._drain.attach(loop)

    def flush(self, within: float) -> None:
        """Wait until the target has taken every line, at most `within` seconds."""
        until = time.monotonic() + within
        self._follow_up()
        while self.snapshot().pending and (remaining := until - time.monotonic()) > 0:
            if self._sink.blocks:
                self._drain.wake()
                time.sleep(0.001)
            else:
                await_room(self._sink.fd, min(remaining, 0.05))
                self._pump()

    def close(self, within: float) -> None:
        """Flush, count what is left as dropped, and give the descriptor back.

        Args:
            within: Longest wait in seconds. A second call does nothing.
        """
        if self._closed:
            return
        self.flush(within)
        self._closed = True
        left = self.snapshot().pending
        if self._owner.acquire(timeout=0.05):
            try:
                self._drop_all()
            finally:
                self._owner.release()
        if left:
            _say(f"clearway: the log target took nothing for {within:g} s; {left} lines are lost")
        self._drain.stop(self._sink.close)
        _writers.discard(self)

    def snapshot(self) -> WriterSnapshot:
        """Return the books as they stand."""
        # Nobody holds the lock for longer than one pass; only a signal handler that has
        # interrupted the owner finds it taken for longer, and gets the last snapshot.
        if not self._owner.acquire(timeout=0.05):
            return self._last
        try:
            self._absorb()
            self._last = self._count()
        finally:
            self._owner.release()
        self._follow_up()
        return self._last

    # What follows up to `_follow_up` is called by the owner of the lock only.

    def _absorb(self) -> None:
        while self._inbox:
            self._admit(*self._inbox.popleft())

    def _admit(self, line: bytes, level: int) -> None:
        self._books.emitted += 1
        if self._closed or (self._broken_until and time.monotonic() < self._broken_until):
            self._books.drop(band(level))
        elif self._flight is None and not self._backlog and not self._sink.blocks:
            self._send(line, level)
        else:
            self._queue(line, band(level))

    def _send(self, line: bytes, level: int) -> None:
        try:
            taken = self._sink.offer(line)
        except OSError as error:
            self._books.drop(band(level))
            self._fail(error)
            return
        if taken == len(line):
            self._books.written += 1
            self._broken_until = self._back_off = 0.0
            if self._books.untold:
                self._flight = self._next_flight()
        else:
            self._flight = Flight([(line, band(level))], taken)

    def _queue(self, line: bytes, place: int) -> None:
        for gone in self._backlog.push(bytes(memoryview(line)), place):
            self._books.drop(gone)

    def _drop_all(self) -> None:
        self._absorb()
        if self._flight is not None:
            for place in self._flight.bands:
                self._books.drop(place)
            self._flight = None
        for place, count in enumerate(self._backlog.clear()):
            self._books.drop(place, count)

    def _fail(self, error: OSError) -> None:
        """Give up what waits, and try again only after a while."""
        if not self._back_off and not self._closed:
            _say(f"clearway: the log target is broken, lines are dropped and counted: {error}")
        first, longest = _BACK_OFF
        self._back_off = min(longest, self._back_off * 2 or first)
        self._broken_until = time.monotonic() + self._back_off
        self._drop_all()

    def _settle(self, flight: Flight, taken: int) -> None:
        if self._flight is not flight:
            return  # closed or failed while the thread was writing
        self._books.written += flight.advance(taken)
        self._broken_until = self._back_off = 0.0
        if not flight.bands:
            self._flight = None

    def _next_flight(self) -> Flight | None:
        """Take the drop report if it is due, else the oldest lines."""
        stuck = self._broken_until or self._closed
        if not stuck and self._books.report_due(through=not self._backlog):
            line = self._make_report()
            if line is not None:
                self._books.emitted += 1
                return Flight([(line, BANDS.index("warning"))])
        lines = self._backlog.pop(self._sink.batch)
        return Flight(lines) if lines else None

    def _make_report(self) -> bytes | None:
        report = self._books.take_report()
        try:
            return self._report(report)
        except Exception:  # noqa: BLE001 - the counters stand; a report must not stop the lines
            return None

    def _count(self) -> WriterSnapshot:
        flying = self._flight
        return self._books.snapshot(
            len(self._backlog) + (len(flying.bands) if flying else 0),
            self._backlog.size + (len(flying) if flying else 0),
        )

    # What follows takes the lock itself.

    def _follow_up(self) -> None:
        """After letting go: take in what others left meanwhile, and have the queue moved on."""
        while True:
            while self._inbox and self._owner.acquire(False):
                self._absorb_and_release()
            if self._closed or (self._flight is None and not self._backlog):
                return
            self._drain.wake()
            # Whoever holds the lock now will look into the inbox after letting go.
            if not self._inbox or self._owner.locked():
                return

    def _absorb_and_release(self) -> None:
        try:
            self._absorb()
        finally:
            self._owner.release()

    def _pump(self) -> bool:
        """Move on what the target takes now, and say whether that was anything."""
        if not self._owner.acquire(False):
            return False
        moved = False
        try:
            self._absorb()
            for _ in range(_BATCHES_AT_A_TIME):
                if not self._move_on():
                    break
                moved = True
            if self._flight is None and not self._backlog:
                self._drain.idle()
        finally:
            self._owner.release()
        return moved

    def _move_on(self) -> bool:
        self._flight = flight = self._flight or self._next_flight()
        if flight is None or self._closed:
            return False
        try:
            taken = self._sink.offer(flight.rest)
        except OSError as error:
            self._fail(error)
            return False
        self._settle(flight, taken)
        return taken > 0

    def _step(self) -> bool:
        """Write one batch and wait for it, in the writer's thread."""
        with self._owner:
            self._absorb()
            self._flight = flight = self._flight or self._next_flight()
        if flight is None or self._closed:
            return False
        try:
            taken = self._sink.offer(flight.rest)
        except OSError as error:
            with self._owner:
                self._fail(error)
            return False
        with self._owner:
            self._settle(flight, taken)
        return True


_writers: weakref.WeakSet[Writer] = weakref.WeakSet()


@functools.cache
def _watch_forks() -> None:
    # touchpoint: at-fork. Python cannot take a hook back; without a writer it does nothing.
    os.register_at_fork(after_in_child=_begin_in_child)


def _begin_in_child() -> None:
    for writer in list(_writers):
        writer._drain.abandon()
        writer._begin()


def _say(text: str) -> None:
    """Write one line to stderr if that takes it at once."""
    with contextlib.suppress(OSError):  # there is no third place to complain to
        ready = select.poll()
        ready.register(2, select.POLLOUT)
        if ready.poll(0):
            os.write(2, text.encode("utf-8", "backslashreplace")[:500] + b"\n")
