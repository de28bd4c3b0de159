"""The access line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from clearway.core.journey import Exchange, Journey
from clearway.errors import WorkerKilled
from clearway.logs.access import AccessLine, _reason
from clearway.logs.logger import Output
from clearway.logs.render import Renderer, Stamp


def _journey(**fields: Any) -> Journey:
    journey = Journey("request", id="abc", route="/items/{id}")
    journey.exchange = Exchange("GET", "/items/7", **fields)
    return journey


def _written(journey: Journey, threshold: int = 20) -> list[tuple[dict[str, Any], int]]:
    lines: list[tuple[dict[str, Any], int]] = []
    output = Output(
        Renderer(Stamp("shop"), 4096), lambda line, level: lines.append((json.loads(line), level))
    )
    AccessLine(output, threshold).finished(journey)
    return lines


def test_a_request_that_went_well() -> None:
    """The line has what the request was, how it ended and what it waited for."""
    journey = _journey(
        peer=("10.0.0.1", 4711),
        headers=[(b"host", b"x"), (b"user-agent", b"curl")],
        status=200,
        bytes_in=3,
        bytes_out=40,
        complete=True,
    )
    journey.ledger.wait("db", 0.0125)
    journey.ledger.hold("db", 0.5)
    journey.ledger.wait("threads", 0.0)
    journey.note(plan="gold")
    ((line, level),) = _written(journey)
    assert line.pop("timestamp")
    assert line.pop("duration_ms") >= 0
    assert level == 20
    assert line == {
        "level": "info", "event": "request", "service": "shop", "request_id": "abc",
        "route": "/items/{id}", "method": "GET", "path": "/items/7", "status": 200,
        "bytes_in": 3, "bytes_out": 40, "client": "10.0.0.1", "user_agent": "curl",
        "db_wait_ms": 12.5, "db_ms": 500.0, "plan": "gold",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "error", "level"),
    [
        (200, None, "info"),
        (404, None, "info"),
        (422, ValueError(), "info"),
        (500, None, "error"),
        (503, KeyError(), "error"),
        (None, KeyError(), "error"),
        (None, None, "info"),
    ],
)
def test_the_level_tells_whose_fault_it_was(
    status: int | None, error: Exception | None, level: str
) -> None:
    """5xx and exceptions without an answer are errors; what clients do wrong is not."""
    journey = _journey(status=status, complete=True)
    journey.error = error
    ((line, _),) = _written(journey)
    assert line["level"] == level
    assert line.get("error") == (type(error).__name__ if error else None)
    assert ("error_message" in line) is (error is not None)


def test_a_body_that_was_cut_off_is_said() -> None:
    """`complete` appears only where it is false."""
    assert _written(_journey(status=200))[0][0]["complete"] is False
    assert "complete" not in _written(_journey(status=200, complete=True))[0][0]


def test_notes_cannot_replace_what_was_measured() -> None:
    """A note with the name of a field of the line is kept under a name of its own."""
    journey = _journey(status=200, complete=True)
    journey.note(status="forged", level="debug", db_ms=1)
    ((line, _),) = _written(journey)
    assert (line["status"], line["status_"]) == (200, "forged")
    assert (line["level"], line["level_"]) == ("info", "debug")


def test_the_threshold_holds_for_access_lines_too() -> None:
    """At level error only failed requests are written."""
    assert _written(_journey(status=200, complete=True), threshold=40) == []
    assert len(_written(_journey(status=500, complete=True), threshold=40)) == 1


def test_a_journey_without_an_exchange_writes_nothing() -> None:
    """A script or a job is no request."""
    assert _written(Journey("script")) == []


def test_the_reason_of_a_failure_stands_beside_its_request_id() -> None:
    """Our own errors give code and sentence, others their text, and a broken one nothing."""

    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise ValueError

    said = [
        _reason(WorkerKilled("process 7 was killed by SIGKILL")),
        _reason(KeyError("x" * 1000)),
        _reason(Unspeakable()),
    ]

    assert said[0] == "[CW402] process 7 was killed by SIGKILL"
    assert said[1] == "'" + "x" * 299
    assert said[2] == ""
