"""Schedules: which moment of a cron expression has come."""

from __future__ import annotations

import zoneinfo
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cronsim import CronSim, CronSimError

from clearway.errors import JobDeclarationInvalid

_SHORTEST_LATE = 5.0  # workers look every second
_LONGEST_LATE = 2_592_000.0  # for 30 days the store remembers which moments were enqueued
_SPANS = (
    timedelta(minutes=1), timedelta(hours=1), timedelta(days=1), timedelta(seconds=_LONGEST_LATE),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Schedule:
    """A cron expression in a time zone.

    Args:
        expression: Five fields as in crontab(5), or six with seconds first.
        timezone: A name of the IANA database. Where clocks change, a job for a fixed time that
            does not exist runs right after the gap, and one for a time that comes twice runs
            once, as with Debian's cron; where hour or minute begins with `*` it goes by the
            clock as it is.
        late: Seconds after its moment for which a missed run is made up for, 5 to 2,592,000; of
            several that were missed only the last is.

    Raises:
        JobDeclarationInvalid: The expression or the time zone cannot be understood, or `late`
            is out of its bounds.
    """

    expression: str
    timezone: str = "UTC"
    late: float = 600.0

    def __post_init__(self) -> None:
        try:
            CronSim(self.expression, datetime.now(UTC))
        except CronSimError as error:
            raise JobDeclarationInvalid(
                f"the schedule {self.expression!r} cannot be understood: {error}",
                fix='write it as in crontab: "minute hour day month weekday", "0 3 * * *"',
            ) from error
        try:
            zoneinfo.ZoneInfo(self.timezone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:  # a folder, say
            raise JobDeclarationInvalid(
                f"there is no time zone {self.timezone!r}",
                fix="name it as in the IANA database, such as Europe/Berlin; where the machine "
                "has none, pip install tzdata",
            ) from error
        if not _SHORTEST_LATE <= self.late <= _LONGEST_LATE:
            raise JobDeclarationInvalid(
                f"the schedule {self.expression!r} has late={self.late}",
                fix=f"late is {_SHORTEST_LATE:g} to {_LONGEST_LATE:g} seconds",
            )

    def last_between(self, after: datetime, until: datetime) -> datetime | None:
        """Return the last moment in (after, until], None where there is none.

        Args:
            after: With a time zone.
            until: With a time zone.
        """
        # Only as far back as it has to be: a schedule by the second has 86,400 moments a day.
        for span in _SPANS:
            moment = self._last_between(max(after, until - span), until)
            if moment is not None or until - span <= after:
                return moment
        return None

    def _last_between(self, after: datetime, until: datetime) -> datetime | None:
        zone = UTC if self.timezone == "UTC" else zoneinfo.ZoneInfo(self.timezone)
        # Forwards: backwards cronsim 2.8 skips a day in the hour that comes twice.
        last: datetime | None = None
        for moment in CronSim(self.expression, after.astimezone(zone)):
            if moment > until:
                break
            if moment > after:
                last = moment.astimezone(UTC)
        return last
