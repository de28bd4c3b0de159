"""What travels over HTTP, in and out."""

from __future__ import annotations

import uuid
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

# PostgreSQL stores no NUL in text and no number beyond 64 bits: met here it is a 422,
# met there it would be a 500.
_PRINTABLE = r"^[^\x00-\x1f\x7f]*$"
ShortText = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=200, pattern=_PRINTABLE, strict=True
    ),
]
Number = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9/_.-]{0,39}$")]
# As PostgreSQL will give them back, so that the answer to a POST and a later GET agree.
_cents = AfterValidator(lambda value: value.quantize(Decimal("0.01")))
_thousandths = AfterValidator(lambda value: value.quantize(Decimal("0.001")))
Money = Annotated[Decimal, Field(ge=0, max_digits=14, decimal_places=2), _cents]
Quantity = Annotated[Decimal, Field(gt=0, max_digits=12, decimal_places=3), _thousandths]
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
RowId = Annotated[int, Field(ge=1, le=2**63 - 1)]


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class ThumbnailOut(_Out):
    """One size of a photo; `GET /images/{id}/thumbnails/{size}` has the JPEG."""

    size: str
    width: int
    height: int


class ImageOut(_Out):
    """A photo that was taken in, upright as its thumbnails are."""

    id: int
    name: str
    width: int
    height: int
    thumbnails: list[ThumbnailOut]


class Line(_Out):
    """One line of an invoice, in and out."""

    description: ShortText
    quantity: Quantity
    unit_price: Money


class InvoiceIn(BaseModel):
    """A new invoice. `total` is what the paper says: the database compares it with the lines."""

    model_config = ConfigDict(extra="forbid")

    number: Number
    customer: ShortText
    issued_on: date
    total: Money
    lines: Annotated[list[Line], Field(min_length=1, max_length=500)]


class InvoiceHead(_Out):
    """An invoice without its lines, for lists."""

    id: int
    number: str
    customer: str
    issued_on: date
    total: Decimal
    created_at: datetime


class InvoiceOut(InvoiceHead):
    """A whole invoice."""

    lines: list[Line]


class InvoicePage(BaseModel):
    """Some invoices, oldest first; `next` goes into `after` of the next call."""

    items: list[InvoiceHead]
    next: int | None


class Webhook(BaseModel):
    """What others are told of a new invoice."""

    event: str = "invoice.created"
    invoice_id: int
    number: str
    total: Decimal


class JobOut(BaseModel):
    """Work that was accepted; `clearway jobs show` knows it by its id."""

    job_id: int


class ReportOut(_Out):
    """What was invoiced on one day, by the clock of the studio."""

    day: date
    invoices: int
    total: Decimal
    made_at: datetime


class Rates(BaseModel):
    """What one unit of `base` was worth on a day; in from the other side, and out."""

    base: Currency
    day: date
    rates: Annotated[dict[Currency, Annotated[Decimal, Field(gt=0)]], Field(min_length=1)]


class ImportOut(BaseModel):
    """A file of payments that was imported; `seconds` from its last byte to the last row."""

    id: uuid.UUID
    rows: int
    seconds: float


class LoginIn(BaseModel):
    """Who, and how it is proven."""

    name: ShortText
    password: Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class LoginOut(BaseModel):
    """A welcome; `failed_before` counts the refused attempts since the last one."""

    name: str
    failed_before: int
    last_login_at: datetime | None
