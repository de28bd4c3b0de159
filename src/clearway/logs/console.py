"""Render lines for people at a terminal."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping

import structlog.dev

from clearway.logs import plain
from clearway.logs.plain import Fields
from clearway.logs.render import Renderer, Stamp

# Whoever controls a value must not control the terminal: C0, DEL and C1.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_IN_TRACEBACKS = {code: text for code, text in _CONTROLS.items() if code != 0x0A}


class ConsoleRenderer(Renderer):
    """The same processor as its parent, with structlog's own columns and colours.

    Args:
        stamp: Makes the fields that every line begins with.
        max_line_bytes: Longest line of JSON, where a value cannot be shown otherwise.
        colours: Write ANSI colours.
    """

    def __init__(self, stamp: Stamp, max_line_bytes: int, *, colours: bool) -> None:
        super().__init__(stamp, max_line_bytes)
        self._columns = structlog.dev.ConsoleRenderer(
            colors=colours,
            force_colors=colours,
            exception_formatter=structlog.dev.plain_traceback,  # rich's would show locals
        )

    def exception(self, error: BaseException) -> object:
        """Return the traceback as Python prints it."""
        return "".join(traceback.format_exception(error))

    def dumps(self, line: Fields) -> bytes:
        """Render finished fields; never raise."""
        try:
            text = self._columns(None, str(line["level"]), _harmless(line))
            return str(text).encode("utf-8", "backslashreplace") + b"\n"
        except Exception:  # noqa: BLE001 - as JSON the line is ugly, but there
            return super().dumps(line)


def _harmless(line: Fields) -> Fields:
    shown: Fields = {}
    for key, value in line.items():
        kept = _IN_TRACEBACKS if key in ("exception", "stack") else _CONTROLS
        text = value if isinstance(value, str) else plain.text_of(value)
        shown[str(key).translate(_CONTROLS)] = text.translate(kept)
    return shown


def wants_colours(fd: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Say whether a descriptor is a terminal whose user has not declined colours."""
    declined = environ.get("NO_COLOR") or environ.get("TERM") == "dumb"
    return os.isatty(fd) and not declined
