"""Lines for people at a terminal."""

from __future__ import annotations

import os
import pty

from clearway.logs.console import ConsoleRenderer, wants_colours
from clearway.logs.render import Stamp

PLAIN = ConsoleRenderer(Stamp(""), 4096, colours=False)


def test_a_line_shows_level_event_and_fields() -> None:
    """The columns are structlog's."""
    text = PLAIN.event("warning", "low on stock", {"item": 7}).decode()
    assert "warning" in text
    assert "low on stock" in text
    assert "item=7" in text
    assert "\x1b" not in text


def test_values_cannot_control_the_terminal() -> None:
    """Escape sequences, line ends and C1 codes are shown and not sent."""
    hostile = "\x1b[2J\r\nfake line\x9b31m\x07"
    text = PLAIN.event("info", hostile, {"user": hostile, hostile: 1, "list": [hostile]}).decode()
    assert text.count("\n") == 1
    assert not set(text) & {"\x1b", "\r", "\x9b", "\x07"}
    assert "\\x1b[2J" in text


def test_a_traceback_keeps_its_lines_and_shows_no_locals() -> None:
    """An exception is printed as Python prints it, with the message made harmless."""

    def fail() -> None:
        password = "".join(["hun", "ter2"])
        raise ValueError("\x1b[31mred" + password[:0])

    try:
        fail()
    except ValueError as error:
        text = PLAIN.event("error", "failed", {"exc_info": error}).decode()
    assert "Traceback (most recent call last)" in text
    assert "ValueError: \\x1b[31mred" in text
    assert "hunter2" not in text


def test_what_cannot_be_shown_does_not_raise() -> None:
    """A hostile value costs its text only."""

    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError

    text = PLAIN.event("info", "e\ud800", {"value": Hostile(), "n": 1}).decode()
    assert "n=1" in text.replace("'", "")


def test_colours_are_for_terminals_whose_user_wants_them() -> None:
    """NO_COLOR, TERM=dumb and a pipe each switch them off."""
    master, slave = pty.openpty()
    reader, writer = os.pipe()
    try:
        assert wants_colours(slave, {})
        assert not wants_colours(slave, {"NO_COLOR": "1"})
        assert not wants_colours(slave, {"TERM": "dumb"})
        assert not wants_colours(writer, {})
    finally:
        for fd in (master, slave, reader, writer):
            os.close(fd)
    coloured = ConsoleRenderer(Stamp(""), 4096, colours=True)
    assert b"\x1b[" in coloured.event("info", "e", {})
