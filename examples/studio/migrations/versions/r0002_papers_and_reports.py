"""Papers and reports: what jobs make."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_NOW = sa.text("now()")


def upgrade() -> None:
    """Make a table for each job that stores something."""
    op.create_table(
        "invoice_papers",
        sa.Column("invoice_id", sa.BigInteger, nullable=False),
        sa.Column("pdf", sa.LargeBinary, nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("invoice_id", name="pk_invoice_papers"),
        sa.ForeignKeyConstraint(
            ["invoice_id"], ["invoices.id"], name="fk_invoice_papers_invoice_id", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "reports",
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("invoices", sa.BigInteger, nullable=False),
        sa.Column("total", sa.Numeric(20, 2), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("day", name="pk_reports"),
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("reports", "invoice_papers"):
        op.drop_table(table)
