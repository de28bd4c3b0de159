"""The other services of the demo: who knows the rates, is told of invoices, sends reminders.

They are made up, but the calls to them are not: HTTP over a socket, with answers that may be
late, wrong or none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Any, Self

_RATES = {
    "base": "EUR",
    "day": "2026-11-22",
    "rates": {"CHF": "0.9312", "GBP": "0.8745", "JPY": "171.40", "PLN": "4.2410", "USD": "1.0836"},
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What one path answers; `after` that many seconds."""

    status: int
    body: object = None
    after: float = 0.0


@dataclass(frozen=True, slots=True)
class Received:
    """One POST that came in."""

    path: str
    body: Any
    headers: Mapping[str, str]


@dataclass(slots=True)
class Others:
    """A server on a free port of 127.0.0.1, in a thread of this process, with which it ends.

    Attributes:
        answers: What each path answers; whoever sends reminders is out of order.
        received: Every POST that came in, in order.
    """

    answers: dict[str, Answer] = field(
        default_factory=lambda: {
            "/rates": Answer(200, _RATES),
            "/webhook": Answer(204),
            "/reminders": Answer(500, {"error": "out of order"}),
        }
    )
    received: list[Received] = field(default_factory=list)
    _server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """Where they are."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def env(self) -> dict[str, str]:
        """What the studio has to be told of them."""
        return {
            "STUDIO_RATES_URL": f"{self.url}/rates",
            "STUDIO_WEBHOOK_URL": f"{self.url}/webhook",
            "STUDIO_REMINDER_URL": f"{self.url}/reminders",
        }

    def posted(self, path: str) -> list[Any]:
        """Return the bodies that came to a path."""
        return [one.body for one in self.received if one.path == path]

    def __enter__(self) -> Self:
        others = self

        class Handler(_Handler):
            """Handler of these others."""

            def answer(self, body: Any) -> Answer:
                if self.command == "POST":
                    others.received.append(Received(self.path, body, dict(self.headers)))
                elif self.path == "/webhook":
                    return Answer(200, others.posted("/webhook"))  # for a person who looks
                return others.answers.get(self.path, Answer(404))

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True  # they wait for clients that keep their connections
        Thread(
            target=self._server.serve_forever, args=(0.05,), name="studio-others", daemon=True
        ).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: apart, the second waits 40 ms for an ACK

    def answer(self, body: Any) -> Answer:
        raise NotImplementedError

    def do_GET(self) -> None:
        """Answer a question."""
        self._send(self.answer(None))

    def do_POST(self) -> None:
        """Take in what was sent."""
        length = int(self.headers.get("Content-Length", 0))
        self._send(self.answer(json.loads(self.rfile.read(length))))

    def _send(self, answer: Answer) -> None:
        time.sleep(answer.after)
        content = b"" if answer.body is None else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        if answer.status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the demo's terminal belongs to the studio."""
