"""Invoices: a row is visible when the 201 arrives, a refusal stores nothing."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import selectinload

from clearway import DbSession, ReadDbSession, current_journey
from studio.models import Invoice, InvoiceLine
from studio.problems import Problem
from studio.schemas import InvoiceHead, InvoiceIn, InvoiceOut, InvoicePage, RowId

router = APIRouter(prefix="/invoices", tags=["invoices"])


@router.post("", status_code=201)
async def create(invoice: InvoiceIn, session: DbSession) -> InvoiceOut:
    """Store an invoice.

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


def _row(invoice: InvoiceIn) -> Invoice:
    lines = [
        InvoiceLine(position=position, **line.model_dump())
        for position, line in enumerate(invoice.lines, start=1)
    ]
    return Invoice(**invoice.model_dump(exclude={"lines"}), lines=lines)
