"""Bring the records of the standard library's `logging` into the same stream."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from clearway.logs.backlog import BANDS, band
from clearway.logs.logger import Output
from clearway.logs.plain import Fields

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message", "asctime", "taskName", "color_message",
}  # fmt: skip
_UVICORN = ("uvicorn", "uvicorn.error", "uvicorn.asgi")
_UVICORN_ACCESS = "uvicorn.access"


class Handler(logging.Handler):
    """Render a record once, as structlog events are rendered, and write it without waiting."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def handle(self, record: logging.LogRecord) -> bool:
        """Write a record without the handler's lock: a signal handler may log as well."""
        passed: object = self.filter(record)
        if isinstance(passed, logging.LogRecord):  # a filter may replace it since Python 3.12
            record = passed
        if passed:
            self.emit(record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Render and write; never raise."""
        fields: Fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        fields.setdefault("logger", record.name)
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        if record.stack_info:
            fields["stack"] = record.stack_info
        try:
            event: object = record.getMessage()
        except Exception:  # noqa: BLE001 - a wrong format is the caller's; its arguments are shown
            event, fields["args"] = record.msg, record.args
        name = BANDS[band(record.levelno)]
        self._output.write(self._output.renderer.event(name, event, fields), record.levelno)


@dataclass(slots=True)
class _Kept:
    handlers: list[logging.Handler]
    propagate: bool


class Capture:
    """Hold the root logger, the warnings and uvicorn's loggers, and put all of it back.

    Args:
        handler: Gets every record.
        level: Lowest level for the root logger.
        access: We write a line for each request, so that uvicorn's own is silenced.
    """

    def __init__(self, handler: Handler, level: int, *, access: bool) -> None:
        self._handler = handler
        self._level = level
        self._access = access
        self._root_level = logging.NOTSET
        self._warnings_were_captured = False
        self._kept: dict[str, _Kept] = {}

    def take(self) -> None:
        """Put our handler at the root, and capture warnings."""
        root = logging.getLogger()
        self._root_level = root.level
        root.addHandler(self._handler)  # touchpoint: root-logger
        root.setLevel(self._level)
        # touchpoint: warnings. The private name says whether somebody captures them already.
        self._warnings_were_captured = getattr(logging, "_warnings_showwarning", None) is not None
        logging.captureWarnings(True)

    def set_uvicorn_aside(self) -> None:
        """Let uvicorn's records reach the root; called again after uvicorn was configured."""
        for name in _UVICORN:
            self._set_aside(name, propagate=True)
        if self._access:
            # Without handlers uvicorn does not even make the record (41 us a request).
            self._set_aside(_UVICORN_ACCESS, propagate=False)
        else:
            self._set_aside(_UVICORN_ACCESS, propagate=True)

    def _set_aside(self, name: str, *, propagate: bool) -> None:
        logger = logging.getLogger(name)
        kept = self._kept.get(name)
        if kept is None or logger.handlers:
            self._kept[name] = _Kept(logger.handlers, logger.propagate)
        logger.handlers, logger.propagate = [], propagate  # touchpoint: uvicorn-loggers

    def give_back(self) -> None:
        """Put everything back as it was."""
        for name, kept in self._kept.items():
            logger = logging.getLogger(name)
            if not logger.handlers:
                logger.handlers, logger.propagate = kept.handlers, kept.propagate
        self._kept.clear()
        if not self._warnings_were_captured:
            logging.captureWarnings(False)
        root = logging.getLogger()
        root.removeHandler(self._handler)
        if root.level == self._level:
            root.setLevel(self._root_level)
        self._handler.close()
