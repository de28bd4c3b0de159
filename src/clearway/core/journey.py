"""One request's, job's or script's way through the lanes, and what it waited for."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from clearway.core.deadline import Deadline
    from clearway.core.parts import Parts

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)

Settlement = Callable[[bool], Awaitable[None]]
"""Called once before the response with True to commit, or with False to roll back."""

Afterthought = Callable[[bool], Awaitable[None]]
"""Called once after the response, with True if the journey committed and False if it did not."""


@dataclass(slots=True)
class LedgerEntry:
    """What one lane cost one journey; durations in seconds."""

    waits: int = 0
    waited: float = 0.0
    holds: int = 0
    held: float = 0.0


class Ledger:
    """The waits and holds of one journey, by the name of the lane."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: dict[str, LedgerEntry] = {}

    def wait(self, lane: str, seconds: float) -> None:
        """Add one wait for a lane, in seconds."""
        entry = self[lane]
        entry.waits += 1
        entry.waited += seconds

    def hold(self, lane: str, seconds: float) -> None:
        """Add one use of a lane, in seconds."""
        entry = self[lane]
        entry.holds += 1
        entry.held += seconds

    def __getitem__(self, lane: str) -> LedgerEntry:
        entry = self._entries.get(lane)
        if entry is None:
            entry = self._entries[lane] = LedgerEntry()
        return entry

    def __iter__(self) -> Iterator[tuple[str, LedgerEntry]]:
        return iter(self._entries.items())

    def __len__(self) -> int:
        return len(self._entries)


@dataclass(slots=True)
class Exchange:
    """The HTTP or WebSocket side of a journey, filled in as it happens.

    Attributes:
        method: The HTTP method, or `WEBSOCKET`.
        path: The path as the client sent it, without the query.
        peer: Address and port of the client; None where the server tells none.
        headers: As ASGI has them, names in lower case.
        status: Status of the response; None until it began, and for a WebSocket.
        bytes_in: Bytes of the request body that the app has read.
        bytes_out: Bytes of the response body that were handed to the server.
        complete: The last byte of the response was handed to the server.
    """

    method: str
    path: str
    peer: tuple[str, int] | None = None
    headers: Sequence[tuple[bytes, bytes]] = ()
    status: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    complete: bool = False

    @property
    def client(self) -> str | None:
        """Return the address of the client without its port."""
        return self.peer[0] if self.peer else None

    @property
    def user_agent(self) -> str | None:
        """Return the client's User-Agent as it was sent."""
        return self.header(b"user-agent")

    def header(self, name: bytes) -> str | None:
        """Return the first request header of a name in lower case, None where there is none."""
        for key, value in self.headers:
            if key == name:
                return value.decode("latin-1")
        return None


class Journey:
    """One way through the lanes: its id, its deadline, its route and its ledger.

    Args:
        kind: What travels.
        id: The request id, or the id of the job or script.
        route: Names the route template when asked; it is known only once routing is done.
        deadline: Bounds every wait made on this journey's behalf; None for no bound.
        parts: The open parts of the Clearway that this journey belongs to.
        traceparent: The W3C trace context of whoever caused it; a request has it in its headers.

    Attributes:
        answered: The response has begun; nothing can hang on it any more.
        committed: Everything that hung on the response was committed.
        error: What ended the journey, None where nothing did.
    """

    __slots__ = (
        "_after", "_before", "_find_route", "_ledger", "_notes", "_route", "_traceparent", "_units",
        "_verdict",
        "answered", "committed", "deadline", "error", "exchange", "id", "kind", "parts", "started",
    )  # fmt: skip

    def __init__(
        self,
        kind: Literal["request", "websocket", "background", "job", "script"],
        *,
        id: str | None = None,
        route: Callable[[], str | None] | str | None = None,
        deadline: Deadline | None = None,
        parts: Parts | None = None,
        traceparent: str | None = None,
    ) -> None:
        self.kind = kind
        self.id = id or new_id()
        self.deadline = deadline
        self.parts = parts
        self.started = time.monotonic()
        self.exchange: Exchange | None = None
        self.error: BaseException | None = None
        self.answered = False
        self.committed = False
        # Made when first asked for: most requests have none of them.
        self._ledger: Ledger | None = None
        self._notes: dict[str, object] | None = None
        self._units: dict[object, object] | None = None
        self._before: list[Settlement] | None = None
        self._after: list[Afterthought] | None = None
        self._verdict: bool | None = None
        self._traceparent = traceparent
        self._route = None if callable(route) else route
        self._find_route = route if callable(route) else None

    @property
    def ledger(self) -> Ledger:
        """The waits and holds of this journey so far."""
        if self._ledger is None:
            self._ledger = Ledger()
        return self._ledger

    @property
    def notes(self) -> dict[str, object]:
        """The fields that `note` has added."""
        if self._notes is None:
            self._notes = {}
        return self._notes

    @property
    def units(self) -> dict[object, object]:
        """What a room keeps for this journey, under a key of its own."""
        if self._units is None:
            self._units = {}
        return self._units

    @property
    def before_response(self) -> list[Settlement]:
        """What has to end before the response begins."""
        if self._before is None:
            self._before = []
        return self._before

    @property
    def after_response(self) -> list[Afterthought]:
        """What is to run after the response."""
        if self._after is None:
            self._after = []
        return self._after

    @property
    def unsettled(self) -> bool:
        """Say whether something still hangs on `before_response`."""
        return bool(self._before)

    @property
    def route(self) -> str | None:
        """Return the route template (`/invoices/{id}`), None where nothing matched."""
        if self._route is None and self._find_route is not None:
            self._route = self._find_route()
        return self._route

    @property
    def traceparent(self) -> str | None:
        """Return the trace that the journey came with, None for none and for one that is unsound.

        Source: https://www.w3.org/TR/trace-context/#traceparent-header
        """
        value = self._traceparent
        if value is None and self.exchange is not None:
            value = self.exchange.header(b"traceparent")
        return value if value is not None and _TRACEPARENT.fullmatch(value) else None

    @property
    def age(self) -> float:
        """Return the seconds since the journey began."""
        return time.monotonic() - self.started

    def note(self, **fields: object) -> None:
        """Add fields to the journey's access line."""
        self.notes.update(fields)

    def keep(self) -> None:
        """Commit although the answer is a 4xx or 5xx: a failed login that must be counted."""
        self._verdict = True

    def fail(self) -> None:
        """Roll back whatever the status: GraphQL answers errors with 200."""
        self._verdict = False

    def wants_commit(self, otherwise: bool) -> bool:
        """Return what `keep` or `fail` decided, or `otherwise` when neither was called."""
        return otherwise if self._verdict is None else self._verdict

    def afterthoughts(self) -> Iterator[Afterthought]:
        """Take what hangs on `after_response`, one by one, also what is added meanwhile."""
        while self._after:
            yield self._after.pop(0)

    async def settle(self, commit: bool) -> None:
        """Run what hangs on `before_response`, each once and each whatever the others do.

        Args:
            commit: True to commit, False to roll back. After a first failure the rest is
                rolled back, so that no second unit of work commits for a failed answer.

        Raises:
            BaseException: The first failure, after every hook has run.
        """
        failure: BaseException | None = None
        while self.before_response:
            hook = self.before_response.pop(0)
            try:
                await hook(commit and failure is None)
            except BaseException as error:  # noqa: BLE001 - raised again below, all hooks done
                failure = failure or error
        if failure is not None:
            raise failure
        self.committed = self.committed or commit

    async def abandon(self, within: float) -> BaseException | None:
        """Roll back what nothing has settled, whatever is cancelled meanwhile.

        Args:
            within: Seconds that the rollback may take; then it is cancelled itself.

        Returns:
            What the rollback failed with, None where it did not.
        """
        rollback = asyncio.ensure_future(self.settle(commit=False))
        end = time.monotonic() + within
        cancelled: asyncio.CancelledError | None = None
        while not rollback.done() and (left := end - time.monotonic()) > 0:
            try:
                await asyncio.wait({rollback}, timeout=left)
            except asyncio.CancelledError as error:
                cancelled = error
        if not rollback.done():
            rollback.cancel()
            return TimeoutError(f"the rollback took longer than {within:g} s")
        if cancelled is not None:
            raise cancelled
        return None if rollback.cancelled() else rollback.exception()


_current: ContextVar[Journey | None] = ContextVar("clearway_journey", default=None)


def current_journey() -> Journey | None:
    """Return the journey that the calling code works for, None outside of one."""
    return _current.get()


def enter(journey: Journey) -> Token[Journey | None]:
    """Make a journey the current one; give the token to `leave`."""
    return _current.set(journey)


def leave(token: Token[Journey | None]) -> None:
    """Put back the journey that was current before `enter`."""
    _current.reset(token)


@contextmanager
def travelling(journey: Journey) -> Iterator[Journey]:
    """Make a journey the current one for the length of a block."""
    token = enter(journey)
    try:
        yield journey
    finally:
        leave(token)


def new_id() -> str:
    """Return 32 random hexadecimal digits (a third of the cost of `uuid4().hex`)."""
    return os.urandom(16).hex()
