"""Walk an application's routes, through included routers and mounted applications."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fastapi.routing
from starlette.routing import BaseRoute, Mount

Overrides = Mapping[Callable[..., Any], Callable[..., Any]]
"""An application's `dependency_overrides`."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint that an application serves.

    Attributes:
        path: Template of the whole route, for messages.
        dependant: FastAPI's tree of what the endpoint takes: `call`, `dependencies`.
        overrides: Those of the application that serves it, which a mounted one has of its own.
    """

    path: str
    dependant: Any
    overrides: Overrides


def endpoints(
    routes: Iterable[BaseRoute], overrides: Overrides | None = None, *, prefix: str = ""
) -> Iterator[Endpoint]:
    """Return every endpoint of FastAPI's.

    Args:
        routes: The app's routes; mounted applications are looked into.
        overrides: The app's `dependency_overrides`.
        prefix: Where the app is mounted.
    """
    for route in _contexts(list(routes)):
        path = prefix + getattr(route, "path", "")
        original = getattr(route, "original_route", route)
        if isinstance(original, Mount):
            theirs = getattr(original.app, "dependency_overrides", None)
            yield from endpoints(original.routes or (), theirs, prefix=path)
        dependant = getattr(route, "dependant", None)  # touchpoint: fastapi-dependant
        if dependant is not None:
            yield Endpoint(path, dependant, {} if overrides is None else overrides)


def own_routes(routes: Sequence[BaseRoute]) -> Iterator[BaseRoute]:
    """Return an app's routes with those of its included routers."""
    for context in _contexts(list(routes)):
        yield getattr(context, "original_route", context)


def _contexts(routes: Sequence[BaseRoute]) -> Iterator[Any]:
    # FastAPI before 0.141 flattens included routers into `routes`, later ones keep them apart.
    contexts: Callable[..., Iterator[Any]] = getattr(fastapi.routing, "iter_route_contexts", iter)
    return contexts(routes)
