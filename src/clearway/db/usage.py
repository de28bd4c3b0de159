"""Find where an application asks for a session, before it has served a request."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from starlette.routing import BaseRoute

from clearway.routing import Overrides, endpoints


@dataclass(frozen=True, slots=True)
class Use:
    """One function of the app that takes a session.

    Attributes:
        route: Template of the route, for messages.
        function: Qualified name of the endpoint or dependency, for messages.
        endpoint_in_thread: It is an endpoint and a `def`, so FastAPI runs it in a thread. A
            `def` dependency may well hand the session on: `def repo(session): return Repo(...)`.
    """

    route: str
    function: str
    endpoint_in_thread: bool


def session_uses(
    routes: Iterable[BaseRoute],
    sessions: set[Callable[..., Any]],
    overrides: Overrides | None = None,
) -> list[Use]:
    """Return every use of a session dependency.

    Args:
        routes: The app's routes; mounted applications are looked into.
        sessions: The dependency functions that give an asynchronous session.
        overrides: The app's `dependency_overrides`: what is overridden takes no session.
    """
    return [
        use
        for endpoint in endpoints(routes, overrides)
        for use in _uses(endpoint.path, endpoint.dependant, sessions, endpoint.overrides)
    ]


def _uses(
    path: str,
    dependant: Any,
    sessions: set[Callable[..., Any]],
    overrides: Overrides,
    *,
    endpoint: bool = True,
) -> Iterator[Use]:
    for child in dependant.dependencies:
        call = overrides.get(child.call, child.call)
        if call in sessions and dependant.call is not None:
            name = getattr(dependant.call, "__qualname__", repr(dependant.call))
            yield Use(path, name, endpoint and _in_thread(dependant.call))
        if call is child.call:
            yield from _uses(path, child, sessions, overrides, endpoint=False)


def _in_thread(function: Callable[..., Any]) -> bool:
    call = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004 - the bound method is wanted
    return not (inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call))
