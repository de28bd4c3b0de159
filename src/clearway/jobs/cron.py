"""Schedules: which moment of a cron expression has come."""

from __future__ import annotations

import zoneinfo
from dataclasses import dataclass
from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

from clearway.errors import JobDeclarationInvalid

_SHORTEST_LATE = 5.0  # workers look every second
_LONGEST_LATE = 2_592_000.0  # for 30 days the store remembers which moments were enqueued
_MOST_SLOTS = 100_000  # a slot every second, for a day: more is not walked in one look


@dataclass(frozen=True, slots=True)
class Schedule:
    """A cron expression in a time zone.

    Args:
        expression: Five fields as in crontab(5), or six with seconds first.
        timezone: A name of the IANA database. Where clocks change, a job that is due at an
            hour that does not exist runs right after the gap, and one at an hour that comes
            twice runs once, as with Debian's cron.
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
        except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
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
        zone = UTC if self.timezone == "UTC" else zoneinfo.ZoneInfo(self.timezone)
        # Forwards: backwards cronsim 2.8 skips a day in the hour that comes twice.
        moments = CronSim(self.expression, after.astimezone(zone))
        last: datetime | None = None
        for _ in range(_MOST_SLOTS):
            moment = next(moments, None)
            if moment is None or moment > until:
                break
            if moment > after:
                last = moment.astimezone(UTC)
        return last
