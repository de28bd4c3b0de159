"""Where jobs run: in the process that has the application, on its loop and off it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from clearway.core.journey import travelling
from clearway.core.lane import Lane
from clearway.jobs.attempt import SETTLE_WITHIN, Attempt, Ending, Surroundings
from clearway.jobs.job import Job
from clearway.jobs.store import Order
from clearway.jobs.worker.channel import Channel

_log = logging.getLogger("clearway.jobs")

_LONGEST_ERROR = 1_000  # characters
_LONGEST_TRACEBACK = 20_000


class Slots:
    """Run what a worker orders, and answer how it ended.

    Args:
        jobs: What can be run, by name.
        around: What every run shares.
        lane: The lane `jobs`.
    """

    def __init__(
        self, jobs: Mapping[str, Job[..., ..., Any]], around: Surroundings, lane: Lane
    ) -> None:
        self._jobs = jobs
        self._around = around
        self._lane = lane
        self._running: dict[Attempt, asyncio.Task[None]] = {}
        self._answers: list[dict[str, Any]] = []

    async def serve(self, channel: Channel) -> None:
        """Take orders until the channel ends; what still runs then is cancelled."""
        while (message := await channel.receive()) is not None:
            for order in message.get("run", ()):
                self._begin(_order(**order), channel)
            unwanted = message.get("cancel")
            for attempt in [one for one in self._running if str(one.order.token) == unwanted]:
                self._give_up(attempt, lost=message["lost"])
            if "ping" in message:
                channel.send({"answers": []})
        for attempt in list(self._running):
            self._give_up(attempt)
        if self._running:
            await asyncio.wait(self._running.values(), timeout=SETTLE_WITHIN)

    def _begin(self, order: Order, channel: Channel) -> None:
        if order.name not in self._jobs:  # a version of the application that has it no more
            self._answer(channel, {"token": str(order.token), "ending": "back"})
            return
        attempt = Attempt(self._jobs[order.name], order, self._around)
        task = asyncio.create_task(
            self._run(attempt, channel), name=f"job {order.id}", context=contextvars.Context()
        )
        self._running[attempt] = task
        task.add_done_callback(lambda _: self._running.pop(attempt))

    def _give_up(self, attempt: Attempt, *, lost: bool = False) -> None:
        """Have a run end; a thread goes on, which matters to nobody if the lease is lost."""
        if not attempt.settling:
            attempt.given_up = True
            attempt.lost = lost
            if attempt.begun:
                self._running[attempt].cancel()

    async def _run(self, attempt: Attempt, channel: Channel) -> None:
        permit = self._lane.try_acquire()
        ending = await attempt.run()
        if permit is not None:
            permit.release()
        with travelling(attempt.journey):
            _report(attempt, ending)
            # A thread goes on whatever we say: its job goes back once this process has ended.
            if ending != "back" or attempt.lost or attempt.job.body != "thread":
                self._answer(channel, _answer(attempt, ending))
            for afterthought in attempt.journey.afterthoughts():
                try:
                    await afterthought(attempt.journey.committed)
                except Exception:  # noqa: BLE001 - one failure never skips the next
                    _log.exception("what job %s left behind failed", attempt.order.id)

    def _answer(self, channel: Channel, answer: dict[str, Any]) -> None:
        """Send all that ends in one step of the loop as one message."""
        if not self._answers:
            asyncio.get_running_loop().call_soon(self._send, channel)
        self._answers.append(answer)

    def _send(self, channel: Channel) -> None:
        channel.send({"answers": self._answers})
        self._answers = []


def _order(token: str, enqueued_at: str, **values: Any) -> Order:
    return Order(token=UUID(token), enqueued_at=datetime.fromisoformat(enqueued_at), **values)


def _answer(attempt: Attempt, ending: Ending) -> dict[str, Any]:
    answer: dict[str, Any] = {"token": str(attempt.order.token), "ending": ending}
    if attempt.error is not None:
        answer["error"] = _storable(_described(attempt.error))[:_LONGEST_ERROR]
        answer["traceback"] = _storable(attempt.traceback())[-_LONGEST_TRACEBACK:]
    return answer


def _report(attempt: Attempt, ending: Ending) -> None:
    """Write one line, under the id of the request that enqueued the job."""
    order = attempt.order
    fields = {
        "job_id": order.id,
        "job": order.name,
        "queue": order.queue,
        "attempt": order.attempt,
        "duration_ms": round(1000 * attempt.journey.age, 3),
    }
    if ending in {"done", "settled"}:
        _log.info("job done", extra=fields)
    elif ending == "back":
        _log.info("job given back", extra=fields)
    else:
        fields["error"] = "" if attempt.error is None else _described(attempt.error)
        failed = ending == "failed" and attempt.error is not None
        _log.warning(f"job {ending}", extra=fields, exc_info=attempt.error if failed else None)


def _described(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        return type(error).__name__


def _storable(text: str) -> str:
    """Return a text as PostgreSQL can store it: no NUL, no lone surrogate."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
