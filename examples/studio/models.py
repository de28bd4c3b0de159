"""The tables, as SQLAlchemy 2.0 sees them; `migrations/` makes them."""

from __future__ import annotations

import uuid
from datetime import date, datetime
from decimal import Decimal

from sqlalchemy import BigInteger, DateTime, ForeignKey, Identity, MetaData, Numeric, Text, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    """The base of all tables. Constraints have names, so that code and migrations can say them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        int: BigInteger,
        str: Text,
        datetime: DateTime(timezone=True),
        Decimal: Numeric(14, 2),
    }


class Image(Base):
    """A photo that came in. The photo itself is not kept, its thumbnails are."""

    __tablename__ = "images"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str]
    width: Mapped[int]
    height: Mapped[int]
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    thumbnails: Mapped[list[Thumbnail]] = relationship(order_by="Thumbnail.width")


class Thumbnail(Base):
    """One size of a photo, as JPEG."""

    __tablename__ = "thumbnails"

    image_id: Mapped[int] = mapped_column(
        ForeignKey("images.id", ondelete="CASCADE"), primary_key=True
    )
    size: Mapped[str] = mapped_column(primary_key=True)
    width: Mapped[int]
    height: Mapped[int]
    jpeg: Mapped[bytes] = mapped_column(deferred=True)


class Invoice(Base):
    """An invoice. That `total` is the sum of the lines is checked by a trigger, at COMMIT."""

    __tablename__ = "invoices"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    number: Mapped[str] = mapped_column(unique=True)
    customer: Mapped[str]
    issued_on: Mapped[date]
    total: Mapped[Decimal]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    lines: Mapped[list[InvoiceLine]] = relationship(order_by="InvoiceLine.position")


class InvoiceLine(Base):
    """One line of an invoice."""

    __tablename__ = "invoice_lines"

    invoice_id: Mapped[int] = mapped_column(
        ForeignKey("invoices.id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True)
    description: Mapped[str]
    quantity: Mapped[Decimal] = mapped_column(Numeric(12, 3))
    unit_price: Mapped[Decimal]


class InvoicePaper(Base):
    """An invoice as PDF; a job makes it."""

    __tablename__ = "invoice_papers"

    invoice_id: Mapped[int] = mapped_column(
        ForeignKey("invoices.id", ondelete="CASCADE"), primary_key=True
    )
    pdf: Mapped[bytes] = mapped_column(deferred=True)
    made_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Report(Base):
    """What was invoiced on one day."""

    __tablename__ = "reports"

    day: Mapped[date] = mapped_column(primary_key=True)
    invoices: Mapped[int]
    total: Mapped[Decimal] = mapped_column(Numeric(20, 2))
    made_at: Mapped[datetime] = mapped_column(server_default=func.now())


class PaymentImport(Base):
    """One file of payments that was imported."""

    __tablename__ = "payment_imports"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    rows: Mapped[int]
    imported_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Payment(Base):
    """One payment, as the bank reported it."""

    __tablename__ = "payments"

    reference: Mapped[str] = mapped_column(primary_key=True)
    import_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("payment_imports.id", ondelete="CASCADE"), index=True
    )
    paid_on: Mapped[date]
    payer: Mapped[str]
    amount: Mapped[Decimal]


class User(Base):
    """Somebody who may log in."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str]
    failed_logins: Mapped[int] = mapped_column(server_default="0")
    last_login_at: Mapped[datetime | None]
