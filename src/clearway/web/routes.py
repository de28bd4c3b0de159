"""Name the route that a request took, as its template (`/invoices/{id}`)."""

from __future__ import annotations

from starlette.types import Scope


def route_template(scope: Scope, root_path: str) -> str | None:
    """Return the whole template of the matched route, None where nothing matched.

    Args:
        scope: The ASGI scope after routing; Starlette's routers write into it.
        root_path: The `root_path` with which the scope came in. What mounts have added
            to it since is the prefix of the sub-application.
    """
    # touchpoint: effective-route-context
    context = scope.get("fastapi", {}).get("effective_route_context")
    route = scope.get("route")
    path = getattr(context, "path_format", None) or getattr(route, "path_format", None)
    if path is None:
        return None
    mounted = scope.get("root_path", "").removeprefix(root_path)
    return str(mounted + path)
