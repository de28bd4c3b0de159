"""One call on its way: its place in the lane, its deadline, and its wait inside of aiohttp."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from clearway.core.deadline import Deadline
from clearway.core.journey import current_journey
from clearway.core.lane import Permit
from clearway.errors import DeadlineExceeded

if TYPE_CHECKING:
    from aiohttp import ClientResponse

LANE = "outbound"


class Call:
    """One call's place in the lane, held until its connection is free again.

    Args:
        permit: None as long as the call has no place, or where nobody counts it.

    Attributes:
        journey: On whose behalf it is made; None outside of a journey.
    """

    __slots__ = ("_queued_since", "journey", "permit")

    def __init__(self, permit: Permit | None = None) -> None:
        self.permit = permit
        self.journey = current_journey()
        self._queued_since: float | None = None

    @property
    def deadline(self) -> Deadline | None:
        """The journey's deadline as it stands now: from its response on there is none."""
        return None if self.journey is None else self.journey.deadline

    def queue(self) -> None:
        """See that aiohttp lets the call wait for a connection."""
        self._queued_since = time.monotonic()

    def unqueue(self) -> None:
        """See the end of that wait, and write it into the ledger."""
        since, self._queued_since = self._queued_since, None
        if since is None:
            return
        waited = time.monotonic() - since
        if self.journey is not None:
            self.journey.ledger.wait(LANE, waited)
        if self.permit is not None:
            self.permit.since += waited  # a second is a wait or a hold: the ledger has to add up

    def end(self) -> None:
        """Give the place back. A second call does nothing."""
        self.unqueue()
        permit, self.permit = self.permit, None
        if permit is not None:
            permit.release()

    def end_with(self, response: ClientResponse) -> None:
        """Give the place back as soon as the response's connection is free."""
        connection = response.connection
        if connection is None:
            self.end()
        else:
            connection.add_callback(self.end)


@asynccontextmanager
async def within(deadline: Deadline | None, host: str | None) -> AsyncIterator[None]:
    """Cancel the block at a deadline.

    Raises:
        DeadlineExceeded: It passed before the block was done.
    """
    try:
        async with asyncio.timeout_at(None if deadline is None else deadline.at) as bound:
            yield
    except TimeoutError as error:
        if not bound.expired():
            raise
        raise late(host) from error


def late(host: str | None) -> DeadlineExceeded:
    """Return the error for a call that the deadline has cut off."""
    return DeadlineExceeded(f"the deadline passed while {host} was called")
