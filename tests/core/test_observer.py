"""Observers never break what they watch."""

from __future__ import annotations

import pytest

from clearway.core.observer import Faults


def test_a_fault_is_counted_and_said_once(capfd: pytest.CaptureFixture[str]) -> None:
    """An exception goes no further; every one is counted, only the first is printed."""
    faults = Faults()

    def broken() -> None:
        raise KeyError("route")

    watch = faults.guarded("AccessLine.finished", broken)
    for _ in range(3):
        watch()

    assert faults.counts == {"AccessLine.finished": 3}
    assert capfd.readouterr().err.count("AccessLine.finished") == 1
