"""Invoices as PDF: what stands on them, and who makes them."""

from __future__ import annotations

import io
from datetime import date
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfReader

from studio.papers import Paper, PaperLine, make_pdf, shown
from studio.tests.conftest import Studio


def _paper(customer: str = "Ada", lines: int = 1, total: str = "180.00") -> Paper:
    line = PaperLine(f"portrait of {customer}", Decimal("1.500"), Decimal("120.00"))
    return Paper("A/1", customer, date(2026, 1, 31), Decimal(total), [line] * lines)


def _text(pdf: bytes) -> str:
    return "\n".join(page.extract_text() for page in PdfReader(io.BytesIO(pdf)).pages)


def _made(studio: Studio, id: int) -> httpx.Response:
    def look() -> httpx.Response | None:
        answer = studio.http.get(f"/invoices/{id}/pdf")
        return None if answer.status_code == 404 else answer

    return studio.until(look)


def test_everything_stands_on_the_paper() -> None:
    """Number, customer, day, lines with their amounts, and the total."""
    text = _text(make_pdf(_paper("Zoë Krüger", total="1180.00")))
    for part in ("Invoice A/1", "To Zoë Krüger", "2026-01-31", "portrait of Zoë", "1.5 120.00",
                 "Total 1,180.00"):  # fmt: skip
        assert part in text


def test_an_amount_is_rounded_as_the_database_does_it() -> None:
    """Half a cent goes up; to the even cent the lines would not make the total."""
    lines = [PaperLine("x", Decimal("2.5"), Decimal("0.01"))]
    assert "0.01 0.03" in _text(make_pdf(_paper()._replace(lines=lines)))


def test_many_lines_take_many_pages() -> None:
    """The most that a request may have are all there, the total behind them."""
    pdf = make_pdf(_paper("Ada", lines=500))
    text = _text(pdf)
    assert len(PdfReader(io.BytesIO(pdf)).pages) > 5
    assert text.count("portrait of Ada") == 500
    assert text.rstrip().endswith("Total 180.00")


@pytest.mark.parametrize(
    ("text", "paper"),
    [
        ("Müller, Søren & Zoë: 5 €", "Müller, Søren & Zoë: 5 €"),
        ("Nguyễn Văn An", "Nguyen Van An"),
        ("Mu\u0308ller", "Müller"),
        ("山田 花子", "?? ??"),
        ("{nb} **a**", "{nb} **a**"),
    ],
)
def test_what_the_font_has_not_is_replaced(text: str, paper: str) -> None:
    """Western letters stay, others lose their accents, and the rest are question marks."""
    assert shown(text) == paper
    pdf = make_pdf(_paper(text))
    assert f"To {paper}" in _text(pdf)
    metadata = PdfReader(io.BytesIO(pdf)).metadata
    assert metadata is not None
    assert metadata.subject == text


@given(customer=st.text(alphabet=st.characters(exclude_categories=("Cs", "Cc")), max_size=200))
@settings(max_examples=60, deadline=None)
def test_no_name_stops_the_press(customer: str) -> None:
    """Any text that an invoice may have becomes a PDF."""
    assert make_pdf(_paper(customer)).startswith(b"%PDF")


def test_an_invoice_becomes_a_pdf(studio: Studio, invoice: dict[str, Any]) -> None:
    """The worker makes it after the commit, and anybody may fetch it."""
    made = studio.http.post("/invoices", json=invoice | {"customer": "山田 Zoë"}).json()
    answer = _made(studio, made["id"])
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/pdf"
    text = _text(answer.content)
    assert f"Invoice {invoice['number']}" in text
    assert "To ?? Zoë" in text
    assert "Total 180.00" in text


def test_until_it_is_made_the_answer_says_when_to_come_again(
    studio: Studio, invoice: dict[str, Any]
) -> None:
    """A 404 with Retry-After is one that will end; one without is not."""
    made = studio.http.post("/invoices", json=invoice).json()
    _made(studio, made["id"])
    studio.query("DELETE FROM invoice_papers WHERE invoice_id = $1", made["id"])
    soon = studio.http.get(f"/invoices/{made['id']}/pdf")
    assert (soon.status_code, soon.headers["retry-after"]) == (404, "1")
    assert "is being made" in soon.json()["detail"]
    never = studio.http.get("/invoices/999999999/pdf")
    assert never.status_code == 404
    assert "retry-after" not in never.headers


@pytest.mark.parametrize("change", [{"total": "180.01"}, {"number": "taken"}], ids=["500", "409"])
def test_a_refused_invoice_leaves_no_job(
    studio: Studio, invoice: dict[str, Any], change: dict[str, str]
) -> None:
    """The job is in the transaction of the row: neither a 409 nor a failed COMMIT has one."""
    studio.http.post("/invoices", json=invoice | {"number": "taken"})
    refused = studio.http.post("/invoices", json=invoice | change)
    assert refused.status_code >= 400
    sql = "SELECT count(*) FROM clearway.jobs_done WHERE request_id = $1"
    waiting = sql.replace("jobs_done", "jobs")
    id = refused.headers["X-Request-ID"]
    assert (studio.query(sql, id), studio.query(waiting, id)) == (0, 0)


def test_an_invoice_that_was_deleted_has_no_paper(studio: Studio) -> None:
    """Its job ends well, and says nothing to the failure queue."""
    sql = (
        "INSERT INTO clearway.jobs (service, queue, body, name, arguments, run_at) VALUES "
        "('studio', 'default', 'loop', 'studio.jobs:render_invoice', "
        "'{\"invoice_id\": 999999999}', now()) RETURNING id"
    )
    id = studio.query(sql)
    studio.until(lambda: studio.query("SELECT id FROM clearway.jobs_done WHERE id = $1", id))
