"""Invoices over HTTP: what is stored, what is refused, and when."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from studio.tests.conftest import Studio


def _invoice(number: str, /, **changes: object) -> dict[str, Any]:
    line = {"description": "portrait", "quantity": "1.5", "unit_price": "120.00"}
    return {
        "number": number,
        "customer": "Ada",
        "issued_on": "2026-01-31",
        "total": "180.00",
        "lines": [line],
        **changes,
    }


def test_an_invoice_is_visible_to_everybody_when_the_201_arrives(
    studio: Studio, unique: str
) -> None:
    """COMMIT has returned before the first byte."""
    for n in range(30):
        answer = studio.http.post("/invoices", json=_invoice(f"{unique}-{n}"))
        assert answer.status_code == 201
        sql = "SELECT total::text FROM invoices WHERE number = $1"
        assert studio.query(sql, f"{unique}-{n}") == "180.00"


def test_what_was_stored_is_what_is_read(studio: Studio, unique: str) -> None:
    """The answers to POST and GET agree to the letter."""
    made = studio.http.post("/invoices", json=_invoice(unique, total=180)).json()
    assert made["total"] == "180.00"
    assert studio.http.get(f"/invoices/{made['id']}").json() == made


def test_a_number_that_exists_is_a_409_that_leads_to_it(studio: Studio, unique: str) -> None:
    """The answer has the id of the other invoice, and nothing more is stored."""
    first = studio.http.post("/invoices", json=_invoice(unique)).json()
    lines = studio.query("SELECT count(*) FROM invoice_lines")
    second = studio.http.post("/invoices", json=_invoice(unique, customer="Bob"))
    assert second.status_code == 409
    assert second.headers["content-type"] == "application/problem+json"
    assert second.json()["existing_id"] == first["id"]
    assert studio.query("SELECT customer FROM invoices WHERE number = $1", unique) == "Ada"
    assert studio.query("SELECT count(*) FROM invoice_lines") == lines


def test_a_commit_that_fails_is_never_a_2xx(studio: Studio, unique: str) -> None:
    """A total that its lines do not make is found at COMMIT: a 5xx, and no row."""
    answer = studio.http.post("/invoices", json=_invoice(unique, total="180.01"))
    assert answer.status_code == 500
    assert answer.json()["code"] == "CW221"
    assert studio.query("SELECT count(*) FROM invoices WHERE number = $1", unique) == 0
    assert studio.http.post("/invoices", json=_invoice(unique)).status_code == 201


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE invoices SET total = total + 1 WHERE number = $1",
        "DELETE FROM invoice_lines l USING invoices i WHERE l.invoice_id = i.id AND number = $1",
        "UPDATE invoice_lines l SET quantity = 9 FROM invoices i "
        "WHERE l.invoice_id = i.id AND number = $1",
    ],
)
def test_the_total_holds_for_whoever_writes(studio: Studio, unique: str, sql: str) -> None:
    """The database itself refuses to let total and lines part."""
    studio.http.post("/invoices", json=_invoice(unique))
    with pytest.raises(Exception, match="its lines make"):
        studio.query(sql, unique)


def test_an_invoice_can_be_deleted_with_its_lines(studio: Studio, unique: str) -> None:
    """The trigger does not stand in the way of a DELETE of the whole."""
    made = studio.http.post("/invoices", json=_invoice(unique)).json()
    studio.query("DELETE FROM invoices WHERE number = $1", unique)
    assert studio.http.get(f"/invoices/{made['id']}").status_code == 404


def test_pages_show_every_invoice_once(studio: Studio, unique: str) -> None:
    """Keyset pages in order of id, the last without `next`."""
    ids = [
        studio.http.post("/invoices", json=_invoice(f"{unique}-{n}")).json()["id"] for n in range(7)
    ]
    seen: list[int] = []
    after = ids[0] - 1
    while after is not None:
        page = studio.http.get("/invoices", params={"after": after, "limit": 3}).json()
        assert len(page["items"]) <= 3
        seen += [item["id"] for item in page["items"]]
        after = page["next"]
    assert seen == ids


@pytest.mark.parametrize(
    "change",
    [
        {"customer": "a\0b"},
        {"customer": "\ud800"},
        {"customer": " "},
        {"number": "a b"},
        {"total": "-1"},
        {"total": "1.234"},
        {"total": "NaN"},
        {"total": "1e99"},
        {"issued_on": "31.01.2026"},
        {"lines": []},
        {"lines": [{"description": "x", "quantity": "0", "unit_price": "1"}]},
        {"lines": [{"description": "x", "quantity": "1", "unit_price": "1"}] * 501},
        {"unknown": 1},
    ],
    ids=lambda change: f"{next(iter(change))}",
)
def test_bad_input_is_a_422_and_never_a_500(
    studio: Studio, unique: str, change: dict[str, object]
) -> None:
    """What PostgreSQL could not store is refused before it gets there, as a problem document."""
    body = json.dumps(_invoice(unique, **change))
    answer = studio.http.post(
        "/invoices", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert next(iter(change)) in answer.json()["errors"][0]["at"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/invoices/999999999", 404),
        (f"/invoices/{2**63}", 422),
        (f"/invoices?after={2**63}", 422),
        ("/invoices?limit=0", 422),
        ("/invoices?limit=100000", 422),
        ("/nothing", 404),
    ],
)
def test_what_does_not_exist_is_said(studio: Studio, path: str, status: int) -> None:
    """No id, however large, is a 500."""
    answer = studio.http.get(path)
    assert answer.status_code == status
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"]


def test_the_access_line_names_the_invoice(studio: Studio, unique: str) -> None:
    """What was noted stands beside the status that was really sent."""

    def line(answer: httpx.Response) -> tuple[object, object]:
        event = studio.access_line(answer)
        return event["status"], event.get("invoice_id")

    made = studio.http.post("/invoices", json=_invoice(unique))
    assert line(made) == (201, made.json()["id"])
    failed = studio.http.post("/invoices", json=_invoice(f"{unique}-2", total="1"))
    assert line(failed)[0] == 500


def test_two_at_once_of_one_number_make_one(studio: Studio, unique: str) -> None:
    """Under a race exactly one gets the 201, the others the 409."""

    def post(_: int) -> int:
        return studio.http.post("/invoices", json=_invoice(unique)).status_code

    with ThreadPoolExecutor(8) as threads:
        statuses = sorted(threads.map(post, range(8)))
    assert statuses == [201] + [409] * 7
    assert studio.query("SELECT count(*) FROM invoices WHERE number=$1", unique) == 1
