"""Measure two or more things in turn, so that a machine that drifts drifts under all of them."""

from __future__ import annotations

import platform
import statistics
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and the range it comes from."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Return the spread of some values."""
        return cls(min(values), statistics.median(values), max(values))


def interleaved(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run every side once in each round and return what each measured.

    Args:
        sides: What to measure, by name; each call returns one figure.
        rounds: How often; the order is turned around in every second round.
    """
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        names = list(sides)
        for name in names if turn % 2 == 0 else reversed(names):
            figures[name].append(sides[name]())
    return figures


async def in_turn(
    sides: Mapping[str, Callable[[], Awaitable[T]]], rounds: int
) -> dict[str, list[T]]:
    """Do what `interleaved` does, for sides that wait."""
    found: dict[str, list[T]] = {name: [] for name in sides}
    for turn in range(rounds):
        names = list(sides)
        for name in names if turn % 2 == 0 else reversed(names):
            found[name].append(await sides[name]())
    return found


def ratios(figures: Mapping[str, list[float]], base: str) -> dict[str, Spread]:
    """Return each side's ratio to `base`, pair by pair."""
    return {
        name: Spread.of([a / b for a, b in zip(values, figures[base], strict=True)])
        for name, values in figures.items()
    }


def machine() -> str:
    """Return one line about where the figures come from."""
    return f"{platform.system()} {platform.machine()}, Python {sys.version.split()[0]}"
