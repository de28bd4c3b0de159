"""Declare functions as jobs, and keep the list of those that are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, overload

from clearway.errors import JobDeclarationInvalid
from clearway.jobs.cron import Schedule
from clearway.jobs.job import Job
from clearway.state import Resource

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from clearway.jobs.context import JobContext


class _HttpSession(Protocol):
    """An aiohttp `ClientSession`, told by its shape so that types need no aiohttp."""

    @property
    def connector(self) -> Any: ...
    @property
    def cookie_jar(self) -> Any: ...
    def ws_connect(self, url: Any) -> Any: ...


P = ParamSpec("P")
R = TypeVar("R")
S1 = TypeVar("S1", bound="AsyncSession | JobContext | _HttpSession")
S2 = TypeVar("S2", bound="AsyncSession | JobContext | _HttpSession")
S3 = TypeVar("S3", bound="AsyncSession | JobContext | _HttpSession")

registry: dict[str, Job[..., ..., Any]] = {}
"""Every job that this process has declared, by its name."""


class _Declare(Protocol):
    """What `job(...)` returns: it tells what the worker supplies from what is enqueued."""

    @overload
    def __call__(
        self, fn: Callable[Concatenate[S1, S2, S3, P], R], /
    ) -> Job[Concatenate[S1, S2, S3, P], P, R]: ...
    @overload
    def __call__(
        self, fn: Callable[Concatenate[S1, S2, P], R], /
    ) -> Job[Concatenate[S1, S2, P], P, R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[S1, P], R], /) -> Job[Concatenate[S1, P], P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Job[P, P, R]: ...


def job(
    *,
    retries: int = 3,
    backoff: float = 2.0,
    timeout: float = 300.0,
    run_in: Literal["thread", "process"] | None = None,
    queue: str = "default",
) -> _Declare:
    """Declare a function as a job.

    An `async def` function runs on the worker's loop, a plain one in a thread, or in a process
    that is killed at the timeout. What the worker supplies comes first: `DbSession`,
    `ReadDbSession`, `HttpClient`, a resource, `JobContext`. With a `DbSession` the job's effects
    and its completion commit together; other effects may happen again after a crash.

    Args:
        retries: Attempts after the first before it lands in the failure queue.
        backoff: Seconds before the first retry; doubled for each other, at most an hour.
        timeout: Seconds that one attempt may take.
        run_in: For a plain function: `thread` (the default) or `process`.
        queue: A name; workers may serve some queues only.

    Raises:
        JobDeclarationInvalid: The function cannot be one.
    """

    def declare(fn: Callable[..., Any]) -> Job[..., ..., Any]:
        return _declared(
            Job(fn, run_in=run_in, queue=queue, retries=retries, backoff=backoff, timeout=timeout)
        )

    return declare  # type: ignore[return-value]  # the overloads say it for each shape


def cron(
    expression: str,
    *,
    timezone: str = "UTC",
    late: float = 600.0,
    retries: int = 3,
    backoff: float = 2.0,
    timeout: float = 300.0,
    run_in: Literal["thread", "process"] | None = None,
    queue: str = "default",
) -> _Declare:
    """Declare a function as a job that also runs by itself, once for each moment.

    Every worker looks at the clock; one unique row for each moment says who enqueues.

    Args:
        expression: As in crontab(5): minute, hour, day, month, weekday.
        timezone: A name of the IANA database.
        late: Seconds for which a missed moment is made up for, 5 to 2,592,000.
        retries: As for `job`.
        backoff: As for `job`.
        timeout: As for `job`.
        run_in: As for `job`.
        queue: As for `job`.

    Raises:
        JobDeclarationInvalid: The schedule or the function cannot be used.
    """
    schedule = Schedule(expression, timezone, late)

    def declare(fn: Callable[..., Any]) -> Job[..., ..., Any]:
        return _declared(
            Job(
                fn, run_in=run_in, queue=queue, retries=retries, backoff=backoff, timeout=timeout,
                schedule=schedule,
            )
        )  # fmt: skip

    return declare  # type: ignore[return-value]  # the overloads say it for each shape


def checked(jobs: Mapping[str, Job[..., ..., Any]]) -> dict[str, Job[..., ..., Any]]:
    """Return jobs whose declarations a worker can hold to.

    Raises:
        JobDeclarationInvalid: One of them cannot be run.
    """
    for one in jobs.values():
        needed = one.arguments.required  # reads the annotations, too
        if one.schedule is not None and needed:
            raise JobDeclarationInvalid(
                f"job {one.name} has a schedule, which cannot give it {', '.join(needed)}",
                fix="let the worker supply its parameters, or give them defaults",
            )
    return dict(jobs)


def resources_of(jobs: Iterable[Job[..., ..., Any]]) -> dict[Resource[Any], str]:
    """Return the resources that jobs take, and for each the first job that takes it."""
    taken: dict[Resource[Any], str] = {}
    for one in jobs:
        for source in one.arguments.supplied.values():
            if isinstance(source, Resource):
                taken.setdefault(source, f"job {one.name}")
    return taken


def _declared(declared: Job[..., ..., Any]) -> Job[..., ..., Any]:
    registry[declared.name] = declared
    return declared
