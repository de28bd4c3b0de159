"""First tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_NOW = sa.text("now()")

_CHECK_TOTAL = """
CREATE FUNCTION check_invoice_total() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    checked bigint := CASE TG_TABLE_NAME
        WHEN 'invoices' THEN (to_jsonb(NEW) ->> 'id')::bigint
        ELSE (to_jsonb(coalesce(NEW, OLD)) ->> 'invoice_id')::bigint
    END;
    stated numeric;
    summed numeric;
BEGIN
    SELECT total INTO stated FROM invoices WHERE id = checked;
    IF NOT FOUND THEN
        RETURN NULL;  -- deleted in the same transaction, and its lines with it
    END IF;
    SELECT coalesce(sum(round(quantity * unit_price, 2)), 0) INTO summed
        FROM invoice_lines WHERE invoice_id = checked;
    IF stated <> summed THEN
        RAISE EXCEPTION 'invoice % states a total of %, its lines make %', checked, stated, summed
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ck_invoices_total';
    END IF;
    RETURN NULL;
END $$
"""

# Deferred: between the INSERT of an invoice and that of its lines the sum cannot be right.
_TRIGGER = """
CREATE CONSTRAINT TRIGGER {table}_total AFTER {events} ON {table}
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_invoice_total()
"""


def upgrade() -> None:
    """Make the tables, and the trigger that compares an invoice's total with its lines."""
    _make_images()
    _make_invoices()
    _make_payments()
    op.create_table(
        "users",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("password_hash", sa.Text, nullable=False),
        sa.Column("failed_logins", sa.BigInteger, server_default="0", nullable=False),
        sa.Column("last_login_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("name", name="uq_users_name"),
    )


def _make_images() -> None:
    op.create_table(
        "images",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("width", sa.BigInteger, nullable=False),
        sa.Column("height", sa.BigInteger, nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_images"),
    )
    op.create_table(
        "thumbnails",
        sa.Column("image_id", sa.BigInteger, nullable=False),
        sa.Column("size", sa.Text, nullable=False),
        sa.Column("width", sa.BigInteger, nullable=False),
        sa.Column("height", sa.BigInteger, nullable=False),
        sa.Column("jpeg", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("image_id", "size", name="pk_thumbnails"),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name="fk_thumbnails_image_id", ondelete="CASCADE"
        ),
    )


def _make_invoices() -> None:
    op.create_table(
        "invoices",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("number", sa.Text, nullable=False),
        sa.Column("customer", sa.Text, nullable=False),
        sa.Column("issued_on", sa.Date, nullable=False),
        sa.Column("total", sa.Numeric(14, 2), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_invoices"),
        sa.UniqueConstraint("number", name="uq_invoices_number"),
    )
    op.create_table(
        "invoice_lines",
        sa.Column("invoice_id", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("quantity", sa.Numeric(12, 3), nullable=False),
        sa.Column("unit_price", sa.Numeric(14, 2), nullable=False),
        sa.PrimaryKeyConstraint("invoice_id", "position", name="pk_invoice_lines"),
        sa.ForeignKeyConstraint(
            ["invoice_id"], ["invoices.id"], name="fk_invoice_lines_invoice_id", ondelete="CASCADE"
        ),
    )
    op.execute(_CHECK_TOTAL)
    op.execute(_TRIGGER.format(table="invoices", events="INSERT OR UPDATE OF total"))
    op.execute(_TRIGGER.format(table="invoice_lines", events="INSERT OR UPDATE OR DELETE"))


def _make_payments() -> None:
    op.create_table(
        "payment_imports",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("imported_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_payment_imports"),
    )
    op.create_table(
        "payments",
        sa.Column("reference", sa.Text, nullable=False),
        sa.Column("import_id", sa.Uuid, nullable=False),
        sa.Column("paid_on", sa.Date, nullable=False),
        sa.Column("payer", sa.Text, nullable=False),
        sa.Column("amount", sa.Numeric(14, 2), nullable=False),
        sa.PrimaryKeyConstraint("reference", name="pk_payments"),
        sa.ForeignKeyConstraint(
            ["import_id"], ["payment_imports.id"], name="fk_payments_import_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_payments_import_id", "payments", ["import_id"])


def downgrade() -> None:
    """Drop everything."""
    for table in ("users", "payments", "payment_imports", "invoice_lines", "invoices",
                  "thumbnails", "images"):  # fmt: skip
        op.drop_table(table)
    op.execute("DROP FUNCTION check_invoice_total()")
