"""What aiohttp's trace hooks see: the wait for a connection, the redirects, the end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import TypeVar

from aiohttp import (
    ClientSession,
    TraceConfig,
    TraceConnectionQueuedEndParams,
    TraceConnectionQueuedStartParams,
    TraceRequestEndParams,
    TraceRequestExceptionParams,
    TraceRequestRedirectParams,
    TraceRequestStartParams,
)
from yarl import URL

from clearway.core.lane import Lane
from clearway.core.observer import Faults
from clearway.outbound.call import Call
from clearway.outbound.ids import Ids, take_back
from clearway.outbound.middleware import current_call

T = TypeVar("T")


class _Context(SimpleNamespace):
    """What aiohttp carries from hook to hook of one request, its redirects included."""

    def __init__(self, trace_request_ctx: object = None) -> None:
        super().__init__(trace_request_ctx=trace_request_ctx)
        self.own = Call()
        self.added: tuple[str, ...] = ()

    @property
    def call(self) -> Call:
        """The call that a `LaneMiddleware` makes, else our own, which holds nobody up."""
        return current_call.get() or self.own


class Hooks:
    """The hooks of one lane; `config` gives them to a session.

    Args:
        lane: Counts the calls of sessions that have no `LaneMiddleware`.
        ids: Are put on each call, and taken back where a redirect leads to another host.
        faults: Count what fails here; the call goes on.
    """

    def __init__(self, lane: Lane, ids: Ids, faults: Faults) -> None:
        self._lane = lane
        self._ids = ids
        self._faults = faults

    def config(self) -> TraceConfig:
        """Return a new trace configuration."""
        config = TraceConfig(_Context)
        config.on_request_start.append(self._guarded(self._started))
        config.on_connection_queued_start.append(self._guarded(self._queued))
        config.on_connection_queued_end.append(self._guarded(self._unqueued))
        config.on_connection_create_start.append(self._guarded(self._connects))
        config.on_connection_reuseconn.append(self._guarded(self._connects))
        config.on_request_redirect.append(self._guarded(self._redirected))
        config.on_request_end.append(self._guarded(self._ended))
        config.on_request_exception.append(self._guarded(self._failed))
        return config

    def _guarded(
        self, hook: Callable[[_Context, T], None]
    ) -> Callable[[ClientSession, SimpleNamespace, T], Awaitable[None]]:
        watch = self._faults.guarded(f"{type(self).__name__}.{hook.__name__}", hook)

        async def signal(session: ClientSession, context: SimpleNamespace, params: T) -> None:
            assert isinstance(context, _Context)
            watch(context, params)

        return signal

    def _started(self, context: _Context, params: TraceRequestStartParams) -> None:
        context.added = self._ids.put(params.headers, context.own.journey)

    def _queued(self, context: _Context, _: TraceConnectionQueuedStartParams) -> None:
        context.call.queue()

    def _unqueued(self, context: _Context, _: TraceConnectionQueuedEndParams) -> None:
        context.call.unqueue()

    def _connects(self, context: _Context, _: object) -> None:
        if context.call is context.own and context.own.permit is None:
            context.own.permit = self._lane.try_acquire()

    def _redirected(self, context: _Context, params: TraceRequestRedirectParams) -> None:
        context.own.end()
        headers = params.response.headers
        try:
            target = URL(headers.get("Location") or headers.get("URI") or "")
        except ValueError:
            return  # aiohttp refuses it as well, in a moment
        if params.url.join(target).host != params.url.host:
            take_back(params.headers, context.added)

    def _ended(self, context: _Context, params: TraceRequestEndParams) -> None:
        context.own.end_with(params.response)

    def _failed(self, context: _Context, _: TraceRequestExceptionParams) -> None:
        context.own.end()
