"""Render a structlog event to one line of bytes, in one step and with one orjson call."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterator
from contextvars import ContextVar

import structlog.contextvars
from structlog.typing import EventDict

from clearway.core.journey import Journey, current_journey
from clearway.logs import plain
from clearway.logs.books import Dropped
from clearway.logs.plain import Fields
from clearway.logs.tracebacks import describe

_RESERVED = frozenset({"timestamp", "level"})


class Stamp:
    """Makes the fields that every line begins with.

    Args:
        service: Name of the service; empty leaves it out.
        version: Version of the service; empty leaves it out.
    """

    def __init__(self, service: str, version: str = "") -> None:
        named = {"service": service, "version": version}
        self._service: Fields = {key: value for key, value in named.items() if value}
        self._second = (0, "")

    def now(self) -> str:
        """Return the time as ISO 8601 in UTC with microseconds.

        The part down to the second is kept: `datetime` takes 4 us for each line, this 0.4.
        """
        second, rest = divmod(time.time_ns(), 1_000_000_000)
        kept = self._second  # one tuple: a thread must not pair it with another's second
        if kept[0] != second:
            kept = self._second = (second, _to_the_second(second))
        return f"{kept[1]}.{rest // 1000:06d}Z"

    def begin(self, level: str, event: object, journey: Journey | None) -> Fields:
        """Return the first fields of a line."""
        fields: Fields = {"timestamp": self.now(), "level": level, "event": event}
        if journey is not None:
            fields["request_id"] = journey.id
            route = journey.route
            if route is not None:
                fields["route"] = route
        fields.update(self._service)
        return fields


def _to_the_second(second: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def iso(moment: float) -> str:
    """Return a Unix time in seconds as the lines' timestamps show it."""
    return f"{_to_the_second(moment)}.{int(moment * 1_000_000) % 1_000_000:06d}Z"


class Renderer:
    """One structlog processor that does all there is to do; it ends the chain.

    Args:
        stamp: Makes the fields that every line begins with.
        max_line_bytes: Longest line, with its end.
    """

    def __init__(self, stamp: Stamp, max_line_bytes: int) -> None:
        self._stamp = stamp
        self._most = max_line_bytes

    def __call__(self, logger: object, method: str, event_dict: EventDict) -> bytes:
        """Render what a structlog logger was called with; never raise."""
        name = getattr(logger, "name", None)
        if name is not None:
            event_dict.setdefault("logger", name)
        return self.event(method, event_dict.pop("event", ""), _own(event_dict))

    def event(self, level: str, event: object, fields: Fields) -> bytes:
        """Render one event with the context of the caller; never raise.

        Args:
            level: Name of the level.
            event: What happened, usually a string.
            fields: The caller's fields; `exc_info` and `stack_info` as in `logging`.
        """
        try:
            line = self._stamp.begin(level, event, current_journey())
        except Exception:  # noqa: BLE001 - the framework's route lookup is not ours
            line = self._stamp.begin(level, event, None)
        for key, value in bound_contextvars():
            line[key if key not in _RESERVED else f"{key}_"] = value
        return self.finish(line, fields)

    def finish(self, line: Fields, fields: Fields) -> bytes:
        """Add a caller's fields to a begun line and render it; never raise."""
        if "exc_info" in fields:
            error = find_error(fields.pop("exc_info"))
            if error is not None:
                fields["exception"] = self.exception(error)
        if fields.pop("stack_info", None):
            fields["stack"] = stack()
        if not _RESERVED.isdisjoint(fields):
            for key in _RESERVED & fields.keys():
                fields[f"{key}_"] = fields.pop(key)
        line.update(fields)
        return self.dumps(line)

    def exception(self, error: BaseException) -> object:
        """Return what is rendered for an exception: structure, at most half a line."""
        return describe(error, self._most // 2)

    def dumps(self, line: Fields) -> bytes:
        """Render finished fields; never raise."""
        return plain.dumps(line, self._most)

    def access(self, level: str, journey: Journey, fields: Fields) -> bytes:
        """Render the line of a journey that has ended."""
        line = self._stamp.begin(level, journey.kind, journey)
        line.update(fields)
        return self.dumps(line)

    def dropped(self, report: Dropped) -> bytes:
        """Render the line that tells of dropped lines."""
        line = self._stamp.begin("warning", "log lines dropped", None)
        line["dropped"] = sum(report.by_level.values())
        line["by_level"] = report.by_level
        line["since"] = iso(report.since)
        return self.dumps(line)


def _own(fields: EventDict) -> Fields:
    return fields if isinstance(fields, dict) else dict(fields)


def find_error(exc_info: object) -> BaseException | None:
    """Return the exception that `exc_info` means, as `logging` and structlog read it."""
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return next((part for part in exc_info if isinstance(part, BaseException)), None)
    return sys.exc_info()[1] if exc_info else None


def stack() -> str:
    """Return the stack of the code that logs, without our own frames."""
    lines = traceback.extract_stack(limit=24)
    ours = __file__.rpartition("/")[0]
    kept = [frame for frame in lines if not frame.filename.startswith(ours)]
    return "".join(traceback.format_list(kept))


def bound_contextvars() -> Iterator[tuple[str, object]]:
    """Yield what `structlog.contextvars.bind_contextvars` has bound here."""
    # touchpoint: structlog-contextvars. The public way walks every ContextVar of the process
    # for each line (2 us in a request); without the private table it is taken all the same.
    table: dict[str, ContextVar[object]] | None = getattr(
        structlog.contextvars, "_CONTEXT_VARS", None
    )
    if table is None:
        yield from structlog.contextvars.get_contextvars().items()
    elif table:
        for key, variable in tuple(table.items()):
            value = variable.get(...)
            if value is not ...:
                yield key.removeprefix(structlog.contextvars.STRUCTLOG_KEY_PREFIX), value
