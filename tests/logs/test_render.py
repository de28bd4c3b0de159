"""One step from an event to a line."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from structlog.contextvars import bound_contextvars

from clearway.core.journey import Journey, travelling
from clearway.logs.books import Dropped
from clearway.logs.render import Renderer, Stamp

RENDERER = Renderer(Stamp("shop", "1.2"), 4096)


def _line(level: str = "info", event: object = "e", **fields: object) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(RENDERER.event(level, event, fields))
    return loaded


def test_a_line_begins_with_when_how_bad_and_what() -> None:
    """Time, level and event come first, then the service, then the caller's fields."""
    line = _line(amount=7)
    assert list(line) == ["timestamp", "level", "event", "service", "version", "amount"]
    assert (line["service"], line["version"], line["amount"]) == ("shop", "1.2", 7)


def test_the_time_is_now_in_utc_with_microseconds() -> None:
    """The kept second is exchanged when it is over."""
    before = datetime.now(UTC)
    stamped = _line()["timestamp"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", stamped)
    assert before <= datetime.fromisoformat(stamped) <= datetime.now(UTC)
    stale = Stamp("s")
    stale._second = (1, "1970-01-01T00:00:01")
    assert stale.now() >= stamped


def test_a_line_names_the_journey_it_was_written_for() -> None:
    """Inside a request its id and route template are there, outside they are not."""
    with travelling(Journey("request", id="abc", route="/invoices/{id}")):
        line = _line()
    assert (line["request_id"], line["route"]) == ("abc", "/invoices/{id}")
    assert "request_id" not in _line()


def test_a_route_lookup_that_fails_costs_no_line() -> None:
    """The framework's lookup is not ours; whatever it raises, the line is written."""

    def broken() -> str:
        raise LookupError("the framework has changed")

    with travelling(Journey("request", id="abc", route=broken)):
        assert _line(n=1)["n"] == 1


def test_bound_contextvars_are_on_the_line() -> None:
    """`structlog.contextvars` works, and a caller's field wins over a bound one."""
    with bound_contextvars(tenant="t1", user="u1"):
        line = _line(user="u2")
    assert (line["tenant"], line["user"]) == ("t1", "u2")
    assert "tenant" not in _line()


def test_a_caller_cannot_forge_time_or_level() -> None:
    """Such fields are kept under a name of their own."""
    line = _line(level="info", timestamp="never")
    assert line["timestamp"] != "never"
    assert line["timestamp_"] == "never"
    forged = json.loads(RENDERER.event("info", "e", {"level": "debug"}))
    assert (forged["level"], forged["level_"]) == ("info", "debug")


def test_exc_info_is_read_in_all_its_forms() -> None:
    """True, an exception and a triple mean the same; False and an idle True mean nothing."""
    try:
        int("v")
    except ValueError as error:
        for form in (True, error, (type(error), error, error.__traceback__)):
            assert _line(exc_info=form)["exception"]["type"] == "ValueError"
    assert "exception" not in _line(exc_info=True)
    assert "exception" not in _line(exc_info=False)
    assert "exc_info" not in _line(exc_info=None)


def test_stack_info_shows_where_the_caller_is() -> None:
    """The stack ends at the code that logs and not within the logger."""
    stack = _line(stack_info=True)["stack"]
    assert "test_stack_info_shows_where_the_caller_is" in stack
    assert "clearway/logs" not in stack


def test_an_exception_takes_at_most_half_of_the_line() -> None:
    """The message of the event stays whole beside a deep stack."""

    def deep(depth: int) -> None:
        if depth == 0:
            raise RuntimeError("r" * 900)
        deep(depth - 1)

    try:
        deep(60)
    except RuntimeError as error:
        line = _line(exc_info=error, text="t" * 1_000)
    assert line["text"] == "t" * 1_000
    assert line["exception"]["frames"][-1]["function"] == "deep"


def test_a_drop_report_speaks_for_no_request() -> None:
    """It is rendered in whichever context the queue moved on, and names none."""
    with travelling(Journey("request", id="innocent")):
        line = json.loads(RENDERER.dropped(Dropped({"info": 2, "error": 1}, since=1.5)))
    assert line["dropped"] == 3
    assert line["since"] == "1970-01-01T00:00:01.500000Z"
    assert "request_id" not in line
