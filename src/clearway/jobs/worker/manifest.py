"""What the process with the application tells the one that holds its leases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from clearway.jobs.cron import Schedule
from clearway.jobs.job import Job
from clearway.jobs.store import JobName
from clearway.settings import (
    DatabaseSettings,
    JobSettings,
    LogSettings,
    OffloadSettings,
    OpsSettings,
    ServiceSettings,
    Settings,
)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a worker has to know of a job to hold its lease and to judge its end.

    Attributes:
        name: Its name, queue, kind of slot and schedule, as the store has them.
        retries: Attempts after the first.
        backoff: Seconds before the first retry.
        timeout: Seconds that one attempt may take.
        schedule: When it runs by itself.
    """

    name: JobName
    retries: int
    backoff: float
    timeout: float
    schedule: Schedule | None

    @classmethod
    def of(cls, job: Job[..., ..., Any]) -> Self:
        """Return the terms of a declared job."""
        schedule = job.schedule
        body = "process" if job.body == "process" else "loop"
        when = (schedule.expression, schedule.timezone) if schedule else (None, None)
        return cls(
            JobName(job.name, job.queue, body, *when),
            job.retries,
            job.backoff,
            job.timeout,
            schedule,
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    """The application's settings and jobs.

    Attributes:
        terms: Every job that is declared, by name.
        logs: None where the application's logs are not taken over.
    """

    service: ServiceSettings
    database: DatabaseSettings
    offload: OffloadSettings
    jobs: JobSettings
    ops: OpsSettings
    logs: LogSettings | None
    terms: Mapping[str, Terms]

    def to_json(self) -> dict[str, Any]:
        """Return it as a message; the URL with its password stays between our two processes."""
        url = self.database.url
        database = self.database.model_dump(mode="json")
        return {
            "service": self.service.model_dump(mode="json"),
            "database": database | {"url": url.get_secret_value() if url is not None else None},
            "offload": self.offload.model_dump(mode="json"),
            "jobs": self.jobs.model_dump(mode="json"),
            "ops": self.ops.model_dump(mode="json"),
            "logs": None if self.logs is None else self.logs.model_dump(mode="json"),
            "terms": [asdict(terms) for terms in self.terms.values()],
        }

    @classmethod
    def from_json(cls, message: Mapping[str, Any]) -> Self:
        """Return what `to_json` was made of."""
        logs = message["logs"]
        terms = [_terms(**values) for values in message["terms"]]
        return cls(
            service=ServiceSettings.model_validate(message["service"]),
            database=DatabaseSettings.model_validate(message["database"]),
            offload=OffloadSettings.model_validate(message["offload"]),
            jobs=JobSettings.model_validate(message["jobs"]),
            ops=OpsSettings.model_validate(message["ops"]),
            logs=None if logs is None else LogSettings.model_validate(logs),
            terms={one.name.name: one for one in terms},
        )

    @classmethod
    def of(
        cls, settings: Settings, url: str, jobs: Iterable[Job[..., ..., Any]], *, logs: bool
    ) -> Self:
        """Return the manifest of an application.

        Args:
            settings: The application's.
            url: Of the database that its engine leads to.
            jobs: What is declared.
            logs: Its logs are taken over.
        """
        terms = [Terms.of(job) for job in jobs]
        return cls(
            service=settings.service,
            database=settings.database.model_validate({**dict(settings.database), "url": url}),
            offload=settings.offload,
            jobs=settings.jobs,
            ops=settings.ops,
            logs=settings.logs if logs else None,
            terms={one.name.name: one for one in terms},
        )


def _terms(name: Mapping[str, Any], schedule: Mapping[str, Any] | None, **numbers: Any) -> Terms:
    return Terms(
        name=JobName(**name), schedule=Schedule(**schedule) if schedule else None, **numbers
    )
