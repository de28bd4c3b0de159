"""The open resources of one Clearway: opened in order of need, closed in reverse."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from clearway.core.journey import Journey, current_journey, travelling
from clearway.core.parts import Parts
from clearway.errors import NotOpen, ResourceInvalid
from clearway.routing import Overrides
from clearway.settings import StateSettings
from clearway.state.life import Life

if TYPE_CHECKING:
    from clearway.state.resource import Resource

T = TypeVar("T")

_log = logging.getLogger("clearway.state")

_CANCEL_WITHIN = 1.0  # seconds that a cancelled resource has for its clean-up


@dataclass(frozen=True, slots=True)
class ResourceSnapshot:
    """A resource that is open.

    Attributes:
        seconds: How long it took to open, without the resources that it needs.
        needed_by: Who asked for it first: an endpoint, another resource, a journey.
    """

    seconds: float
    needed_by: str


class Resources:
    """The part that holds what `@resource` declares.

    Args:
        settings: How long opening and closing may take.
        parts: What a resource finds while it opens, of the Clearway that opens it.
        overrides: Returns the app's `dependency_overrides`, honoured for whoever asks; tests
            put in a new dictionary as often as they change the one that is there.
    """

    def __init__(
        self, settings: StateSettings, parts: Parts, overrides: Callable[[], Overrides]
    ) -> None:
        self._settings = settings
        self._parts = parts
        self._overrides = overrides
        self._stand_ins: dict[tuple[object, object], Resource[Any]] = {}
        self._lives: dict[Resource[Any], Life] = {}
        self._order: list[Life] = []  # as they became open
        self._accepting = False
        self._context = contextvars.Context()

    async def open(self) -> None:
        """Open resources from now on, in the context of this call."""
        # Not in that of whoever asks first: what a request has bound must not live on.
        self._context = contextvars.copy_context()
        self._accepting = True

    async def open_these(self, needed: Mapping[Resource[Any], str]) -> None:
        """Open resources one after the other, each after what it needs.

        Args:
            needed: The resources, and who needs each of them, for messages.

        Raises:
            ResourceFailed: One raised, or took too long.
            ResourceInvalid: One has a parameter that is no resource, or needs itself.
        """
        for resource, needed_by in needed.items():
            await self.get(resource, needed_by)

    async def get(self, resource: Resource[T], needed_by: str | None = None) -> T:
        """Return the value of a resource, opened by the first who asks; see `Resource`."""
        resource = self._instead_of(resource)
        life = self._lives.get(resource)
        if life is None or not life.opened:
            asker = self._asker()
            if life is None or life.ready.done():  # it failed, and may not have ended yet
                life = self._begin(resource, needed_by, asker)
            await self._wait(life, asker)
        value: T = life.ready.result()
        return value

    def _instead_of(self, resource: Resource[T]) -> Resource[T]:
        fake = self._overrides().get(resource)
        if fake is None:
            return resource
        if (resource, fake) not in self._stand_ins:
            self._stand_ins[resource, fake] = resource.replaced_by(fake)
        return self._stand_ins[resource, fake]

    def _asker(self) -> Life | None:
        """Return the resource in whose opening the calling code runs, None outside of one."""
        journey = current_journey()
        asker = None if journey is None else journey.units.get(self)
        return asker if isinstance(asker, Life) and not asker.ready.done() else None

    def _begin(self, resource: Resource[Any], needed_by: str | None, asker: Life | None) -> Life:
        if not self._accepting:
            raise NotOpen(
                f"resource {resource.name} was asked for after the shutdown had begun",
                fix="what a resource needs to close, it takes as a parameter",
            )
        journey = current_journey()
        if asker is not None:
            needed_by = asker.resource.name
        elif needed_by is None:
            needed_by = "a call" if journey is None else journey.route or f"a {journey.kind}"
        life = self._lives[resource] = Life(resource, needed_by, asker)
        life.task = asyncio.create_task(
            self._run(life), name=f"clearway resource {resource.name}", context=self._context.copy()
        )
        life.task.add_done_callback(lambda task: self._ended(life, task))
        return life

    async def _wait(self, life: Life, asker: Life | None) -> None:
        if asker is None:
            await asyncio.shield(life.ready)  # others may wait for it too
            return
        if circle := life.path_to(asker):
            names = " -> ".join(each.resource.name for each in [asker, *circle])
            raise ResourceInvalid(
                f"resources need each other in a circle: {names}",
                fix="move what two of them need into a third",
            )
        asker.waits.append(life)
        try:
            await asyncio.shield(life.ready)
        finally:
            asker.waits.remove(life)

    async def _run(self, life: Life) -> None:
        journey = Journey("script", route=life.resource.name, parts=self._parts)
        # There is no response that a COMMIT could hang on: a session is `road.db.session()`.
        journey.answered = journey.committed = True
        journey.units[self] = life
        with travelling(journey):
            needs = {name: await self.get(need) for name, need in life.resource.needs.items()}
            await life.run(needs, self._settings.open_within, lambda: self._opened(life))

    def _opened(self, life: Life) -> None:
        self._order.append(life)
        _log.info("resource %s opened in %.0f ms", life.resource.name, life.seconds * 1000)

    def _ended(self, life: Life, task: asyncio.Task[None]) -> None:
        """Say what a resource left unsaid; the next who asks for it opens it anew."""
        error = None if task.cancelled() else task.exception()
        name = life.resource.name
        if not life.ready.done():
            life.fail(error, "it was cancelled")
        if not life.opened:
            failure = life.ready.exception()
            if failure is not error:  # that of a need is logged where it happened
                _log.error("resource %s could not be opened", name, exc_info=failure)
        elif self._accepting:
            _log.error("resource %s ended while it was in use", name, exc_info=error)
        elif error is not None:
            _log.error("resource %s failed to close", name, exc_info=error)
        if self._lives.get(life.resource) is life:
            del self._lives[life.resource]
        if life in self._order:
            self._order.remove(life)

    async def close(self) -> None:
        """Close every resource, the last opened first, each whatever the others do."""
        self._accepting = False
        closing = asyncio.ensure_future(self._close_all())
        cancelled: asyncio.CancelledError | None = None
        while not closing.done():  # it is bounded
            try:
                await asyncio.wait({closing})
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        closing.result()

    async def _close_all(self) -> None:
        opening = [life for life in self._lives.values() if not life.opened]
        for life in opening:
            life.cut_off()
        for life in opening:
            await _ends(life, _CANCEL_WITHIN)
        for life in reversed(self._order.copy()):
            await self._close(life)

    async def _close(self, life: Life) -> None:
        life.close()
        if await _ends(life, self._settings.close_within):
            return
        within = self._settings.close_within
        _log.error("resource %s did not close within %g s", life.resource.name, within)
        life.cut_off()
        await _ends(life, _CANCEL_WITHIN)

    def snapshot(self) -> Mapping[str, ResourceSnapshot]:
        """Return what is open, in order of opening, by name."""
        lives = {life.resource.name: life for life in self._order}
        return MappingProxyType(
            {name: ResourceSnapshot(life.seconds, life.needed_by) for name, life in lives.items()}
        )


async def _ends(life: Life, within: float) -> bool:
    """Say whether its task ends within the time, in seconds."""
    if life.task is None:
        return True
    done, _ = await asyncio.wait({life.task}, timeout=within)
    return bool(done)
