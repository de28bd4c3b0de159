"""Write one line for each request that has ended."""

from __future__ import annotations

from clearway.core.journey import Exchange, Journey
from clearway.core.observer import Observer
from clearway.errors import ClearwayError
from clearway.logs.logger import Output
from clearway.logs.plain import Fields


class AccessLine(Observer):
    """Tell of a request what it was, how it ended and what it waited for.

    Args:
        output: Where the line goes.
        threshold: Lowest level that is written, as a number of `logging`.
    """

    def __init__(self, output: Output, threshold: int) -> None:
        self._output = output
        self._threshold = threshold

    def finished(self, journey: Journey) -> None:
        """Write the line: `error` for a 5xx or an exception without an answer, else `info`."""
        exchange = journey.exchange
        if exchange is None:
            return
        failed = exchange.status >= 500 if exchange.status else journey.error is not None
        name, level = ("error", 40) if failed else ("info", 20)
        if level < self._threshold:
            return
        fields = _fields(journey, exchange)
        self._output.write(self._output.renderer.access(name, journey, fields), level)


def _fields(journey: Journey, exchange: Exchange) -> Fields:
    fields: Fields = {
        "method": exchange.method,
        "path": exchange.path,
        "status": exchange.status,
        "duration_ms": _ms(journey.age),
        "bytes_in": exchange.bytes_in,
        "bytes_out": exchange.bytes_out,
    }
    if exchange.peer is not None:
        fields["client"] = exchange.client
    user_agent = exchange.user_agent
    if user_agent is not None:
        fields["user_agent"] = user_agent
    if journey.error is not None:
        fields["error"] = type(journey.error).__name__
        fields["error_message"] = _reason(journey.error)
    if not exchange.complete:
        fields["complete"] = False
    for lane, entry in journey.ledger:
        if entry.waited:
            fields[f"{lane}_wait_ms"] = _ms(entry.waited)
        if entry.held:
            fields[f"{lane}_ms"] = _ms(entry.held)
    for key, value in journey.notes.items():
        fields[f"{key}_" if key in fields or key in _TAKEN else key] = value
    return fields


def _reason(error: BaseException) -> str:
    """Return why, so that a request id leads to it: the server's traceback has no id."""
    if isinstance(error, ClearwayError):
        return f"[{error.code}] {error.what}"
    try:
        return str(error)[:_LONGEST_REASON]
    except Exception:  # noqa: BLE001 - a caller's __str__ may raise anything
        return ""


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


_LONGEST_REASON = 300  # characters
_TAKEN = frozenset({"timestamp", "level", "event", "request_id", "route", "service", "version"})
