"""One run of a job, from its arguments to its COMMIT."""

from __future__ import annotations

import asyncio
import functools
import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from sqlalchemy.exc import InvalidRequestError

from clearway.core.deadline import Deadline
from clearway.core.journey import Journey, travelling
from clearway.core.parts import Parts
from clearway.db import Database
from clearway.db.session import UnitOfWork
from clearway.errors import CallTimedOut, DeadlineExceeded, LeaseLost, NotOpen, WorkerKilled
from clearway.jobs import body
from clearway.jobs.context import JobContext
from clearway.jobs.job import Job
from clearway.jobs.store import Order, Store
from clearway.offload.processes import Processes
from clearway.offload.threads import Threads
from clearway.state import Resource

P = TypeVar("P")

Ending = Literal["done", "settled", "failed", "crashed", "lost", "back"]
"""How a run ended.

`done`: to be written by the worker; `settled`: written in its own transaction; `failed`: it
raised; `crashed`: its process died; `lost`: another worker has the job; `back`: it was given up
and can be handed back.
"""

SETTLE_WITHIN = 5.0
"""Seconds that a rollback may take."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every run in this process shares.

    Attributes:
        parts: The application's open parts.
        store: Where completions are written.
        overrides: The application's `dependency_overrides`.
    """

    parts: Parts
    store: Store
    overrides: Mapping[Callable[..., Any], Callable[..., Any]]


class Attempt:
    """One run of a job.

    Args:
        job: What to run.
        order: What it was claimed with.
        around: What every run shares.

    Attributes:
        journey: Its own, under the id of the request that enqueued it.
        error: What it raised.
        settling: It commits or rolls back now, and must not be cancelled: nobody could say what
            came of it.
        given_up: Its worker wants it back.
        lost: Its lease was lost, and somebody else has the job.
        begun: It has been started; before that it cannot be cancelled, only not begin.
    """

    def __init__(self, job: Job[..., ..., Any], order: Order, around: Surroundings) -> None:
        self.job = job
        self.order = order
        self.error: BaseException | None = None
        self.begun = False
        self.settling = False
        self.given_up = False
        self.lost = False
        self._around = around
        self.journey = Journey(
            "job",
            id=order.request_id,
            route=order.name,
            deadline=Deadline.after(job.timeout),
            parts=around.parts,
            traceparent=order.traceparent,
        )

    async def run(self) -> Ending:
        """Run to the end; whatever the job raises is in `error`."""
        if self.given_up:
            return "back"
        self.begun = True
        with travelling(self.journey):
            try:
                await self._call()
                self.settling = True
                return await self._commit()
            except BaseException as error:  # noqa: BLE001 - the user's code raises anything
                self.settling = True
                self.error = self.journey.error = error
                try:
                    await self._roll_back()
                except BaseException as later:  # noqa: BLE001 - a kept COMMIT that failed, say
                    self.error = later
                return self._judge(error)

    def _judge(self, error: BaseException) -> Ending:
        if self.given_up:
            return "back"
        if isinstance(error, LeaseLost):
            return "lost"
        # A process of its own that died is a crash; one that it asked for by itself is an error.
        own = self.job.body == "process"
        return "crashed" if own and isinstance(error, WorkerKilled) else "failed"

    async def _call(self) -> None:
        scope = asyncio.timeout(self.job.timeout)
        try:
            async with scope:
                await self._call_body()
        except (TimeoutError, DeadlineExceeded, CallTimedOut) as error:
            offloaded = isinstance(error, CallTimedOut) and self.job.body == "loop"
            if (offloaded or isinstance(error, TimeoutError)) and not scope.expired():
                raise  # the body's own, which is shorter
            raise TimeoutError(f"it took longer than {self.job.timeout:g} s") from error

    async def _call_body(self) -> None:
        job, order = self.job, self.order
        if job.body == "process":
            arguments = order.name, order.arguments, self._context()
            await self._need(Processes).run(body.run, *arguments, timeout=job.timeout)
            return
        values = job.arguments.unpack(order.arguments)
        for name, source in job.arguments.supplied.items():
            values[name] = await self._supply(source)
        call = functools.partial(job.fn, **values)
        if job.body == "thread":
            await self._need(Threads).run(call, timeout=job.timeout)
        else:
            await call()

    async def _supply(self, source: Callable[..., Any]) -> object:
        if source is JobContext:
            return self._context()
        if not isinstance(source, Resource):  # one knows itself what overrides it
            source = self._around.overrides.get(source, source)
        value = source()
        return await value if inspect.isawaitable(value) else value

    def _context(self) -> JobContext:
        order = self.order
        return JobContext(
            id=order.id,
            name=order.name,
            queue=order.queue,
            attempt=order.attempt,
            last_attempt=order.attempt > self.job.retries,
            enqueued_at=order.enqueued_at,
            request_id=order.request_id,
        )

    def _need(self, kind: type[P]) -> P:
        part = self._around.parts.get(kind)
        if part is None:
            raise NotOpen(
                f"job {self.order.name} runs in a {self.job.body}, and offload is not open",
                fix="set CLEARWAY_OFFLOAD__ENABLED=true for the worker",
            )
        return part

    async def _commit(self) -> Ending:
        """Commit what the job has written, and in the same transaction that it is done."""
        journey = self.journey
        journey.answered = True
        commit = journey.wants_commit(True)
        unit = self._unit()
        in_session = commit and unit is not None and unit.session.in_transaction()
        if in_session and unit is not None:
            in_session = await self._complete_in(unit)
        await journey.settle(commit)
        return "settled" if in_session else "done"

    def _unit(self) -> UnitOfWork | None:
        database = self._around.parts.get(Database)
        unit = None if database is None else self.journey.units.get(database)
        return unit if isinstance(unit, UnitOfWork) else None

    async def _complete_in(self, unit: UnitOfWork) -> bool:
        """Write the completion; return False where the job has closed its session itself."""
        try:
            await unit.session.flush()
            mine = await self._around.store.complete(unit.session, [self.order])
        except InvalidRequestError:
            return False
        if not mine:
            raise LeaseLost(
                f"job {self.order.id} ({self.order.name}) belongs to another worker by now; what "
                "this run has written was rolled back",
                fix="if it happens often: what stops this worker for longer than jobs.lease?",
            )
        return True

    async def _roll_back(self) -> None:
        journey = self.journey
        journey.answered = True
        if isinstance(self.error, Exception) and journey.wants_commit(False):
            await journey.settle(commit=True)
            return
        await journey.abandon(SETTLE_WITHIN)

    def traceback(self) -> str:
        """Return the traceback of `error` from the job's own code on."""
        error = self.error
        if error is None:
            return ""
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
            frames = frames.tb_next
        return "".join(traceback.format_exception(type(error), error, frames))
