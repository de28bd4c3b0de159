"""What any worker does for all: re-run what the dead have left, tick schedules, clean up."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from clearway.jobs.store import Store
from clearway.jobs.worker.contact import LOST, Contact
from clearway.jobs.worker.manifest import Terms
from clearway.settings import JobSettings

_log = logging.getLogger("clearway.jobs")

_EVERY = 1.0  # seconds between two looks, at most: a look is also what keeps the contact
_ANNOUNCE_EVERY = 30.0
_CLEAN_EVERY = 60.0
_CLEAN_MOST = 20_000  # jobs in one statement: more than a worker does in a second


class Upkeep:
    """The housekeeping of one service's jobs; any number of workers may do it.

    Args:
        store: The statements.
        contact: Runs them.
        settings: How long a lease is, and what is kept.

    Attributes:
        every: Seconds between two looks.
    """

    def __init__(self, store: Store, contact: Contact, settings: JobSettings) -> None:
        self.every = min(_EVERY, settings.lease / 4)
        self._store = store
        self._contact = contact
        self._settings = settings
        self._terms: Mapping[str, Terms] = {}
        self._announce_every = min(_ANNOUNCE_EVERY, settings.unknown_patience / 3)
        self._announced: float | None = None
        self._cleaned: float | None = None
        self._server: tuple[datetime, float] | None = None  # its time, and ours on our clock
        self._ticked: dict[str, datetime] = {}

    def know(self, terms: Mapping[str, Terms]) -> None:
        """Take over the jobs of the application, as it is now."""
        self._terms = terms
        self._announced = None

    async def keep(self) -> None:
        """Look after everything, for ever; what fails keeps nothing else from being done."""
        while True:
            for duty in (self._announce, self._tick, self._sweep, self._clean):
                with suppress(*LOST):  # the contact says so
                    await self._contact.run(duty)
            await asyncio.sleep(self.every)

    async def _announce(self, on: AsyncConnection) -> None:
        began = time.monotonic()
        if self._announced is not None and began - self._announced < self._announce_every:
            return
        names = [terms.name for terms in self._terms.values()]
        now, first_seen = await self._store.announce(on, names)
        if now is not None:
            self._server = now, time.monotonic()
        await self._store.adopt(on, names)
        for name, since in first_seen.items():
            # A moment from before a schedule was known is nobody's to make up for.
            self._ticked[name] = max(self._ticked.get(name, since), since)
        self._announced = began

    async def _tick(self, on: AsyncConnection) -> None:
        if self._server is None:
            return
        # The server's clock, on which workers agree; not ours, which somebody may set.
        there, then = self._server
        now = there + timedelta(seconds=time.monotonic() - then)
        slots: dict[str, datetime] = {}
        for name, terms in self._terms.items():
            if terms.schedule is None:
                continue
            oldest = now - timedelta(seconds=terms.schedule.late)
            slot = terms.schedule.last_between(max(self._ticked.get(name, now), oldest), now)
            if slot is not None:
                slots[name] = slot
        if not slots:
            return
        enqueued = await self._store.tick(on, slots)
        self._ticked.update(slots)
        for id, name in enqueued:
            _log.info("scheduled job enqueued", extra={"job_id": id, "job": name})
        if enqueued:
            await self._store.notify(on)

    async def _sweep(self, on: AsyncConnection) -> None:
        if not self._contact.trusted:
            return
        lapsed = await self._store.lapsed(on, self._settings.lease)
        if lapsed:
            errors = ["its worker was gone: nobody renewed its lease"] * len(lapsed)
            for id, buried in (await self._store.crash(on, lapsed, errors, lapsed=True)).items():
                what = (
                    "job is in the failure queue" if buried else "job of a gone worker runs again"
                )
                _log.warning(what, extra={"job_id": id})
            await self._store.notify(on)
        for id, name in await self._store.bury_unknown(on, self._settings.unknown_patience):
            _log.error(
                "job is in the failure queue",
                extra={"job_id": id, "job": name, "error": "no worker knows a job of this name"},
            )

    async def _clean(self, on: AsyncConnection) -> None:
        now = time.monotonic()
        if self._cleaned is not None and now - self._cleaned < _CLEAN_EVERY:
            return
        self._cleaned = now
        keep_done, keep_failed = self._settings.keep_done, self._settings.keep_failed
        gone = await self._store.clean(
            on, keep_done=keep_done, keep_failed=keep_failed, most=_CLEAN_MOST
        )
        if gone == _CLEAN_MOST:  # there is more, and the next look goes on
            self._cleaned = None
