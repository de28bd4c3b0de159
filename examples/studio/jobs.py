"""What the worker does: papers, reminders, and the report of the night."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

import aiohttp
from sqlalchemy import Date, cast, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import selectinload

from clearway import (
    DbSession,
    HttpClient,
    JobContext,
    ReadDbSession,
    cron,
    get_logger,
    job,
    offload,
)
from studio.models import Invoice, InvoicePaper, Report
from studio.papers import Paper, PaperLine, make_pdf
from studio.settings import studio_settings

log = get_logger()

_ZONE = "Europe/Berlin"


class NoReminderService(RuntimeError):
    """Nobody was named who sends reminders."""


@job(retries=5, timeout=60)
async def render_invoice(reads: ReadDbSession, session: DbSession, invoice_id: int) -> None:
    """Make an invoice's PDF. The row and the job's completion commit together: once, for good."""
    invoice = await reads.get(Invoice, invoice_id, options=[selectinload(Invoice.lines)])
    await reads.close()  # no connection waits while the paper is made
    if invoice is None:
        log.info("an invoice was deleted before its paper was made", invoice_id=invoice_id)
        return
    pdf = await offload.process(make_pdf, _paper(invoice), timeout=studio_settings().paper_timeout)
    # If the invoice is deleted by now this fails, and the next attempt ends above.
    paper = insert(InvoicePaper).values(invoice_id=invoice_id, pdf=pdf)
    await session.execute(
        paper.on_conflict_do_update(
            index_elements=["invoice_id"], set_={"pdf": paper.excluded.pdf, "made_at": func.now()}
        )
    )


@job(retries=2, backoff=0.5, timeout=30)
async def send_reminder(
    http: HttpClient, reads: ReadDbSession, context: JobContext, invoice_id: int
) -> None:
    """Have a customer reminded. It may be asked for twice after a crash, so it has a key."""
    settings = studio_settings()
    if settings.reminder_url is None:
        raise NoReminderService("nobody sends reminders: set STUDIO_REMINDER_URL")
    invoice = await reads.get(Invoice, invoice_id)
    await reads.close()
    if invoice is None:
        log.info("an invoice was deleted before its reminder was sent", invoice_id=invoice_id)
        return
    async with http.post(
        str(settings.reminder_url),
        json={"number": invoice.number, "customer": invoice.customer},
        headers={"Idempotency-Key": f"studio-reminder-{context.id}"},
        timeout=aiohttp.ClientTimeout(total=10),
    ) as answer:
        answer.raise_for_status()


@cron("0 3 * * *", timezone=_ZONE)
async def nightly_report(session: DbSession) -> None:
    """Sum up yesterday's invoices, and today's as far as they have come.

    However often it runs, there is one row for each day, and the last run is right.
    """
    today = datetime.now(ZoneInfo(_ZONE)).date()
    since = datetime.combine(today - timedelta(days=1), time.min, ZoneInfo(_ZONE))
    day = cast(func.timezone(_ZONE, Invoice.created_at), Date).label("day")
    days = (
        select(day, func.count(), func.sum(Invoice.total))
        .where(Invoice.created_at >= since)
        .group_by(day)
    )
    report = insert(Report).from_select(["day", "invoices", "total"], days)
    found = report.excluded
    await session.execute(
        report.on_conflict_do_update(
            index_elements=["day"],
            set_={"invoices": found.invoices, "total": found.total, "made_at": func.now()},
        )
    )


def _paper(invoice: Invoice) -> Paper:
    lines = [PaperLine(one.description, one.quantity, one.unit_price) for one in invoice.lines]
    return Paper(invoice.number, invoice.customer, invoice.issued_on, invoice.total, lines)
