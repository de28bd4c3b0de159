"""The queue of lines that the target does not take yet."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clearway.logs.backlog import BANDS, OVERHEAD, Backlog, band

INFO, WARNING, ERROR = 1, 2, 3


def test_levels_fall_into_bands() -> None:
    """A level between two named ones belongs to the lower, and none is out of range."""
    assert [BANDS[band(level)] for level in (-1, 10, 19, 20, 25, 30, 40, 45, 50, 99)] == [
        "debug", "debug", "debug", "info", "info", "warning", "error", "error", "critical",
        "critical",
    ]  # fmt: skip


def test_lines_leave_in_the_order_of_their_arrival() -> None:
    """Levels share one order, and a batch is at most as long as was asked for."""
    backlog = Backlog(100_000)
    for number, place in enumerate((1, 3, 0, 2, 1)):
        assert backlog.push(b"%d" % number, place) == []
    assert backlog.pop(3) == [(b"0", 1), (b"1", 3), (b"2", 0)]
    assert backlog.pop(0) == [(b"3", 2)], "one line leaves however long it is"
    assert backlog.pop(10) == [(b"4", 1)]
    assert (len(backlog), backlog.size) == (0, 0)


def test_a_full_queue_gives_up_the_lowest_level_first() -> None:
    """A warning turns out debug before info, the oldest first, and never another warning."""
    cost = 100 + OVERHEAD
    backlog = Backlog(4 * cost * 8 // 7)
    for letter, place in ((b"i", 1), (b"d", 0), (b"D", 0), (b"w", 2)):
        assert backlog.push(letter * 100, place) == []
    assert backlog.push(b"W" * 100, WARNING) == [0]
    assert backlog.push(b"X" * 100, WARNING) == [0]
    assert backlog.push(b"Y" * 100, WARNING) == [INFO]
    assert backlog.push(b"Z" * 100, WARNING) == [WARNING], "then the newcomer itself"
    assert [line[:1] for line, _ in backlog.pop(10_000)] == [b"w", b"W", b"X", b"Y"]


def test_errors_have_room_when_warnings_fill_the_queue() -> None:
    """An eighth of the room takes errors even when nothing may be turned out for them."""
    backlog = Backlog(64_000)
    while not backlog.push(b"e" * 100, ERROR):
        pass
    full = Backlog(64_000)
    while not full.push(b"c" * 100, WARNING):
        pass
    kept = len(full)
    assert full.push(b"e" * 100, ERROR) == []
    assert len(full) == kept + 1
    assert len(backlog) > kept


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 900)), max_size=80))
def test_no_line_is_unaccounted_for(arrivals: list[tuple[int, int]]) -> None:
    """Whatever arrives, each line is queued or named as gone, and the limit holds."""
    backlog = Backlog(4_000)
    gone = 0
    for place, length in arrivals:
        gone += len(backlog.push(b"x" * length, place))
        assert backlog.size <= 4_000
    assert len(backlog) + gone == len(arrivals)
    waiting = len(backlog)
    assert sum(backlog.clear()) == waiting
    assert (len(backlog), backlog.size) == (0, 0)
