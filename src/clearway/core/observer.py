"""Watch journeys without being able to break them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ParamSpec

if TYPE_CHECKING:
    from clearway.core.journey import Journey

P = ParamSpec("P")
Headers = list[tuple[bytes, bytes]]


class Observer:
    """The moments of a request at which a room may look at it; override what you need."""

    def started(self, journey: Journey) -> None:
        """See a request that has arrived before anything of the app has run."""

    def responding(self, journey: Journey, headers: Headers) -> None:
        """See a response that is about to start, after COMMIT; `headers` may be added to."""

    def finished(self, journey: Journey) -> None:
        """See the end: the app returned or raised, and no byte will follow."""


class Watches:
    """What some observers override, by the moment, each so that its failure goes no further.

    Attributes:
        started: To be called with the journey.
        responding: To be called with the journey and the headers.
        finished: To be called with the journey.
    """

    __slots__ = ("finished", "responding", "started")

    def __init__(self, observers: Sequence[Observer], faults: Faults) -> None:
        self.started = tuple(
            faults.guarded(f"{type(o).__name__}.started", o.started)
            for o in observers
            if type(o).started is not Observer.started
        )
        self.responding = tuple(
            faults.guarded(f"{type(o).__name__}.responding", o.responding)
            for o in observers
            if type(o).responding is not Observer.responding
        )
        self.finished = tuple(
            faults.guarded(f"{type(o).__name__}.finished", o.finished)
            for o in observers
            if type(o).finished is not Observer.finished
        )


class Faults:
    """Count what fails in our own code, say it once for each place, and let work go on."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def guarded(self, place: str, call: Callable[P, object]) -> Callable[P, None]:
        """Return `call` so that an exception in it is counted and goes no further."""

        def watch(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                call(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - whatever it is, the request goes on
                self.record(place, error)

        return watch

    def record(self, place: str, error: BaseException) -> None:
        """Count one fault, and write a line to stderr for the first of each place."""
        self.counts[place] = self.counts.get(place, 0) + 1
        if self.counts[place] == 1:
            print(  # not a log line: the logger itself may be what failed
                f"clearway: a fault in {place} was skipped, the request went on: {error!r}",
                file=sys.stderr,
            )
