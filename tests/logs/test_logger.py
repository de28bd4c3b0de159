"""The bound logger: structlog's API, without its exceptions and its threads."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs
from structlog.typing import EventDict, FilteringBoundLogger

from clearway.logs.logger import OutletFactory, Output, bound_logger
from clearway.logs.render import Renderer, Stamp
from clearway.logs.setup import get_logger


class _Lines:
    """Where the loggers of a test write."""

    def __init__(self) -> None:
        self.written: list[tuple[dict[str, Any], int]] = []

    def write(self, line: bytes, level: int) -> None:
        self.written.append((json.loads(line), level))

    @property
    def last(self) -> dict[str, Any]:
        return self.written[-1][0]


@pytest.fixture
def lines() -> Iterator[_Lines]:
    """Configure structlog onto a list for one test."""
    lines = _Lines()
    renderer = Renderer(Stamp("test"), 4096)
    structlog.configure(
        processors=[renderer],
        wrapper_class=bound_logger(20),
        logger_factory=OutletFactory(Output(renderer, lines.write)),
    )
    yield lines
    structlog.reset_defaults()


@pytest.fixture
def log(lines: _Lines) -> FilteringBoundLogger:
    """Return a logger that writes to `lines`."""
    return get_logger()


def test_every_level_has_its_method(lines: _Lines, log: FilteringBoundLogger) -> None:
    """Each method gives the line its level, and `debug` is silent below the threshold."""
    for name in ("debug", "info", "warning", "warn", "error", "critical", "fatal"):
        getattr(log, name)("e")
    assert [(line["level"], level) for line, level in lines.written] == [
        ("info", 20), ("warning", 30), ("warning", 30), ("error", 40), ("critical", 50),
        ("critical", 50),
    ]  # fmt: skip
    assert not log.is_enabled_for(10)
    assert log.get_effective_level() == 20


def test_a_numeric_level_needs_no_name(lines: _Lines, log: FilteringBoundLogger) -> None:
    """Structlog's own raises KeyError for a level of one's own."""
    log.log(25, "between")
    log.log(15, "below")
    assert [(line["event"], line["level"], level) for line, level in lines.written] == [
        ("between", "info", 25)
    ]


def test_positional_formatting(lines: _Lines, log: FilteringBoundLogger) -> None:
    """Arguments fill the event as in `logging`; wrong ones are shown and raise nothing."""
    log.info("%s of %d", "a", 2)
    assert lines.last["event"] == "a of 2"
    log.info("%(x)s", {"x": 1})
    assert lines.last["event"] == "1"
    log.info("100% %s", 1, 2)
    assert (lines.last["event"], lines.last["args"]) == ("100% %s", [1, 2])


def test_fields_may_have_any_name(lines: _Lines, log: FilteringBoundLogger) -> None:
    """`event`, `self` and `level` are fields like others where the event is positional."""
    log.info("e", self=1, event="x", name="n")  # type: ignore[misc]  # the protocol forbids it
    assert (lines.last["event"], lines.last["event_"], lines.last["self"]) == ("e", "x", 1)
    log.info(event="by name")
    assert lines.last["event"] == "by name"


def test_exception_takes_the_current_one(lines: _Lines, log: FilteringBoundLogger) -> None:
    """`exception` is `error` with the exception that is being handled."""
    try:
        int("v")
    except ValueError:
        log.exception("failed")
    assert (lines.last["level"], lines.last["exception"]["type"]) == ("error", "ValueError")


def test_bind_unbind_and_new(lines: _Lines, log: FilteringBoundLogger) -> None:
    """Bound loggers carry their fields and leave their parents alone."""
    bound = log.bind(a=1, b=2)
    bound.unbind("a").info("e", c=3)
    assert (lines.last.get("a"), lines.last["b"], lines.last["c"]) == (None, 2, 3)
    bound.info("e", b=9)
    assert (lines.last["a"], lines.last["b"]) == (1, 9)
    log.info("e")
    assert "a" not in lines.last


def test_a_logger_made_before_the_configuration_follows_it(lines: _Lines) -> None:
    """Module-level loggers see each configuration, also after they were used."""
    log = get_logger("early", app="x")
    log.info("one")
    assert (lines.last["logger"], lines.last["app"]) == ("early", "x")
    structlog.configure(wrapper_class=bound_logger(40))
    log.info("two")
    log.error("three")
    assert [line["event"] for line, _ in lines.written] == ["one", "three"]


def test_async_methods_use_no_thread(lines: _Lines, log: FilteringBoundLogger) -> None:
    """`await log.ainfo()` writes here and now, and leaves the default executor to others."""
    threads = set(threading.enumerate())

    async def main() -> None:
        await log.ainfo("e", n=1)
        await log.adebug("silent")
        await log.alog(40, "l")

    asyncio.run(main())
    assert [line["event"] for line, _ in lines.written] == ["e", "l"]
    assert threads.issuperset(threading.enumerate())


def test_processors_of_the_user_still_work(lines: _Lines, log: FilteringBoundLogger) -> None:
    """They run before the renderer; one that raises costs its work and not the line."""

    def add(logger: object, name: str, event_dict: EventDict) -> EventDict:
        return {**event_dict, "added": name}

    def fail(logger: object, name: str, event_dict: EventDict) -> EventDict:
        raise RuntimeError("in the processor")

    def drop(logger: object, name: str, event_dict: EventDict) -> EventDict:
        raise structlog.DropEvent

    renderer = structlog.get_config()["processors"][0]
    structlog.configure(processors=[add, renderer])
    log.info("e")
    assert lines.last["added"] == "info"
    structlog.configure(processors=[fail, renderer])
    log.info("f")
    assert lines.last["event"] == "f"
    assert "in the processor" in lines.last["log_fault"]
    structlog.configure(processors=[drop, renderer])
    log.info("g")
    assert lines.last["event"] == "f"


def test_capture_logs_of_structlog_works(lines: _Lines, log: FilteringBoundLogger) -> None:
    """A user's tests keep their tool."""
    with capture_logs() as captured:
        log.info("e", n=1)
    assert captured == [{"event": "e", "n": 1, "log_level": "info"}]
    assert lines.written == []
