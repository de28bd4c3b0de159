"""Deadlines."""

from __future__ import annotations

import time

from clearway.core.deadline import Deadline


def test_a_deadline_counts_down_to_zero_and_not_below() -> None:
    """What remains is never negative, so that it can be given to any timeout."""
    assert 99 < Deadline.after(100).remaining() <= 100
    assert Deadline(time.monotonic() - 5).remaining() == 0.0


def test_a_deadline_passes() -> None:
    """A deadline in the past says so, one in the future does not."""
    assert Deadline.after(0).passed
    assert not Deadline.after(100).passed


def test_the_earlier_deadline_is_the_smaller_one() -> None:
    """`min` picks the deadline that binds."""
    early, late = Deadline.after(1), Deadline.after(2)

    assert min(late, early) is early
