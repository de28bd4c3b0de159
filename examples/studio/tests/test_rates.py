"""Exchange rates, and what becomes of the other side's faults."""

from __future__ import annotations

import pytest

from studio.others import Answer
from studio.tests.conftest import RATES_TIMEOUT, Studio


def test_the_rates_are_those_of_the_other_service(studio: Studio) -> None:
    """They come by the lane for calls to others, and the ledger says so."""
    answer = studio.http.get("/rates")
    assert answer.status_code == 200
    assert answer.json() == studio.others.answers["/rates"].body
    assert "outbound;dur=" in answer.headers["Server-Timing"]


@pytest.mark.parametrize(
    ("other", "status", "why"),
    [
        (Answer(500), 502, "has failed"),
        (Answer(200, {"base": "EUR", "day": "2026-11-22", "rates": {}}), 502, "are none"),
        (Answer(200, {"base": "EUR", "day": "2026-11-22", "rates": {"USD": 0}}), 502, "are none"),
        (Answer(200, "none today"), 502, "are none"),
        (Answer(200, {}, after=RATES_TIMEOUT + 2), 504, "did not come within"),
    ],
    ids=["down", "empty", "zero", "nonsense", "slow"],
)
def test_a_fault_of_theirs_is_said_as_theirs(
    studio: Studio, other: Answer, status: int, why: str
) -> None:
    """A problem document with 502 or 504, never a 500."""
    with studio.other("/rates", other):
        answer = studio.http.get("/rates")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert why in answer.json()["detail"]
