"""Fixed-bucket histograms."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearway.core.histogram import BOUNDS, Histogram

durations = st.lists(st.floats(min_value=0, max_value=1000, allow_nan=False), max_size=60)


@given(durations)
def test_every_observation_is_counted_once(seconds: list[float]) -> None:
    """Counts, sum and maximum agree with the observations, whatever they are."""
    histogram = Histogram()
    for value in seconds:
        histogram.observe(value)

    snapshot = histogram.snapshot()

    assert snapshot.count == len(seconds)
    assert snapshot.total == pytest.approx(sum(seconds))
    assert snapshot.longest == max(seconds, default=0.0)
    for index, count in enumerate(snapshot.counts):
        assert count == sum(bisect_left(BOUNDS, value) == index for value in seconds)


@given(durations, st.floats(min_value=0.01, max_value=1))
def test_a_quantile_is_an_upper_bound_within_its_bucket(seconds: list[float], q: float) -> None:
    """No fewer than the asked share of observations lies at or below the quantile."""
    histogram = Histogram()
    for value in seconds:
        histogram.observe(value)

    bound = histogram.snapshot().quantile(q)

    assert sum(value <= bound for value in seconds) >= q * len(seconds)
    assert bound <= max(seconds, default=0.0)


def test_an_observation_on_a_bound_belongs_to_that_bucket() -> None:
    """Upper bounds are inclusive, as in Prometheus and OpenTelemetry."""
    histogram = Histogram()

    histogram.observe(BOUNDS[3])

    assert histogram.snapshot().counts[3] == 1


def test_a_snapshot_does_not_change_later() -> None:
    """A snapshot is a copy."""
    histogram = Histogram()
    snapshot = histogram.snapshot()

    histogram.observe(1.0)

    assert snapshot.count == 0
    assert snapshot.mean == 0.0
