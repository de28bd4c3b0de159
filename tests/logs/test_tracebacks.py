"""Exceptions as structure."""

from __future__ import annotations

import json
from typing import Any

import orjson

from clearway.logs.tracebacks import describe


def _caught(action: Any) -> BaseException:
    try:
        action()
    except BaseException as error:  # noqa: BLE001 - whatever it is, the test looks at it
        return error
    raise AssertionError("nothing was raised")


def _deep(depth: int) -> None:
    password = "hunter2"  # noqa: F841 - it must not appear
    if depth == 0:
        raise ValueError("at the bottom")
    _deep(depth - 1)


def _told(error: BaseException, most: int = 100_000) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(orjson.dumps(describe(error, most)))
    return told


def test_an_exception_has_type_message_and_frames() -> None:
    """The innermost frame is last, as Python prints it."""
    told = _told(_caught(lambda: _deep(1)))
    assert (told["type"], told["message"]) == ("ValueError", "at the bottom")
    assert [frame["function"] for frame in told["frames"][-2:]] == ["_deep", "_deep"]
    assert told["frames"][-1]["file"] == __file__
    assert isinstance(told["frames"][-1]["line"], int)


def test_locals_are_never_told() -> None:
    """A password in a frame stays there."""
    assert "hunter2" not in json.dumps(_told(_caught(lambda: _deep(3))))


def test_deep_stacks_keep_both_ends() -> None:
    """Of 200 frames the innermost 20 and the outermost stay, and the gap is counted."""
    frames = _told(_caught(lambda: _deep(200)))["frames"]
    assert frames[0]["function"] == "_caught"
    assert frames[1] == {"skipped": 182}
    assert len(frames) == 22


def test_causes_contexts_and_groups_follow() -> None:
    """What an exception was raised from, during or with is told below it."""

    def chain() -> None:
        try:
            try:
                _deep(0)
            except ValueError as error:
                raise KeyError("k") from error
        except KeyError:
            raise ExceptionGroup("many", [OSError(1), TypeError("t")]) from None

    def context() -> None:
        try:
            _deep(0)
        except ValueError:
            raise KeyError("k")  # noqa: B904 - the context is what is tested

    assert _told(_caught(context))["context"]["type"] == "ValueError"
    group = _told(_caught(chain))
    assert [member["type"] for member in group["group"]] == ["OSError", "TypeError"]
    assert "context" not in group, "`from None` hides it"


def test_a_cycle_of_causes_ends() -> None:
    """Two exceptions that name each other as cause are told once each."""
    one, two = ValueError("1"), KeyError("2")
    one.__cause__, two.__cause__ = two, one
    told = _told(one)
    assert told["cause"]["type"] == "KeyError"
    assert "cause" not in told["cause"]


def test_the_budget_takes_outer_frames_and_links_first() -> None:
    """A small budget still names the type, the message and where it was raised."""
    error = _caught(lambda: _deep(100))
    error.__cause__ = _caught(lambda: _deep(50))
    told = _told(error, 700)
    assert len(json.dumps(told)) < 900
    assert told["frames"][-1]["function"] == "_deep"
    assert told["message"] == "at the bottom"


def test_an_exception_that_cannot_be_shown_is_named() -> None:
    """A `__str__` that raises costs the message only, and a huge message is capped."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert _told(Mute())["message"] == "<message that cannot be shown>"
    assert _told(Mute())["type"].endswith("Mute")
    assert len(_told(ValueError("x" * 10**6))["message"]) == 1_000
