"""Recipe 4, structlog through `logging` to stdout, and a reader that stalls."""

from __future__ import annotations

import json

import httpx2
import pytest

from support.guide import Recipe, observed
from support.pipes import Pipe
from support.process import Service

pytestmark = pytest.mark.timeout(120)

RECIPE = Recipe("logs")
STALL = 2.0
"""Seconds. Whoever is stopped is stopped for good, so this may be short."""


def answers(service: Service, path: str, within: float) -> bool:
    """Say whether a request is answered within the time, in seconds."""
    try:
        return httpx2.get(service.url + path, timeout=within).status_code == 200
    except httpx2.TimeoutException:
        return False


def test_the_recipe_stops_with_its_reader() -> None:
    """The pipe is full: one line, and nobody is answered until the reader goes on."""
    with Pipe() as pipe, RECIPE.served("before", stdout=pipe.writer) as service:
        pipe.fill()
        assert not answers(service, "/orders/17", STALL)
        assert not answers(service, "/ping", STALL), "which logs nothing itself"
        pipe.wait_for(1)
        assert answers(service, "/ping", within=15)


def test_the_line_alone_leaves_every_line_as_it_was_and_has_the_time() -> None:
    """The same bytes in the stream, the same stop; the lane of the requests knows how long."""
    observed(RECIPE, "GET /orders/17", "GET /ping", "GET /missing")

    with Pipe() as pipe, RECIPE.served("observed", stdout=pipe.writer) as service:
        pipe.fill()
        assert not answers(service, "/orders/17", STALL)
        assert not answers(service, "/ping", STALL), "it changes no log line, for better or worse"
        pipe.wait_for(1)
        lane = httpx2.get(f"{service.url}/lanes", timeout=15).json()["requests"]
    assert lane["longest_hold"] >= STALL


def test_with_our_logger_no_line_delays_a_request_and_none_is_lost() -> None:
    """The pipe is full: every request is answered; read on, and all the lines are there."""
    with Pipe() as pipe, RECIPE.served("after", stdout=pipe.writer) as service:
        pipe.fill()
        for number in range(20):
            assert answers(service, f"/orders/{number}", within=15)
        assert answers(service, "/ping", within=15)
        numbers: list[int] = []
        while len(numbers) < 20 and (lines := pipe.wait_for(1)):
            events = [json.loads(line) for line in lines]
            numbers += [each["number"] for each in events if each["event"] == "order read"]
    assert numbers == list(range(20))
