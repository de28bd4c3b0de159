"""Put our layer outside everything that an application builds, and take it off again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp

from clearway.errors import AlreadyStarted, ClearwayError
from clearway.routing import own_routes
from clearway.web.lifespan import Openable
from clearway.web.middleware import ClearwayMiddleware, RequestPath
from clearway.web.problem import ProblemHandler


class Join:
    """Stands in for an app's `build_middleware_stack`.

    `add_middleware` would put us inside whatever is added later and inside the app's last
    error handler: a 401 from the user's middleware and every unhandled 500 would travel
    without an id. A second join of the same app takes the place of the first.

    Raises:
        AlreadyStarted: The app has built its stack.
    """

    def __init__(self, app: Starlette, path: RequestPath) -> None:
        if app.middleware_stack is not None:
            raise AlreadyStarted(
                "Clearway(app) came after the application had started",
                fix="call Clearway(app) where the app is made, before it serves a request",
            )
        earlier = app.__dict__.get("build_middleware_stack")
        if isinstance(earlier, Join):
            earlier.undo()
        self._app = app
        self._path = path
        self._handler = ProblemHandler(detailed=path.detailed)
        self._build: Callable[[], ASGIApp] = app.build_middleware_stack
        app.build_middleware_stack = self  # type: ignore[method-assign]  # touchpoint: middleware-stack

    @property
    def road(self) -> Openable:
        """Whose layer this is."""
        return self._path.road

    def __call__(self) -> ASGIApp:
        """Build the app's stack with our layer outermost."""
        for app in _applications(self._app):
            app.exception_handlers.setdefault(
                ClearwayError, self._handler
            )  # touchpoint: exception-handlers
        return ClearwayMiddleware(self._build(), self._path)

    def undo(self) -> None:
        """Leave the app as it was; a stack that is built already keeps our layer."""
        if self._app.__dict__.get("build_middleware_stack") is self:
            del self._app.build_middleware_stack
        for app in _applications(self._app):
            if app.exception_handlers.get(ClearwayError) is self._handler:
                del app.exception_handlers[ClearwayError]


def road_of(app: object) -> Openable | None:
    """Return what has joined an application: its Clearway, None where there is none."""
    joined = vars(app).get("build_middleware_stack") if isinstance(app, Starlette) else None
    return joined.road if isinstance(joined, Join) else None


def _applications(app: Starlette) -> Iterator[Starlette]:
    """Return the app and the apps mounted in it, each of which handles its own errors."""
    yield app
    yield from _mounted(app.routes)


def _mounted(routes: Sequence[BaseRoute]) -> Iterator[Starlette]:
    for route in own_routes(routes):
        inner = getattr(route, "app", None)
        while inner is not None and not isinstance(inner, Starlette | Router):
            inner = getattr(inner, "app", None)  # what the mount's own middleware wraps
        if isinstance(inner, Starlette):
            yield from _applications(inner)
        elif isinstance(inner, Router):
            yield from _mounted(inner.routes)
