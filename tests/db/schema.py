"""A table, and one whose constraint is checked only at COMMIT."""

from __future__ import annotations

import asyncpg
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The models of these tests."""


class Item(Base):
    """A row with a unique name; its parent is checked at COMMIT."""

    __tablename__ = "item"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    parent_id: Mapped[int | None] = mapped_column(
        ForeignKey("item.id", deferrable=True, initially="DEFERRED")
    )


DDL = """
create table item (
    id serial primary key,
    name text not null unique,
    parent_id int references item (id) deferrable initially deferred
)
"""


async def create(url: str) -> None:
    """Make the tables."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(DDL)
    finally:
        await connection.close()


async def names(url: str) -> list[str]:
    """Return what another connection sees now."""
    connection = await asyncpg.connect(url)
    try:
        return [row["name"] for row in await connection.fetch("select name from item order by id")]
    finally:
        await connection.close()
