"""What others are told of invoices."""

from __future__ import annotations

from typing import Any

import httpx

from studio.others import Answer
from studio.tests.conftest import Studio


def _told(studio: Studio, number: str) -> list[dict[str, Any]]:
    return [told for told in studio.others.posted("/webhook") if told["number"] == number]


def test_others_are_told_of_a_new_invoice_once(studio: Studio, invoice: dict[str, Any]) -> None:
    """After the commit, under the id of the request that made it."""
    made = studio.http.post("/invoices", json=invoice)
    (told,) = studio.until(lambda: _told(studio, invoice["number"]))
    assert told == {
        "event": "invoice.created",
        "invoice_id": made.json()["id"],
        "number": invoice["number"],
        "total": "180.00",
    }
    ids = [one.headers.get("X-Request-ID") for one in studio.others.received]
    assert ids.count(made.headers["X-Request-ID"]) == 1


def test_nobody_is_told_of_what_was_rolled_back(studio: Studio, invoice: dict[str, Any]) -> None:
    """Neither of a failed COMMIT nor of a 409, while a later one is told of."""
    number = invoice["number"]
    # Not by the shared client: the server closes the connection of a request that raised.
    wrong = httpx.post(f"{studio.url}/invoices", json=invoice | {"total": "1"}, timeout=30)
    assert wrong.status_code == 500
    assert studio.http.post("/invoices", json=invoice).status_code == 201
    assert studio.http.post("/invoices", json=invoice).status_code == 409
    studio.http.post("/invoices", json=invoice | {"number": f"{number}-later"})
    studio.until(lambda: _told(studio, f"{number}-later"))
    assert len(studio.until(lambda: _told(studio, number))) == 1


def test_who_does_not_listen_keeps_nobody_waiting(studio: Studio, invoice: dict[str, Any]) -> None:
    """The 201 does not wait for a receiver that fails; the log has it under the request's id."""
    with studio.other("/webhook", Answer(500)):
        made = studio.http.post("/invoices", json=invoice)
        assert made.status_code == 201
        id = made.headers["X-Request-ID"]
        failed = studio.until(
            lambda: [
                event
                for event in studio.events()
                if event.get("request_id") == id and event["level"] == "error"
            ]
        )
    assert "notify_webhook" in str(failed)
