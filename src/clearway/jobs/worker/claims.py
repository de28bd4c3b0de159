"""What a worker has claimed: which runs hold a lease, how each has ended, and what to write."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from clearway.jobs import retry
from clearway.jobs.attempt import Ending
from clearway.jobs.store import Order, Store
from clearway.jobs.worker.carrier import Answer, Carrier
from clearway.jobs.worker.contact import Contact, Refused
from clearway.jobs.worker.manifest import Terms

T = TypeVar("T")

_log = logging.getLogger("clearway.jobs")

SPARE = 1.0
"""Seconds after its timeout in which a run has to end, before its process is asked how it is."""
LAST = 60.0
"""Seconds after its timeout in which a run has to end in any case: a COMMIT has 30."""
_TRIES = 5  # to write one ending that the database refuses
_PAUSE = 0.2  # seconds between them


@dataclass(slots=True, eq=False)
class Claim:
    """One run that holds a lease.

    Attributes:
        order: What was claimed.
        terms: Of its job.
        carrier: Where it runs; None while its process is started.
        since: When it was handed over, on the monotonic clock.
        ending: How it ended; None while it runs.
        error: What it raised, in words.
        traceback: Of that.
        unwanted: Somebody else has it, or it was asked for back.
    """

    order: Order
    terms: Terms
    carrier: Carrier | None
    since: float
    ending: Ending | None = None
    error: str = ""
    traceback: str = ""
    unwanted: bool = False

    @property
    def overdue(self) -> bool:
        """Say whether it should have ended by now."""
        return self.over > SPARE

    @property
    def over(self) -> float:
        """Return the seconds since its time was up; less than 0 before."""
        return time.monotonic() - self.since - self.terms.timeout


class Claims:
    """The runs of one worker, from the claim until their end is written.

    Args:
        store: The statements.
        contact: Runs them.
        lease: Seconds.
        freed: Called when a slot has come free.
    """

    def __init__(
        self, store: Store, contact: Contact, lease: float, freed: Callable[[], None]
    ) -> None:
        self._store = store
        self._contact = contact
        self._lease = lease
        self._freed = freed
        self._held: dict[UUID, Claim] = {}  # by token: a job may be claimed again meanwhile
        self._ended: list[Claim] = []
        self._something_ended = asyncio.Event()

    @property
    def running(self) -> list[Claim]:
        """The runs that have not ended."""
        return [claim for claim in self._held.values() if claim.ending is None]

    @property
    def unfinished(self) -> list[Claim]:
        """Everything whose end is not written yet."""
        return list(self._held.values())

    def occupied(self, body: str, carrier: Carrier) -> int:
        """Return how many slots of a kind are taken."""
        return sum(
            claim.carrier is carrier and claim.terms.name.body == body for claim in self.running
        )

    def take(self, orders: Sequence[Order], terms: Mapping[str, Terms]) -> list[Claim]:
        """Hold what was claimed."""
        now = time.monotonic()
        claims = [Claim(order, terms[order.name], None, now) for order in orders]
        self._held.update({claim.order.token: claim for claim in claims})
        return claims

    def hand_over(self, claims: Sequence[Claim], carrier: Carrier) -> None:
        """Let claimed jobs run."""
        for claim in claims:
            claim.carrier, claim.since = carrier, time.monotonic()
        carrier.run([claim.order for claim in claims])

    def answered(self, carrier: Carrier, answers: Sequence[Answer]) -> None:
        """Note how runs have ended."""
        for answer in answers:
            claim = self._held.get(UUID(answer["token"]))
            if claim is not None and claim.carrier is carrier and claim.ending is None:
                claim.error = answer.get("error", "")
                claim.traceback = answer.get("traceback", "")
                self.end(claim, answer["ending"])

    def gone(self, carrier: Carrier, reason: str) -> None:
        """Note that a process has died: what ran in it has crashed, unless we killed it."""
        for claim in self.running:
            if claim.carrier is not carrier:
                continue
            if claim.unwanted:
                self.end(claim, "back")
            elif claim.overdue:
                claim.error = (
                    f"it took longer than {claim.terms.timeout:g} s, and its process had to be "
                    "killed: it blocked the loop, or would not end"
                )
                self.end(claim, "failed")
            else:
                claim.error = f"its process died: {reason}"
                self.end(claim, "crashed")

    def end(self, claim: Claim, ending: Ending) -> None:
        """Note how one run has ended; it is written soon."""
        claim.ending = ending
        self._ended.append(claim)
        self._something_ended.set()
        self._freed()

    def give_up(self, claim: Claim, *, lost: bool = False) -> None:
        """Have a run cancelled; it ends when its process says so, or is killed.

        Args:
            claim: The run.
            lost: Its lease was lost; else it is asked for back.
        """
        claim.unwanted = True
        if claim.carrier is None:
            self.end(claim, "back")
        elif claim.carrier.ready:
            claim.carrier.cancel(claim.order, lost=lost)

    async def renew(self) -> None:
        """Renew every lease, and give up the runs whose lease was lost."""
        claims = list(self._held.values())
        if not claims:
            return
        orders = [claim.order for claim in claims]
        kept = await self._contact.run(lambda on: self._store.renew(on, orders, self._lease))
        for claim in claims:
            # One that has ended meanwhile is gone because it was written.
            if claim.order.token not in kept and claim.ending is None and not claim.unwanted:
                _log.warning("the lease of a job was lost", extra=_fields(claim))
                self.give_up(claim, lost=True)

    async def write(self) -> None:
        """Write what has ended, for ever, in batches."""
        while True:
            await self._something_ended.wait()
            self._something_ended.clear()
            batch, self._ended = self._ended, []
            await self._write(batch)
            for claim in batch:
                del self._held[claim.order.token]

    async def _write(self, batch: Sequence[Claim]) -> None:
        """Write a batch; one that is refused is written one by one, so that it harms no other."""
        try:
            await self._contact.insist(partial(self._record, batch))
        except Refused:
            if len(batch) > 1:
                for claim in batch:
                    await self._write([claim])
                return
            await self._write_stubborn(batch[0])

    async def _write_stubborn(self, claim: Claim) -> None:
        for _ in range(_TRIES):
            await asyncio.sleep(_PAUSE)
            try:
                await self._contact.insist(partial(self._record, [claim]))
            except Refused as error:
                refusal = error
            else:
                return
        _log.error(
            "how a job ended cannot be written",  # it runs again when its lease is over
            extra=_fields(claim) | {"ending": claim.ending, "error": str(refusal)},
        )

    async def _record(self, batch: Sequence[Claim], on: AsyncConnection) -> None:
        store = self._store
        if done := _of(batch, "done"):
            written = await store.complete(on, _orders(done))
            for claim in done:
                if claim.order.id not in written:
                    _log.warning("a job was done by another worker too", extra=_fields(claim))
        if back := _of(batch, "back"):
            await store.hand_back(on, _orders(back))
        if crashed := _of(batch, "crashed"):
            keys = [(claim.order.id, claim.order.token) for claim in crashed]
            errors = [claim.error for claim in crashed]
            for id, buried in (await store.crash(on, keys, errors, lapsed=False)).items():
                claim = next(claim for claim in crashed if claim.order.id == id)
                _say_crashed(claim, buried=buried)
        await self._record_failed(on, _of(batch, "failed"))

    async def _record_failed(self, on: AsyncConnection, failed: Sequence[Claim]) -> None:
        again = [claim for claim in failed if claim.order.attempt <= claim.terms.retries]
        if again:
            delays = [retry.delay(c.order.attempt, c.terms.backoff) for c in again]
            await self._store.retry(on, _orders(again), delays, [c.error for c in again])
        if over := [claim for claim in failed if claim not in again]:
            errors, traces = [c.error for c in over], [c.traceback for c in over]
            buried = await self._store.bury(on, _orders(over), errors, traces)
            for claim in over:
                if claim.order.id in buried:
                    _log.error(
                        "job is in the failure queue",
                        extra=_fields(claim) | {"error": claim.error},
                    )


def _of(batch: Sequence[Claim], ending: Ending) -> list[Claim]:
    return [claim for claim in batch if claim.ending == ending]


def _orders(claims: Sequence[Claim]) -> list[Order]:
    return [claim.order for claim in claims]


def _fields(claim: Claim) -> dict[str, object]:
    order = claim.order
    return {
        "job_id": order.id,
        "job": order.name,
        "attempt": order.attempt,
        "request_id": order.request_id,
    }


def _say_crashed(claim: Claim, *, buried: bool) -> None:
    fields = _fields(claim) | {"crashes": claim.order.crashes + 1, "error": claim.error}
    if buried:
        _log.error("job is in the failure queue", extra=fields)
    else:
        _log.warning("job crashed and runs again", extra=fields)
