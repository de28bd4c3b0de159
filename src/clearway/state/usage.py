"""Find the resources that an application's routes take, before it has served a request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from starlette.routing import BaseRoute

from clearway.routing import Overrides, endpoints
from clearway.state.resource import Resource


def resources_taken(routes: Iterable[BaseRoute], overrides: Overrides) -> dict[Resource[Any], str]:
    """Return the resources that routes take, and for each the first function that takes it.

    Args:
        routes: The app's routes; mounted applications are looked into.
        overrides: The app's `dependency_overrides`; what they replace is left out.
    """
    taken: dict[Resource[Any], str] = {}
    for endpoint in endpoints(routes, overrides):
        for resource, function in _taken(endpoint.dependant, endpoint.overrides):
            taken.setdefault(resource, f"{function} ({endpoint.path})")
    return taken


def _taken(dependant: Any, overrides: Overrides) -> Iterator[tuple[Resource[Any], str]]:
    for child in dependant.dependencies:
        if child.call in overrides:
            continue
        if isinstance(child.call, Resource):
            yield child.call, getattr(dependant.call, "__qualname__", repr(dependant.call))
        yield from _taken(child, overrides)
