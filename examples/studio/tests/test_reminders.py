"""A job that calls others: it is tried again, and what never succeeds can be looked at."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from studio.others import Answer, Received
from studio.service import command
from studio.tests.conftest import Studio


def _remind(studio: Studio, invoice: dict[str, Any]) -> int:
    made = studio.http.post("/invoices", json=invoice).json()
    answer = studio.http.post(f"/invoices/{made['id']}/reminder")
    assert answer.status_code == 202
    id: int = answer.json()["job_id"]
    return id


def _received(studio: Studio, number: str) -> list[Received]:
    return [
        one
        for one in studio.others.received
        if one.path == "/reminders" and one.body["number"] == number
    ]


def test_a_reminder_is_sent_with_a_key(studio: Studio, invoice: dict[str, Any]) -> None:
    """The other side can tell a second attempt from a second reminder."""
    with studio.other("/reminders", Answer(202)):
        id = _remind(studio, invoice)
        studio.until(lambda: studio.query("SELECT id FROM clearway.jobs_done WHERE id = $1", id))
    (one,) = _received(studio, invoice["number"])
    assert one.body["customer"] == "Ada"
    assert one.headers["Idempotency-Key"] == f"studio-reminder-{id}"


def test_one_that_cannot_be_sent_ends_in_the_failure_queue(
    studio: Studio, invoice: dict[str, Any]
) -> None:
    """Three attempts with one key; then `clearway jobs failed` shows it and `retry` runs it."""
    id = _remind(studio, invoice)
    sql = "SELECT id FROM clearway.jobs_failed WHERE id = $1"
    studio.until(lambda: studio.query(sql, id))
    keys = {one.headers["Idempotency-Key"] for one in _received(studio, invoice["number"])}
    assert len(_received(studio, invoice["number"])) == 3
    assert keys == {f"studio-reminder-{id}"}

    def clearway(*arguments: str) -> str:
        code, output = asyncio.run(command(*arguments, database_url=studio.database_url))
        assert code == 0, output
        return output

    rows = [json.loads(line) for line in clearway("jobs", "failed", "--json").splitlines()]
    row = next(row for row in rows if row["id"] == id)
    assert (row["name"], row["attempts"]) == ("studio.jobs:send_reminder", 3)
    assert "500" in row["error"]
    with studio.other("/reminders", Answer(202)):
        clearway("jobs", "retry", str(id))
        studio.until(lambda: studio.query("SELECT id FROM clearway.jobs_done WHERE id = $1", id))


def test_asked_for_twice_it_is_sent_once(studio: Studio, invoice: dict[str, Any]) -> None:
    """While the first waits or runs, the second is the first."""
    made = studio.http.post("/invoices", json=invoice).json()
    path = f"/invoices/{made['id']}/reminder"
    with studio.other("/reminders", Answer(202, after=2.0)):
        first, second = (studio.http.post(path).json()["job_id"] for _ in range(2))
        assert first == second
        sql = "SELECT id FROM clearway.jobs_done WHERE id = $1"
        studio.until(lambda: studio.query(sql, first))
    assert len(_received(studio, invoice["number"])) == 1


def test_nobody_is_reminded_of_nothing(studio: Studio) -> None:
    """An invoice that does not exist is a 404, and no job."""
    answer = studio.http.post("/invoices/999999999/reminder")
    assert answer.status_code == 404
    sql = "SELECT count(*) FROM clearway.jobs WHERE request_id = $1"
    assert studio.query(sql, answer.headers["X-Request-ID"]) == 0
