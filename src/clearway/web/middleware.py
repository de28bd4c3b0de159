"""The one pure ASGI layer, outermost, through which every request travels."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clearway.core.deadline import Deadline
from clearway.core.histogram import Histogram
from clearway.core.journey import Exchange, Journey, current_journey, enter, leave
from clearway.core.lane import Lane
from clearway.core.observer import Faults, Headers, Observer, Watches
from clearway.core.parts import Parts
from clearway.errors import ClearwayError, CommitConflict, CommitFailed, DeadlineExceeded
from clearway.settings import RequestSettings
from clearway.web.health import Probes
from clearway.web.identity import accepted_id
from clearway.web.lifespan import Lifespan, Openable
from clearway.web.problem import Problem, describe
from clearway.web.routes import route_template

_KINDS = frozenset({"http", "websocket"})

SETTLE_WITHIN = 5.0
"""Seconds that a rollback may take after the request was cancelled."""


@dataclass(slots=True)
class RequestPath:
    """What every request of one application shares; the middleware holds nothing of its own.

    Attributes:
        road: Opened and closed with the app's lifespan.
        lane: The lane `requests`: how many are in flight and for how long.
        would_expire: Requests that outlived `request.timeout` in mode `observe`, in seconds.
        detailed: Problem answers say what happened (development).
        watches: What the observers want to see, by the moment; none of it can fail a request.
    """

    settings: RequestSettings
    road: Openable
    parts: Parts
    probes: Probes | None
    faults: Faults
    detailed: bool
    lane: Lane = field(default_factory=lambda: Lane("requests"))
    would_expire: Histogram = field(default_factory=Histogram)
    watches: Watches = field(init=False)
    id_header: bytes = field(init=False)
    enforced: bool = field(init=False)

    def __post_init__(self) -> None:
        self.watches = Watches((), self.faults)
        self.id_header = self.settings.id_header.lower().encode("ascii")
        self.enforced = self.settings.timeout_mode == "enforce"

    def watch(self, observers: Sequence[Observer]) -> None:
        """Let these observers, and no others, see the requests from now on."""
        self.watches = Watches(observers, self.faults)


class ClearwayMiddleware:
    """Send each connection down its own path; the object itself is stateless."""

    def __init__(self, app: ASGIApp, path: RequestPath) -> None:
        self.app = app
        self.path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        kind = scope["type"]
        if kind == "lifespan":
            await Lifespan(self.app, self.path.road)(scope, receive, send)
            return
        if kind not in _KINDS or scope.get("clearway") is self.path:
            await self.app(scope, receive, send)
            return
        probes = self.path.probes
        try:
            probe = probes if probes is not None and probes.wants(scope) else None
            responder = _Responder(self.app, self.path, scope, receive, send)
        except Exception as error:  # noqa: BLE001 - a fault of ours: the app serves without us
            self.path.faults.record("middleware", error)
            await self.app(scope, receive, send)
            return
        await (responder.run() if probe is None else probe.answer(scope, send))


class _Responder:
    """One request on its way: what it reads, what it answers, and what hangs on both."""

    __slots__ = ("app", "exchange", "failure", "inner", "journey", "path", "receive", "scope",
                 "send")  # fmt: skip

    def __init__(
        self, app: ASGIApp, path: RequestPath, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self.app = app
        self.path = path
        self.scope = scope
        self.receive = receive
        self.send = send
        self.failure: Exception | None = None
        self.inner: anyio.CancelScope | None = None
        self.exchange = Exchange(
            scope.get("method", "WEBSOCKET"), scope["path"], scope.get("client"), scope["headers"]
        )
        bound = path.enforced and scope["type"] == "http"
        outer = current_journey() if "clearway" in scope else None  # of an app that mounts this one
        self.journey = Journey(
            "websocket" if scope["type"] == "websocket" else "request",
            id=outer.id if outer else accepted_id(scope["headers"], path.id_header),
            route=partial(route_template, scope, scope.get("root_path", "")),
            deadline=Deadline.after(path.settings.timeout) if bound else None,
            parts=path.parts,
        )
        self.journey.exchange = self.exchange
        # Not the journey itself: that would close a cycle and keep the collector busy.
        scope["clearway"] = path

    async def run(self) -> None:
        """Run the app for this request, and leave nothing of it unsettled."""
        journey, path = self.journey, self.path
        permit = path.lane.try_acquire()
        token = enter(journey)
        try:
            for started in path.watches.started:
                started(journey)
            if journey.deadline is not None:
                await self._call_within(path.settings.timeout)
            else:
                await self.app(self.scope, self._read, self._write)
        except BaseException as error:
            # What the app raises after its answer was replaced only follows from that.
            if self.failure is None or not isinstance(error, Exception):
                journey.error = error
                raise
        finally:
            try:
                await self._finish()
            finally:
                if permit is not None:
                    permit.release()
                leave(token)
        if self.failure is not None and _is_a_fault(self.failure):
            raise self.failure

    async def _finish(self) -> None:
        journey = self.journey
        journey.answered = True
        try:
            if journey.unsettled:
                await abandon(journey, self.path.faults)
        finally:
            for finished in self.path.watches.finished:
                finished(journey)
            await self._afterwards()

    async def _call_within(self, seconds: float) -> None:
        """Call the app, cancel it at the deadline unless the response has begun, answer 504."""
        loop = asyncio.get_running_loop()
        with anyio.CancelScope() as self.inner:
            timer = loop.call_later(seconds, self._expire)
            try:
                await self.app(self.scope, self._read, self._write)
            finally:
                timer.cancel()
        if self.inner.cancelled_caught:
            late = DeadlineExceeded(f"{self.exchange.path} took longer than {seconds:g} s")
            if self.exchange.status is not None:
                raise late  # the app answered all the same and was cut off: nothing can mend it
            await abandon(self.journey, self.path.faults)
            await self._replace(late)

    def _expire(self) -> None:
        # A `def` endpoint goes on in its thread whatever we do, and cancelling its await would
        # give back AnyIO's token while the thread still runs.
        endpoint = self.scope.get("endpoint")
        if not self.journey.answered and self.inner is not None and not _runs_in_thread(endpoint):
            self.inner.cancel()

    async def _read(self) -> Message:
        message = await self.receive()
        if message["type"] == "http.request":
            self.exchange.bytes_in += len(message.get("body", b""))
        return message

    def _write(self, message: Message) -> Awaitable[None]:
        # Not a coroutine of its own: bodies go straight to the server's.
        kind = message["type"]
        if kind == "http.response.start":
            return self._start(message)
        if self.failure is not None:
            return _stop()
        if kind == "http.response.body":
            self.exchange.bytes_out += len(message.get("body", b""))
            self.exchange.complete = not message.get("more_body", False)
        elif kind == "http.response.pathsend":
            self.exchange.complete = True
        elif kind == "websocket.accept":
            message = {**message, "headers": self._decorated(message)}
        return self.send(message)

    async def _start(self, message: Message) -> None:
        if self.failure is not None:
            return
        journey, status = self.journey, message["status"]
        if status < 200:  # only a hint: the answer is still to come
            await self.send(message)
            return
        journey.answered = True
        commit = journey.wants_commit(status < 400)
        if journey.unsettled:
            try:
                await journey.settle(commit)
            except Exception as error:  # noqa: BLE001 - whatever it is, no 2xx may leave after it
                await self._replace(error)
                return
        else:
            journey.committed = commit
        self._began(status)
        await self.send({**message, "headers": self._decorated(message)})

    def _decorated(self, message: Message) -> Headers:
        headers: Headers = list(message.get("headers", ()))
        for responding in self.path.watches.responding:
            responding(self.journey, headers)
        return headers

    def _began(self, status: int) -> None:
        self.exchange.status = status
        self.journey.deadline = None  # bodies, streams and background are not bound by it
        if self.journey.age > self.path.settings.timeout:
            self.path.would_expire.observe(self.journey.age)

    async def _replace(self, error: Exception) -> None:
        """Answer with a problem in place of what the app is sending."""
        self.journey.answered = True
        self.failure = self.journey.error = error
        problem = describe(error, self.journey.id, detailed=self.path.detailed)
        self._began(problem.status)
        await self._send_problem(problem)

    async def _send_problem(self, problem: Problem) -> None:
        message = {"type": "http.response.start", "status": problem.status}
        headers = self._decorated({"headers": problem.headers})
        if self.scope["http_version"].startswith("1.") and _is_a_fault(self.failure):
            # The error is raised once the answer is out, and uvicorn then cuts the connection:
            # a client that was told so does not send its next request into the void.
            headers.append((b"connection", b"close"))
        await self.send({**message, "headers": headers})
        body = b"" if self.exchange.method == "HEAD" else problem.body
        self.exchange.bytes_out = len(body)
        await self.send({"type": "http.response.body", "body": body})
        self.exchange.complete = True

    async def _afterwards(self) -> None:
        for hook in self.journey.afterthoughts():
            try:
                await hook(self.journey.committed)
            except Exception as error:  # noqa: BLE001 - one failure never skips the next
                self.path.faults.record("after_response", error)


async def abandon(journey: Journey, faults: Faults) -> None:
    """Roll back what no response has settled, in bounded time even when cancelled."""
    with anyio.CancelScope(shield=True):
        failure = await journey.abandon(SETTLE_WITHIN)
    if failure is not None:
        faults.record("rollback", failure)


class _AnswerReplaced(OSError):
    """Our own answer has been sent in place of the app's: no byte of it will leave."""


async def _stop() -> None:
    """End a body that nobody will get, as a server does whose client has left."""
    raise _AnswerReplaced("the answer was replaced by a problem of ours")


def _is_a_fault(failure: Exception | None) -> bool:
    """Say whether the server should log a failure: a refusal or a conflict is an answer."""
    if isinstance(failure, ClearwayError) and not isinstance(failure, CommitFailed):
        return False
    return not isinstance(failure, CommitConflict)


def _runs_in_thread(endpoint: Callable[..., object] | None) -> bool:
    if endpoint is None or inspect.isclass(endpoint):
        return False
    call = endpoint if inspect.isroutine(endpoint) else getattr(endpoint, "__call__", endpoint)  # noqa: B004 - the bound method is wanted
    return not inspect.iscoroutinefunction(call)
