"""Take over structlog and the root logger for as long as we are open, and give them back."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import ClassVar, cast

import structlog
from structlog.typing import FilteringBoundLogger

from clearway.errors import LogTargetUnusable, NotOpen
from clearway.logs.access import AccessLine
from clearway.logs.console import ConsoleRenderer, wants_colours
from clearway.logs.logger import OutletFactory, Output, bound_logger
from clearway.logs.render import Renderer, Stamp
from clearway.logs.stdlib import Capture, Handler
from clearway.logs.writer import Writer
from clearway.settings import LogSettings, ServiceSettings

_FLUSH_WITHIN = 2.0  # seconds; what a reader has not taken by then is counted as dropped
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


class _Process:
    """What this process knows of its logging; there is one structlog and one root logger."""

    asked: ClassVar[bool] = False
    taken: ClassVar[_TakeOver | None] = None


def get_logger(*args: object, **initial: object) -> FilteringBoundLogger:
    """Return a structlog logger; module-level ones work before and after the set-up.

    Args:
        args: The logger's name, if it shall have one.
        initial: Fields of every line of this logger.
    """
    _Process.asked = True
    return cast(FilteringBoundLogger, structlog.get_logger(*args, **initial))


class Logs:
    """The one stream of log lines: a part that is open while the service is.

    A second `Logs` in the process joins the first one's stream; the last to go gives it back.

    Args:
        service: Names the service in each line.
        logs: What is written, how and where.
    """

    def __init__(self, service: ServiceSettings, logs: LogSettings) -> None:
        self._service = service
        self._settings = logs
        self._joined: _TakeOver | None = None

    @property
    def taken_over(self) -> bool:
        """Say whether structlog and the root logger are ours now."""
        return self._joined is not None

    @property
    def writer(self) -> Writer:
        """Return the writer.

        Raises:
            NotOpen: Logs are not taken over.
        """
        return self._open().writer

    @property
    def access(self) -> AccessLine:
        """Return the observer that writes the access line.

        Raises:
            NotOpen: Logs are not taken over.
        """
        return self._open().access

    def _open(self) -> _TakeOver:
        if self._joined is None:
            raise NotOpen(
                "the log writer was asked for while logs are not taken over",
                fix="set CLEARWAY_LOGS__TAKE_OVER=on, and ask while the service is open",
            )
        return self._joined

    def configure(self) -> None:
        """Take over, if the settings and the state of the process say so.

        Raises:
            LogTargetUnusable: The target cannot be opened for writing.
        """
        if self._joined is None:
            if _Process.taken is not None and self._settings.take_over != "off":
                self._joined = _Process.taken.join()
            elif self._wanted():
                self._joined = _TakeOver(self._service, self._settings).join()
        if self._joined is not None:
            self._joined.capture.set_uvicorn_aside()

    def _wanted(self) -> bool:
        if self._settings.take_over != "auto":
            return self._settings.take_over == "on"
        configured = structlog.is_configured() or bool(logging.getLogger().handlers)
        return _Process.asked and not configured

    def restore(self, within: float = _FLUSH_WITHIN) -> None:
        """Write what waits, and put structlog and `logging` back as they were.

        Args:
            within: Longest wait for the reader in seconds. A second call does nothing.
        """
        joined, self._joined = self._joined, None
        if joined is not None:
            joined.leave(within)

    async def open(self) -> None:
        """Take over if that is due, with the running loop to drain what the reader delays."""
        self.configure()
        if self._joined is not None:
            self._joined.writer.attach(asyncio.get_running_loop())

    async def close(self) -> None:
        """Give the reader its bounded time without holding up the loop, then restore."""
        if self._joined is None:
            return
        writer = self._joined.writer
        until = time.monotonic() + _FLUSH_WITHIN
        # The writer has no event to await: setting one would cost every line.
        while writer.snapshot().pending and time.monotonic() < until:  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.005)
        self.restore(within=0.0)


def configure_worker(service: ServiceSettings, logs: LogSettings) -> None:
    """Let a worker process write into its parent's stream, as its parent does.

    Args:
        service: The parent's.
        logs: The parent's, which has taken over.
    """
    Logs(service, logs.model_copy(update={"take_over": "on"})).configure()


class _TakeOver:
    """Everything of others that we hold while at least one `Logs` wants it."""

    def __init__(self, service: ServiceSettings, logs: LogSettings) -> None:
        fd, owned = _open_target(logs.target)
        try:
            level = _LEVELS[logs.level]
            console = logs.format == "console" or (logs.format == "auto" and os.isatty(fd))
            self.writer = Writer(
                fd,
                buffer_bytes=logs.buffer_bytes,
                max_line_bytes=logs.max_line_bytes,
                report=lambda dropped: self._renderer.dropped(dropped),
            )
            self._renderer = _renderer(service, fd, self.writer.max_line_bytes, console=console)
        finally:
            if owned:
                os.close(fd)  # the writer has its own
        self._output = Output(self._renderer, self.writer.write)
        self.access = AccessLine(self._output, level)
        self.capture = Capture(Handler(self._output), level, access=logs.access)
        self._give_structlog_back = _configure_structlog(self._output, self._renderer, level)
        self.capture.take()
        atexit.register(self._flush)  # touchpoint: atexit
        self._users = 0
        _Process.taken = self

    def join(self) -> _TakeOver:
        self._users += 1
        return self

    def leave(self, within: float) -> None:
        self._users -= 1
        if self._users:
            return
        _Process.taken = None
        atexit.unregister(self._flush)
        self.capture.give_back()
        self._give_structlog_back()
        # Loggers that were bound before keep this output: from here on they print, as
        # structlog's own do.
        self._output.write = _print
        self.writer.close(within)

    def _flush(self) -> None:
        self.writer.flush(_FLUSH_WITHIN)


def _renderer(service: ServiceSettings, fd: int, most: int, *, console: bool) -> Renderer:
    if console:
        return ConsoleRenderer(Stamp(""), most, colours=wants_colours(fd))
    return Renderer(Stamp(service.name, service.version), most)


def _configure_structlog(output: Output, renderer: Renderer, level: int) -> Callable[[], None]:
    """Configure structlog, and return the call that undoes it."""
    before = structlog.get_config() if structlog.is_configured() else None
    structlog.configure(  # touchpoint: structlog-config
        processors=[renderer],
        wrapper_class=bound_logger(level),
        context_class=dict,
        logger_factory=OutletFactory(output),
        cache_logger_on_first_use=False,
    )
    if before is None:
        return structlog.reset_defaults
    return lambda: structlog.configure(**before)


def _open_target(target: str) -> tuple[int, bool]:
    """Return a descriptor for a target, and whether it is ours to close."""
    standard = {"stdout": (sys.stdout, 1), "stderr": (sys.stderr, 2)}
    if target in standard:
        stream, number = standard[target]
        try:
            return stream.fileno(), False
        except (AttributeError, OSError, ValueError):
            return number, False  # closed at the start, or replaced by something in memory
    try:
        # Non-blocking, so that a FIFO that nobody reads is an error here and not a hang.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        return os.open(target, flags, 0o640), True
    except OSError as error:
        raise LogTargetUnusable(
            f"the log target {target!r} cannot be opened for writing: {error.strerror}",
            fix="set CLEARWAY_LOGS__TARGET to `stdout`, `stderr` or a file that may be written",
        ) from error


def _print(line: bytes, level: int) -> None:
    with contextlib.suppress(OSError, ValueError):  # stdout is closed, or is gone
        print(line.decode("utf-8", "backslashreplace"), end="")
