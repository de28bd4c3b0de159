"""The report of the night."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

from studio.service import command
from studio.tests.conftest import Studio


def _run(studio: Studio) -> None:
    """Run the schedule by hand, and wait for its end."""
    arguments = ("jobs", "cron", "run", "nightly_report")

    def clearway() -> str:
        code, output = asyncio.run(command(*arguments, database_url=studio.database_url))
        assert code == 0 or "has a worker been started" in output, output
        return output if code == 0 else ""

    id = int(studio.until(clearway).split()[1])
    studio.until(lambda: studio.query("SELECT id FROM clearway.jobs_done WHERE id = $1", id))


def _reported(studio: Studio) -> tuple[int, Decimal]:
    reports = studio.http.get("/reports").json()
    assert len({report["day"] for report in reports}) == len(reports)
    return (
        sum(report["invoices"] for report in reports),
        sum((Decimal(report["total"]) for report in reports), Decimal(0)),
    )


def test_the_nights_sum_up_every_invoice_once(studio: Studio, invoice: dict[str, Any]) -> None:
    """However often it runs: a second run takes in what came since, and counts nothing twice."""
    for number in range(2):
        body = invoice | {"number": f"{invoice['number']}-{number}"}
        assert studio.http.post("/invoices", json=body).status_code == 201
        _run(studio)
        count = studio.query("SELECT count(*) FROM invoices")
        assert _reported(studio) == (count, studio.query("SELECT sum(total) FROM invoices"))


def test_a_day_ends_at_midnight_in_berlin(studio: Studio, invoice: dict[str, Any]) -> None:
    """A second before it is yesterday, at it is today, and older days are left alone."""
    sql = (
        "UPDATE invoices SET created_at = "
        "(date_trunc('day', now() AT TIME ZONE 'Europe/Berlin') - $2::interval) "
        "AT TIME ZONE 'Europe/Berlin' WHERE id = $1 "
        "RETURNING (created_at AT TIME ZONE 'Europe/Berlin')::date::text"
    )
    days, ids = [], []
    for before in (timedelta(), timedelta(seconds=1), timedelta(days=1, seconds=1)):
        body = invoice | {"number": f"{invoice['number']}-{before.total_seconds():.0f}"}
        ids.append(studio.http.post("/invoices", json=body).json()["id"])
        days.append(studio.query(sql, ids[-1], before))
    _run(studio)
    reports = {report["day"]: report["invoices"] for report in studio.http.get("/reports").json()}
    assert reports[days[0]] >= 1
    assert reports[days[1]] == 1
    assert days[2] not in reports
    studio.query("DELETE FROM invoices WHERE id = ANY($1)", ids)
    studio.query("DELETE FROM reports")


def test_it_runs_by_itself_at_three(studio: Studio) -> None:
    """The worker has declared the schedule."""
    arguments = ("jobs", "cron", "list")

    def listed() -> str:
        _, output = asyncio.run(command(*arguments, database_url=studio.database_url))
        return next((line for line in output.splitlines() if "nightly_report" in line), "")

    line = studio.until(listed)
    assert "0 3 * * *" in line
    assert "Europe/Berlin" in line
