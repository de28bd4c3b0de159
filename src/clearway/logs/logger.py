"""The bound logger under structlog's API, which renders in one step and never raises."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import cast

import structlog
from structlog.exceptions import DropEvent
from structlog.typing import FilteringBoundLogger

from clearway.logs.backlog import BANDS, band
from clearway.logs.plain import Fields, text_of
from clearway.logs.render import Renderer

Write = Callable[[bytes, int], None]

_LEVELS = {
    "debug": 10, "info": 20, "msg": 20, "warning": 30, "warn": 30, "error": 40,
    "exception": 40, "critical": 50, "fatal": 50,
}  # fmt: skip


class Output:
    """Where rendered lines go; what it holds is replaced when the take-over ends."""

    __slots__ = ("renderer", "write")

    def __init__(self, renderer: Renderer, write: Write) -> None:
        self.renderer = renderer
        self.write = write


class Outlet:
    """What structlog wraps: an output under a logger's name."""

    __slots__ = ("name", "output")

    def __init__(self, output: Output, name: str | None) -> None:
        self.output = output
        self.name = name


class OutletFactory:
    """Give structlog the outlet for a logger; it asks again for every line."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._outlets: dict[str | None, Outlet] = {}

    def __call__(self, *args: object) -> Outlet:
        """Return the outlet for `get_logger(name)`."""
        name = str(args[0]) if args else None
        outlet = self._outlets.get(name)
        if outlet is None:
            outlet = self._outlets.setdefault(name, Outlet(self._output, name))
        return outlet


class BoundLogger(structlog.BoundLoggerBase):
    """A logger with structlog's methods, of which none raises and none waits.

    structlog's own raises for a wrong number of `%s` arguments, an unknown numeric level and
    a field called `event`, and hands `ainfo` to the default executor, which one full pipe
    then fills for everybody.
    """

    _threshold = 0

    def debug(self, event: object = None, /, *args: object, **fields: object) -> None:
        """Log at level debug."""
        self._emit(10, "debug", event, args, fields)

    def info(self, event: object = None, /, *args: object, **fields: object) -> None:
        """Log at level info."""
        self._emit(20, "info", event, args, fields)

    def warning(self, event: object = None, /, *args: object, **fields: object) -> None:
        """Log at level warning."""
        self._emit(30, "warning", event, args, fields)

    def error(self, event: object = None, /, *args: object, **fields: object) -> None:
        """Log at level error."""
        self._emit(40, "error", event, args, fields)

    def exception(self, event: object = None, /, *args: object, **fields: object) -> None:
        """Log at level error, with the exception that is being handled."""
        fields.setdefault("exc_info", True)
        self._emit(40, "error", event, args, fields)

    def critical(self, event: object = None, /, *args: object, **fields: object) -> None:
        """Log at level critical."""
        self._emit(50, "critical", event, args, fields)

    def log(self, level: int, event: object = None, /, *args: object, **fields: object) -> None:
        """Log at a numeric level; one in between takes the name of the next lower."""
        if level >= self._threshold:
            self._emit(level, BANDS[band(level)], event, args, fields)

    msg = info
    warn = warning
    fatal = critical

    def is_enabled_for(self, level: int) -> bool:
        """Say whether lines of this level are written."""
        return level >= self._threshold

    def get_effective_level(self) -> int:
        """Return the lowest level that is written."""
        return self._threshold

    def _emit(
        self, level: int, name: str, event: object, args: tuple[object, ...], fields: Fields
    ) -> None:
        outlet = cast(Outlet, self._logger)
        try:
            result: object = self._event_dict(event, args, fields)
            for processor in self._processors:
                # A processor may return anything as long as the next one takes it.
                result = processor(outlet, name, result)  # type: ignore[arg-type]  # see above
        except DropEvent:
            return
        except Exception as fault:  # noqa: BLE001 - a user's processor may raise anything
            result = outlet.output.renderer.event(name, event, {"log_fault": text_of(fault)})
        if isinstance(result, str):
            result = result.encode("utf-8", "backslashreplace") + b"\n"
        if isinstance(result, bytes):
            outlet.output.write(result, level)

    def _event_dict(self, event: object, args: tuple[object, ...], fields: Fields) -> Fields:
        event_dict = {**self._context, **fields}
        if event is not None:
            if "event" in fields:
                event_dict["event_"] = fields["event"]
            event_dict["event"] = _interpolated(event, args, event_dict) if args else event
        return event_dict


def _interpolated(event: object, args: tuple[object, ...], fields: Fields) -> object:
    try:
        one = args[0]
        named = len(args) == 1 and isinstance(one, Mapping) and one
        return str(event) % (one if named else args)
    except Exception:  # noqa: BLE001 - a wrong format is the caller's; its arguments are shown
        fields["args"] = args
        return event


async def _anything(self: BoundLogger, *args: object, **fields: object) -> None:
    """Do nothing."""


def _nothing(self: BoundLogger, *args: object, **fields: object) -> None:
    """Do nothing."""


def _awaitable(name: str) -> Callable[..., object]:
    async def method(self: BoundLogger, /, *args: object, **fields: object) -> None:
        getattr(self, name)(*args, **fields)  # nothing here waits, so no thread is needed

    return method


@functools.cache
def bound_logger(threshold: int) -> type[FilteringBoundLogger]:
    """Return the logger class whose methods below a numeric level do nothing."""
    methods: dict[str, object] = {"_threshold": threshold, "alog": _awaitable("log")}
    for name, level in _LEVELS.items():
        if level < threshold:
            methods[name], methods[f"a{name}"] = _nothing, _anything
        else:
            methods[f"a{name}"] = _awaitable(name)
    made = type(f"BoundLoggerAt{threshold}", (BoundLogger,), methods)
    return cast("type[FilteringBoundLogger]", made)
