"""The worker: it claims jobs, holds their leases, and has another process run them.

The process that runs jobs may block its loop, hold its GIL or die: the leases are renewed here,
where nothing of the application is ever imported.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from sqlalchemy.ext.asyncio import AsyncConnection

from clearway.jobs.store import Order, Store
from clearway.jobs.worker.carrier import Carrier, CarrierFailed
from clearway.jobs.worker.claims import LAST, Claim, Claims
from clearway.jobs.worker.contact import LOST, Contact
from clearway.jobs.worker.manifest import Manifest
from clearway.jobs.worker.upkeep import Upkeep

_log = logging.getLogger("clearway.jobs")

_MOST = 500  # jobs in one claim
_SILENCE = 5.0  # seconds in which the loop of a process has to turn
_OVERDUE_EVERY = 0.5  # seconds between two looks for runs past their time
_EAR_PAUSE = 1.0  # seconds before listening again
_STEP = 0.02  # seconds between two looks at whether runs have ended
_STEADY = 10.0  # seconds after which a process that dies did not die of its start
_LONGEST_PAUSE = 30.0

# Shares of ops.shutdown_within: for jobs to end, for those that are given up to end, for writing
# how they ended (the database may be away), and for the application's own shutdown.
_FINISH, _GIVE_UP, _WRITE, _CLOSE = 0.6, 0.08, 0.12, 0.2


class Worker:
    """Run the jobs of one service until told to stop.

    Args:
        command: Starts the process with the application; see `Carrier`.
        manifest: What that process said of itself.
    """

    def __init__(self, command: Sequence[str], manifest: Manifest) -> None:
        settings = manifest.jobs
        self._command = command
        self._settings = settings
        self._terms = dict(manifest.terms)
        self._slots = {"loop": settings.concurrency, "process": manifest.offload.processes}
        self._within = manifest.ops.shutdown_within
        self._store = Store(settings.database_schema, manifest.service.name)
        self._contact = Contact(manifest.database, manifest.service.name, settings.lease)
        self._work = asyncio.Event()
        self._claims = Claims(self._store, self._contact, settings.lease, self._work.set)
        self._upkeep = Upkeep(self._store, self._contact, settings)
        self._upkeep.know(self._terms)
        self._carrier: Carrier | None = None
        self._alone: Carrier | None = None
        self._claiming = asyncio.Lock()
        self._vacant = asyncio.Event()
        self._stopping = asyncio.Event()
        self._hurried = False

    def stop(self) -> None:
        """Claim no more, finish what runs, end; at a second call give back what runs."""
        self._hurried = self._stopping.is_set()
        self._stopping.set()
        self._work.set()

    async def run(self, carrier: Carrier) -> None:
        """Work until `stop`.

        Args:
            carrier: Started, and what the manifest is of.
        """
        await self._contact.open()
        self._employ(carrier)
        try:
            async with asyncio.TaskGroup() as group:
                duties = [
                    group.create_task(duty, name=f"clearway worker: {name}")
                    for name, duty in (
                        ("claims", self._claim()),
                        ("endings", self._claims.write()),
                        ("leases", self._renew()),
                        ("upkeep", self._upkeep.keep()),
                        ("ear", self._listen()),
                        ("overdue", self._end_overdue()),
                        ("poison", self._run_alone()),
                        ("carrier", self._replace()),
                    )
                ]
                await self._stopping.wait()
                await self._drain()
                for duty in duties:
                    duty.cancel()
        finally:
            ends = (one.end(_CLOSE * self._within) for one in (self._carrier, self._alone) if one)
            await asyncio.gather(*ends)
            await self._contact.close()

    # Claims

    async def _claim(self) -> None:
        while not self._stopping.is_set():
            self._work.clear()
            try:
                more = await self._claim_once()
            except LOST:
                more = False
            if not more:
                jitter = random.uniform(0.8, 1.2)  # noqa: S311 - workers shall not look in step
                await _event_or(self._work, self._settings.poll * jitter)

    async def _claim_once(self) -> bool:
        """Fill the free slots; return whether there may be more to claim."""
        more = False
        for body, slots in self._slots.items():
            carrier = self._carrier
            if carrier is None or self._stopping.is_set():
                return False
            names = [name for name, terms in self._terms.items() if terms.name.body == body]
            most = min(_MOST, slots - self._claims.occupied(body, carrier))
            if most <= 0 or not names:
                continue
            async with self._claiming:
                claims = await self._take(body=body, names=names, most=most)
                if self._stopping.is_set() or not carrier.ready:
                    for claim in claims:
                        self._claims.end(claim, "back")
                elif claims:
                    self._claims.hand_over(claims, carrier)
            more = more or len(claims) == most
        return more

    async def _take(
        self, *, body: str, names: list[str], most: int, alone: bool = False
    ) -> list[Claim]:
        """Claim jobs, and hold their leases from then on."""
        terms, settings = self._terms, self._settings

        async def claim(on: AsyncConnection) -> list[Order]:
            return await self._store.claim(
                on, body, names=names, queues=settings.queues, most=most, lease=settings.lease,
                alone=alone,
            )  # fmt: skip

        return self._claims.take(await self._contact.run(claim), terms)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease / 3)
            with suppress(*LOST):  # the next comes in time
                await self._claims.renew()

    async def _listen(self) -> None:
        while True:
            with suppress(*LOST):  # looking now and then goes on
                await self._contact.listen(self._store.channel, self._work.set)
            await asyncio.sleep(_EAR_PAUSE)

    async def _end_overdue(self) -> None:
        """Kill the process of a run that is past its time, if its loop is blocked or it hangs."""
        while True:
            await asyncio.sleep(_OVERDUE_EVERY)
            overdue = [claim for claim in self._claims.running if claim.overdue]
            for carrier in {claim.carrier for claim in overdue if claim.carrier is not None}:
                hangs = any(claim.over > LAST for claim in overdue if claim.carrier is carrier)
                if hangs or carrier.silent_for() > _SILENCE:
                    self._kill(carrier)

    def _kill(self, carrier: Carrier) -> None:
        """Kill a process; only what is past its time is charged for it."""
        for claim in self._claims.running:
            claim.unwanted |= claim.carrier is carrier and not claim.overdue
        _log.error("the process of jobs did not end a run in time, and is killed")
        carrier.kill()

    # Processes

    def _employ(self, carrier: Carrier) -> None:
        carrier.attend(self._claims.answered, self._gone)
        self._carrier = carrier
        self._work.set()

    def _gone(self, carrier: Carrier, reason: str) -> None:
        self._claims.gone(carrier, reason)
        if carrier is self._carrier:
            self._carrier = None
            self._vacant.set()
            if not self._stopping.is_set():
                _log.error("the process of jobs died: %s", reason)

    async def _replace(self) -> None:
        """Start a new process whenever the last one has died."""
        pause, born = 0.0, time.monotonic()
        while True:
            await self._vacant.wait()
            self._vacant.clear()
            pause = min(_LONGEST_PAUSE, 2 * pause + 0.1)
            if time.monotonic() - born > _STEADY:
                pause = 0.0
            await asyncio.sleep(pause)
            if self._stopping.is_set():
                return
            born = time.monotonic()
            carrier = Carrier(self._command)
            try:
                manifest = await carrier.start()
            except CarrierFailed as error:
                _log.error("jobs wait: %s", error)
                self._vacant.set()
                continue
            self._terms = dict(manifest.terms)
            self._upkeep.know(self._terms)
            self._employ(carrier)

    async def _run_alone(self) -> None:
        """Run what has crashed twice one at a time, each in a process with no other job."""
        while not self._stopping.is_set():
            await _event_or(self._stopping, self._upkeep.every)
            names = [name for name, terms in self._terms.items() if terms.name.body == "loop"]
            if not names:
                continue
            claims: list[Claim] = []
            with suppress(*LOST):
                async with self._claiming:
                    claims = await self._take(body="loop", names=names, most=1, alone=True)
            for claim in claims:
                await self._isolate(claim)

    async def _isolate(self, claim: Claim) -> None:
        carrier = self._alone = Carrier(self._command)
        try:
            await carrier.start()
        except CarrierFailed:
            self._claims.end(claim, "back")
            return
        carrier.attend(self._claims.answered, self._gone)
        if claim.ending is None:  # it may have been given back during the start
            self._claims.hand_over([claim], carrier)
        while claim.ending is None:  # noqa: ASYNC110 - a run that may take minutes
            await asyncio.sleep(_STEP)
        await carrier.end(_CLOSE * self._within)
        self._alone = None

    # The end

    async def _drain(self) -> None:
        """Let jobs end, give back those that do not, and write how each has ended."""
        within = self._within
        # A claim that is under way has its answer first: else nobody would know what it took.
        with suppress(TimeoutError):
            async with asyncio.timeout(_WRITE * within), self._claiming:
                pass
        await self._until(lambda: not self._claims.running or self._hurried, _FINISH * within)
        for claim in self._claims.running:
            self._claims.give_up(claim)
        await self._until(lambda: not self._claims.running, _GIVE_UP * within)
        for claim in self._claims.running:
            if claim.carrier is not None:
                claim.carrier.kill()
        await self._until(lambda: not self._claims.unfinished, _WRITE * within)
        left = len(self._claims.unfinished)
        if left:
            _log.error("%d jobs run again when their lease is over", left)

    async def _until(self, holds: Callable[[], bool], within: float) -> None:
        end = time.monotonic() + within
        while not holds() and time.monotonic() < end:  # noqa: ASYNC110 - runs end one by one
            await asyncio.sleep(_STEP)


async def _event_or(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
