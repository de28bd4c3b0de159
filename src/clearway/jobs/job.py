"""A job: what it is, and how it is enqueued in the caller's own transaction."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Generic,
    Literal,
    ParamSpec,
    TypeVar,
)

from clearway.core.current import current_parts
from clearway.errors import JobArgumentsInvalid, JobDeclarationInvalid, NotOpen
from clearway.jobs.arguments import Arguments
from clearway.jobs.context import JobContext
from clearway.jobs.cron import Schedule
from clearway.jobs.outbox import Call, Outbox

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession


F = ParamSpec("F")
P = ParamSpec("P")
R = TypeVar("R")
Body = Literal["loop", "thread", "process"]
Window = Literal["pending", "minute", "hour", "day"]

_WINDOWS = {"pending": None, "minute": 60, "hour": 3600, "day": 86_400}
_LONGEST_KEY = 200
_LONGEST_DELAY = 10 * 366 * 86_400.0


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and when an enqueued job runs; what `options` sets.

    Attributes:
        queue: The queue it goes by.
        delay: Seconds from now before which it does not run.
        unique: How long a second one with the same arguments is the same job.
        key: What stands for the arguments in that; None for the arguments themselves.
    """

    queue: str
    delay: float = 0.0
    unique: Window | None = None
    key: str | None = None

    def holds(self, name: str, arguments: str) -> str | None:
        """Return the key that a call holds, None where there may be any number of it."""
        if self.unique is None:
            return None
        return f"{self.unique} {name} {self.key or sha256(arguments.encode()).hexdigest()}"


class Job(Generic[F, P, R]):
    """A function that runs in a worker, once it is enqueued and committed.

    Calling it calls the function, here and now, as a test may want it.

    Attributes:
        fn: The function.
        name: `module:qualname`; rows in the store refer to it.
        body: Where it runs: on the worker's loop, in a thread, in a process.
        retries: Attempts after the first.
        backoff: Seconds before the first retry; see `clearway.jobs.retry`.
        timeout: Seconds that one attempt may take.
        schedule: When it runs by itself; None for never.
    """

    def __init__(
        self,
        fn: Callable[F, R],
        *,
        run_in: Literal["thread", "process"] | None,
        queue: str,
        retries: int,
        backoff: float,
        timeout: float,
        schedule: Schedule | None = None,
    ) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.name = _name(fn)
        self.body = _body(fn, run_in, self.name)
        self.retries = retries
        self.backoff = backoff
        self.timeout = timeout
        self.schedule = schedule
        self._placement = Placement(queue)
        if not (retries >= 0 and timeout > 0 and backoff >= 0):  # nor not a number
            raise JobDeclarationInvalid(
                f"job {self.name}: retries={retries}, timeout={timeout}, backoff={backoff}",
                fix="retries and backoff are 0 or more, timeout is more than 0",
            )

    def __call__(self, *args: F.args, **kwargs: F.kwargs) -> R:
        """Call the function itself."""
        return self.fn(*args, **kwargs)

    def __reduce__(self) -> str:
        """Travel by name, as the function itself would: `offload.process(a_job, 5)`."""
        return self.name.partition(":")[2]

    @property
    def queue(self) -> str:
        """The queue that it goes by."""
        return self._placement.queue

    @functools.cached_property
    def arguments(self) -> Arguments:
        """Its parameters.

        Raises:
            JobDeclarationInvalid: One can neither be supplied nor travel.
        """
        arguments = Arguments(self.fn, self.name)
        if arguments.supplied and self.body != "loop" and not self._takes_only_context(arguments):
            raise JobDeclarationInvalid(
                f"job {self.name} runs in a {self.body} and takes "
                f"{', '.join(arguments.supplied)}, which belongs to the worker's loop",
                fix="make it `async def`, and give what blocks to offload.thread or "
                "offload.process inside it",
            )
        return arguments

    def _takes_only_context(self, arguments: Arguments) -> bool:
        return set(arguments.supplied.values()) == {JobContext}

    def options(
        self,
        *,
        delay: float | timedelta = 0.0,
        queue: str | None = None,
        unique: Window | None = None,
        key: str | None = None,
    ) -> Job[F, P, R]:
        """Return this job with these options, and no others, for what is enqueued through it.

        Args:
            delay: Seconds (or a timedelta) from now before which it does not run, at most ten
                years.
            queue: The queue to go by.
            unique: While one with the same arguments waits or runs (`pending`), or in the same
                `minute`, `hour` or `day` (UTC), another is not enqueued: `enqueue` returns
                the id of the first.
            key: Stands for the arguments in that, 1 to 200 characters.

        Raises:
            JobArgumentsInvalid: An option is none of these.
        """
        seconds = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
        known = unique is None or unique in _WINDOWS
        if not 0 <= seconds <= _LONGEST_DELAY or not known:  # not a number is none of these, too
            raise JobArgumentsInvalid(
                f"job {self.name}: options(delay={delay!r}, unique={unique!r})",
                fix="delay is 0 seconds or more and ten years at most, unique one of "
                f"{', '.join(_WINDOWS)}",
            )
        if key is not None and (unique is None or not _is_key(key)):
            raise JobArgumentsInvalid(
                f"job {self.name}: options(key={key!r}) without unique, or no key",
                fix=f"key goes with unique, and has 1 to {_LONGEST_KEY} characters that "
                "PostgreSQL can store: no NUL",
            )
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._placement = dataclasses.replace(
            self._placement,
            delay=seconds,
            queue=queue or self.queue,
            unique=unique,
            key=key,
        )
        return other

    async def enqueue(self, session: AsyncSession, /, *args: P.args, **kwargs: P.kwargs) -> int:
        """Enqueue in the session's transaction: it commits with it, or not at all.

        Args:
            session: The caller's own.
            args: The function's arguments without what the worker supplies.
            kwargs: The same by name.

        Returns:
            The job's id; with `unique` that of the one which is there already.

        Raises:
            JobArgumentsInvalid: They do not fit the function's annotations.
            NotOpen: No Clearway with a database is open.
            StoreUnfit: The tables are missing and may not be made.
        """
        (id,) = await self.enqueue_many(session, [self.call(*args, **kwargs)])
        return id

    async def enqueue_many(self, session: AsyncSession, calls: Iterable[Call[P]], /) -> list[int]:
        """Enqueue any number of calls by one statement; see `enqueue`.

        Args:
            session: The caller's own.
            calls: What `call` returned, for this job.
        """
        outbox = current_parts(f"{self.name}.enqueue").get(Outbox)
        if outbox is None:
            raise NotOpen(
                f"job {self.name} was enqueued where no database for jobs is open",
                fix="set DATABASE_URL, or pass Clearway(app, engine=engine); is jobs.enabled on, "
                "and was the job declared before the start?",
            )
        return await outbox.enqueue(session, list(calls))

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[P]:
        """Return one call for `enqueue_many`, its arguments validated.

        Raises:
            JobArgumentsInvalid: They do not fit the function's annotations.
        """
        placement = self._placement
        arguments = self.arguments.pack(args, kwargs)
        return Call(
            name=self.name,
            body="process" if self.body == "process" else "loop",
            queue=placement.queue,
            arguments=arguments,
            delay=placement.delay,
            window=_WINDOWS[placement.unique] if placement.unique else None,
            key=placement.holds(self.name, arguments),
        )


def _is_key(key: str) -> bool:
    """Say whether a text can stand for the arguments; PostgreSQL stores no NUL or surrogate."""
    whole = key.encode("utf-8", "ignore").decode() == key
    return whole and "\0" not in key and 0 < len(key) <= _LONGEST_KEY


def _name(fn: Callable[..., object]) -> str:
    name = getattr(fn, "__qualname__", "")
    if "<" in name or not name:
        raise JobDeclarationInvalid(
            f"{fn!r} is no function at the top level of a module, where a worker could find it",
            fix="move it there, and pass what it uses as arguments",
        )
    return f"{_module(fn.__module__)}:{name}"


def _module(name: str) -> str:
    """Return the name under which a worker imports a module that was run as a script."""
    if name != "__main__":
        return name
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    file = getattr(main, "__file__", None)
    return spec.name if spec is not None else Path(file).stem if file else name


def _body(fn: Callable[..., object], run_in: str | None, name: str) -> Body:
    if inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
        raise JobDeclarationInvalid(f"job {name} yields", fix="let it return")
    if not inspect.iscoroutinefunction(fn):
        return "process" if run_in == "process" else "thread"
    if run_in is not None:
        raise JobDeclarationInvalid(
            f"job {name} is `async def` and asks to run in a {run_in}",
            fix="make it a plain `def`, or leave run_in out and use offload inside it",
        )
    return "loop"
