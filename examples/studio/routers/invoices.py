"""Invoices: row and job commit together, a refusal leaves neither, and the PDF comes after."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import selectinload

from clearway import Background, DbSession, HttpClient, ReadDbSession, current_journey
from studio.jobs import render_invoice, send_reminder
from studio.models import Invoice, InvoiceLine, InvoicePaper
from studio.problems import Problem
from studio.schemas import (
    InvoiceHead,
    InvoiceIn,
    InvoiceOut,
    InvoicePage,
    JobOut,
    RowId,
    Webhook,
)
from studio.settings import studio_settings
from studio.webhooks import notify_webhook

router = APIRouter(prefix="/invoices", tags=["invoices"])


@router.post("", status_code=201)
async def create(
    invoice: InvoiceIn, session: DbSession, background: Background, http: HttpClient
) -> InvoiceOut:
    """Store an invoice, have its PDF made and others told: all three, or none.

    That its total is the sum of its lines is checked by the database at COMMIT, because it must
    hold for whoever writes. A service of your own would check it here as well, to answer a 422;
    this one leaves it out so that you can see what a COMMIT that fails looks like: a 500, with
    no row, and never a 201.
    """
    row = _row(invoice)
    try:
        # A savepoint: without it a failed INSERT ends the whole transaction, and the SELECT
        # that names the other invoice would fail.
        async with session.begin_nested():
            session.add(row)
    except IntegrityError as error:
        existing = await session.scalar(select(Invoice.id).filter_by(number=invoice.number))
        if existing is None:
            raise
        raise Problem(409, f"invoice {invoice.number} exists", existing_id=existing) from error
    await render_invoice.enqueue(session, row.id)  # an INSERT beside that of the row
    if url := studio_settings().webhook_url:
        told = Webhook(invoice_id=row.id, number=row.number, total=row.total)
        background.add(notify_webhook, http, str(url), told)  # starts after COMMIT, if it comes
    # Not a line of its own: it would say "created" before COMMIT has had its say. The access
    # line is written after that, with the status that was sent.
    if journey := current_journey():
        journey.note(invoice_id=row.id)
    return InvoiceOut.model_validate(row)


@router.get("")
async def page(
    session: ReadDbSession,
    after: Annotated[int, Query(ge=0, le=2**63 - 1, description="`next` of the last page")] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> InvoicePage:
    """Return invoices by id. A page costs the same wherever it lies: no OFFSET, no COUNT."""
    query = select(Invoice).where(Invoice.id > after).order_by(Invoice.id).limit(limit + 1)
    rows = (await session.scalars(query)).all()
    items = [InvoiceHead.model_validate(row) for row in rows[:limit]]
    return InvoicePage(items=items, next=items[-1].id if len(rows) > limit else None)


@router.get("/{id}")
async def read(id: Annotated[RowId, Path()], session: ReadDbSession) -> InvoiceOut:
    """Return one invoice with its lines."""
    row = await session.get(Invoice, id, options=[selectinload(Invoice.lines)])
    if row is None:
        raise Problem(404, f"there is no invoice {id}")
    return InvoiceOut.model_validate(row)


@router.get("/{id}/pdf", response_class=Response)
async def pdf(id: Annotated[RowId, Path()], session: ReadDbSession) -> Response:
    """Return an invoice as PDF, once the job has made it."""
    query = (
        select(Invoice.id, InvoicePaper.pdf)
        .outerjoin(InvoicePaper, InvoicePaper.invoice_id == Invoice.id)
        .where(Invoice.id == id)
    )
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise Problem(404, f"there is no invoice {id}")
    if row.pdf is None:
        raise Problem(404, f"the PDF of invoice {id} is being made", retry_after=1)
    return Response(row.pdf, media_type="application/pdf")


@router.post("/{id}/reminder", status_code=202)
async def remind(id: Annotated[RowId, Path()], session: DbSession) -> JobOut:
    """Have the customer reminded. Asked for again while it waits, it is still one reminder."""
    if await session.get(Invoice, id) is None:
        raise Problem(404, f"there is no invoice {id}")
    return JobOut(job_id=await send_reminder.options(unique="pending").enqueue(session, id))


def _row(invoice: InvoiceIn) -> Invoice:
    lines = [
        InvoiceLine(position=position, **line.model_dump())
        for position, line in enumerate(invoice.lines, start=1)
    ]
    return Invoice(**invoice.model_dump(exclude={"lines"}), lines=lines)
