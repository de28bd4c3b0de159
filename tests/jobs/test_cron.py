"""Schedules: which moment has come, whatever the clocks do."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearway import JobContext, cron
from clearway.errors import JobDeclarationInvalid
from clearway.jobs.cron import Schedule
from clearway.jobs.declare import checked

BERLIN = ZoneInfo("Europe/Berlin")


def utc(text: str) -> datetime:
    """Return a moment of UTC, written `2026-03-29 01:00` and so on."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def walked(schedule: Schedule, start: datetime, end: datetime, step: timedelta) -> list[str]:
    """Return what a worker enqueues that looks every `step`."""
    moments: list[datetime] = []
    while start < end:
        slot = schedule.last_between(start, start + step)
        if slot is not None:
            moments.append(slot)
        start += step
    return [moment.isoformat(" ", "minutes").removesuffix("+00:00") for moment in moments]


def test_a_moment_that_has_come_is_returned_in_utc() -> None:
    """The interval is open at its beginning and closed at its end."""
    schedule = Schedule("30 4 * * *")

    assert schedule.last_between(utc("2026-05-01 04:29"), utc("2026-05-01 04:31")) == utc(
        "2026-05-01 04:30"
    )
    assert schedule.last_between(utc("2026-05-01 04:29"), utc("2026-05-01 04:30")) == utc(
        "2026-05-01 04:30"
    )
    assert schedule.last_between(utc("2026-05-01 04:30"), utc("2026-05-01 04:31")) is None
    assert schedule.last_between(utc("2026-05-01 04:31"), utc("2026-05-02 04:29")) is None


def test_of_several_that_were_missed_only_the_last_counts() -> None:
    """A worker that was away for an hour does not run a job of each minute sixty times."""
    schedule = Schedule("* * * * *")

    assert schedule.last_between(utc("2026-05-01 04:00"), utc("2026-05-01 05:00:30")) == utc(
        "2026-05-01 05:00"
    )


def test_a_moment_is_of_the_time_zone() -> None:
    """Three in the morning in Berlin is one or two o'clock UTC, winter and summer."""
    schedule = Schedule("0 3 * * *", "Europe/Berlin")

    assert schedule.last_between(utc("2026-01-10 00:00"), utc("2026-01-11 00:00")) == utc(
        "2026-01-10 02:00"
    )
    assert schedule.last_between(utc("2026-07-10 00:00"), utc("2026-07-11 00:00")) == utc(
        "2026-07-10 01:00"
    )


@pytest.mark.parametrize("step", [timedelta(seconds=1), timedelta(seconds=30), timedelta(hours=12)])
def test_an_hour_that_does_not_exist_runs_right_after_the_gap(step: timedelta) -> None:
    """At 02:30 on the last Sunday of March, which is not there, the job runs at 03:00."""
    schedule = Schedule("30 2 * * *", "Europe/Berlin")
    start = utc("2026-03-29 00:30") if step < timedelta(hours=1) else utc("2026-03-28 12:00")
    end = utc("2026-03-29 02:30") if step < timedelta(hours=1) else utc("2026-03-30 12:00")
    seen = walked(schedule, start, end, step)

    assert seen[0] == "2026-03-29 01:00"
    assert seen[1:] == ([] if step < timedelta(hours=1) else ["2026-03-30 00:30"])


@pytest.mark.parametrize("step", [timedelta(seconds=1), timedelta(minutes=7), timedelta(hours=12)])
def test_an_hour_that_comes_twice_runs_once(step: timedelta) -> None:
    """At 02:30 on the last Sunday of October, which comes twice, the job runs once."""
    schedule = Schedule("30 2 * * *", "Europe/Berlin")
    short = step < timedelta(hours=1)
    start = utc("2026-10-24 23:30") if short else utc("2026-10-24 12:00")
    end = utc("2026-10-25 02:30") if short else utc("2026-10-26 00:00")

    assert walked(schedule, start, end, step) == ["2026-10-25 00:30"]


def test_every_hour_is_every_hour_when_clocks_change() -> None:
    """A schedule with stars in its hours goes on by real time through both changes."""
    schedule = Schedule("0 * * * *", "Europe/Berlin")
    for day in ("2026-03-29", "2026-10-25"):
        start = utc(f"{day} 00:00") - timedelta(hours=3)
        seen = walked(schedule, start, start + timedelta(hours=8), timedelta(minutes=20))
        hours = [datetime.fromisoformat(moment) for moment in seen]
        gaps = {later - earlier for earlier, later in itertools.pairwise(hours)}
        assert gaps == {timedelta(hours=1)}, day


@given(
    st.sampled_from(["*/7 * * * *", "15 * * * *", "30 2 * * *", "0 0 * * 0", "0 12 29 2 *"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
    st.datetimes(datetime(2025, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC)),
    st.timedeltas(timedelta(seconds=1), timedelta(hours=30)),
)
def test_what_is_returned_lies_in_the_interval(
    expression: str, zone: str, after: datetime, length: timedelta
) -> None:
    """Whatever the zone, the moment lies in (after, until], and is the last one there."""
    schedule = Schedule(expression, zone)
    last = schedule.last_between(after, after + length)
    if last is None:
        return

    assert last.tzinfo is UTC
    assert after < last <= after + length
    assert schedule.last_between(last, after + length) is None


def test_any_zone_may_be_asked_with() -> None:
    """The ends of the interval may be of any time zone."""
    schedule = Schedule("0 3 * * *", "Europe/Berlin")
    after = datetime(2026, 7, 10, 2, 59, tzinfo=BERLIN)

    assert schedule.last_between(after, after + timedelta(minutes=2)) == utc("2026-07-10 01:00")


def test_six_fields_begin_with_seconds() -> None:
    """Every ten seconds is a schedule, too."""
    schedule = Schedule("*/10 * * * * *")

    assert schedule.last_between(utc("2026-05-01 04:00:01"), utc("2026-05-01 04:00:29")) == utc(
        "2026-05-01 04:00:20"
    )


# Declarations


async def nightly(days: int = 1) -> None:
    """Stand for a job."""


async def needy(days: int) -> None:
    """Stand for a job."""


async def informed(context: JobContext, days: int = 1) -> None:
    """Stand for a job."""


def test_a_cron_job_has_its_schedule() -> None:
    """It is a job like any other, with a schedule beside."""
    one = cron("0 3 * * *", timezone="Europe/Berlin", late=60, queue="nightly", retries=1)(nightly)

    assert one.schedule == Schedule("0 3 * * *", "Europe/Berlin", 60)
    assert (one.queue, one.retries, one.body) == ("nightly", 1, "loop")
    assert checked({one.name: one})


@pytest.mark.parametrize(
    "expression",
    ["", "0 3 * *", "61 * * * *", "0 25 * * *", "daily", "0 0 30 2 *", "* * * * * * *"],
)
def test_an_expression_that_means_nothing_is_refused(expression: str) -> None:
    """It is found at the declaration, with an example of how to write one."""
    with pytest.raises(JobDeclarationInvalid) as refused:
        cron(expression)

    assert repr(expression) in refused.value.what
    assert '"0 3 * * *"' in refused.value.fix


@pytest.mark.parametrize("zone", ["Europe/Berlyn", "", "../etc/passwd", "CET+1/x", "Europe"])
def test_a_time_zone_that_is_none_is_refused(zone: str) -> None:
    """It is found at the declaration, with an example of a name."""
    with pytest.raises(JobDeclarationInvalid) as refused:
        cron("0 3 * * *", timezone=zone)

    assert repr(zone) in refused.value.what
    assert "Europe/Berlin" in refused.value.fix


@pytest.mark.parametrize("late", [-1.0, 0.0, float("nan"), float("inf"), 1e7])
def test_a_window_that_means_nothing_is_refused(late: float) -> None:
    """How late a run may be made up for is a number of seconds."""
    with pytest.raises(JobDeclarationInvalid, match="late"):
        cron("0 3 * * *", late=late)


def test_a_schedule_cannot_give_arguments() -> None:
    """A cron function with a parameter that nobody supplies is refused at the start."""
    one = cron("0 3 * * *")(needy)
    with pytest.raises(JobDeclarationInvalid) as refused:
        checked({one.name: one})

    assert "cannot give it days" in refused.value.what
    assert "defaults" in refused.value.fix


@pytest.mark.parametrize("fn", [nightly, informed])
def test_defaults_and_what_is_supplied_are_enough(fn: Callable[..., Any]) -> None:
    """A schedule needs nothing else."""
    one = cron("0 3 * * *")(fn)

    assert checked({one.name: one})
