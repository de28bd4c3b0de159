"""Answer `/livez` and `/readyz` without a thread, a database or a log line.

Names and verbose form are those of kube-apiserver:
https://kubernetes.io/docs/reference/using-api/health-checks/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from starlette.routing import BaseRoute, Match
from starlette.types import Scope, Send

_ENDINGS = ("/livez", "/readyz")


class Probes:
    """The two probes of one application.

    Args:
        routes: Returns the app's own routes; one that matches a probe's path wins.
        readiness: Returns what the service needs and whether it has it. Not ready while
            one is False; nothing is asked of the network.
    """

    def __init__(
        self,
        routes: Callable[[], Sequence[BaseRoute]],
        readiness: Callable[[], Mapping[str, bool]],
    ) -> None:
        self._routes = routes
        self._readiness = readiness

    def wants(self, scope: Scope) -> bool:
        """Say whether this request is a probe that the app itself does not answer."""
        if not scope["path"].endswith(_ENDINGS) or scope["type"] != "http":
            return False
        if scope["method"] not in {"GET", "HEAD"}:
            return False
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        return path in _ENDINGS and not any(
            route.matches(scope)[0] is not Match.NONE for route in self._routes()
        )

    async def answer(self, scope: Scope, send: Send) -> None:
        """Answer 200 `ok`, or 503 with what is missing; `?verbose` lists everything."""
        checks = self._readiness() if scope["path"].endswith("/readyz") else {"process": True}
        ready = all(checks.values())
        if ready and b"verbose" not in scope.get("query_string", b""):
            body = b"ok\n"
        else:
            lines = (f"[{'+' if good else '-'}]{name}\n" for name, good in checks.items())
            body = "".join(lines).encode()
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        status = 200 if ready else 503
        await send({"type": "http.response.start", "status": status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": body})
