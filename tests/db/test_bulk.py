"""Many rows at once."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import signal
from collections.abc import AsyncIterator, Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import JSON, Column, Integer, MetaData, Table, func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from clearway import Clearway, ReadDbSession, Settings
from clearway.core.deadline import Deadline
from clearway.core.journey import Journey, travelling
from clearway.db import copy_csv, copy_rows
from clearway.dev.postgres import EmbeddedPostgres
from clearway.errors import CopyInvalid, DeadlineExceeded, ReadOnlySession
from db.roads import road_to
from support.asgi import serving
from support.waiting import until

pytestmark = pytest.mark.anyio


class Base(DeclarativeBase):
    """The models of these tests."""


class Payment(Base):
    """A row of many types."""

    __tablename__ = "payment"

    id: Mapped[int] = mapped_column(primary_key=True)
    reference: Mapped[str] = mapped_column(unique=True)
    paid_on: Mapped[date]
    amount: Mapped[Decimal]
    extra: Mapped[Any] = mapped_column(JSON, nullable=True)


def payment(number: int) -> dict[str, object]:
    """Return one row."""
    return {
        "reference": f"r{number}",
        "paid_on": date(2026, 1, 31),
        "amount": Decimal("12.50"),
        "extra": {"n": number} if number % 2 else None,
    }


@pytest.fixture
async def road(database_url: str, settings: Settings) -> AsyncIterator[Clearway]:
    """Return an open road to a database with the table."""
    road = Clearway(FastAPI(), settings)
    async with road:
        async with road.db.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        yield road


async def stored(road: Clearway) -> int:
    """Return how many rows are there for everybody."""
    async with road.db.session() as session:
        return await session.scalar(select(func.count()).select_from(Payment)) or 0


async def test_rows_are_part_of_the_sessions_transaction(road: Clearway) -> None:
    """They come with the COMMIT, go with the ROLLBACK, and every value arrives as it was."""
    async with road.db.session() as session:
        count = await copy_rows(session, Payment, (payment(n) for n in range(2000)))
        assert count == 2000
        assert await stored(road) == 0
    assert await stored(road) == 2000

    with pytest.raises(ZeroDivisionError):
        async with road.db.session() as session:
            await copy_rows(session, Payment, [payment(5000)])
            raise ZeroDivisionError
    assert await stored(road) == 2000
    async with road.db.session() as session:
        row = (await session.scalars(select(Payment).where(Payment.reference == "r7"))).one()
        assert (row.paid_on, row.amount, row.extra) == (
            date(2026, 1, 31),
            Decimal("12.50"),
            {"n": 7},
        )


async def test_what_is_pending_is_flushed_first(road: Clearway) -> None:
    """A parent that was added is there when its children are copied."""
    async with road.db.session() as session:
        session.add(Payment(**payment(1)))
        await copy_rows(session, Payment.__table__, [payment(2)])  # type: ignore[arg-type]  # a Table
        assert len((await session.scalars(select(Payment))).all()) == 2


async def test_the_progress_is_told_and_the_loop_goes_on(road: Clearway) -> None:
    """Every 1,024 rows and at the end; others run meanwhile, also while the source is plain."""
    told: list[int] = []
    turns = 0
    over = asyncio.Event()

    async def others() -> None:
        nonlocal turns
        while not over.is_set():
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    async with road.db.session() as session:
        rows = ((f"x{n}", date(2026, 1, 1), n, None) for n in range(2500))
        names = ["reference", "paid_on", "amount", "extra"]
        await copy_rows(session, Payment, rows, columns=names, on_progress=told.append)
    over.set()
    await beside

    assert told == [1024, 2048, 2500]
    assert turns > 8


async def test_a_file_is_stored_as_it_arrives(road: Clearway) -> None:
    """Chunks of any size, quotes and all; the progress is in bytes."""
    text_file = io.StringIO(newline="")
    writer = csv.writer(text_file)
    writer.writerow(["reference", "paid_on", "amount"])
    writer.writerows([f'"{n}", \\N é', "2026-01-31", "-1.5"] for n in range(300))
    data = text_file.getvalue().encode()
    told: list[int] = []

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 777):
            yield data[start : start + 777]

    async with road.db.session() as session:
        columns = ["reference", "paid_on", "amount"]
        count = await copy_csv(session, Payment, chunks(), columns=columns, on_progress=told.append)

    assert count == 300
    assert told[-1] == len(data)
    assert await stored(road) == 300


async def test_a_row_that_is_refused_is_named_as_sqlalchemy_would(road: Clearway) -> None:
    """An IntegrityError is one; a note has the line; nothing is stored; the next one works."""
    async with road.db.session() as session:
        await copy_rows(session, Payment, [payment(1)])
    with pytest.raises(IntegrityError) as raised:
        async with road.db.session() as session:
            await copy_rows(session, Payment, [payment(3), payment(2), payment(1)])
    assert "line 3" in "".join(raised.value.__notes__)
    assert getattr(raised.value.orig, "sqlstate", None) == "23505"
    assert await stored(road) == 1


async def test_a_value_of_the_wrong_type_is_refused(road: Clearway) -> None:
    """The driver or the server says which; the connection is sound afterwards."""
    with pytest.raises((DBAPIError, ArithmeticError)):
        async with road.db.session() as session:
            await copy_rows(session, Payment, [{**payment(1), "amount": "a lot"}])
    assert await stored(road) == 0


async def test_an_error_of_the_source_comes_up_as_it_is(road: Clearway) -> None:
    """The rows before it are gone with the transaction."""

    def rows() -> Iterator[dict[str, object]]:
        yield payment(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with road.db.session() as session:
            await copy_rows(session, Payment, rows())
    assert await stored(road) == 0


async def test_a_copy_that_is_cancelled_stores_nothing_and_poisons_nothing(
    road: Clearway,
) -> None:
    """In the middle of a source that has stopped giving."""
    stuck = asyncio.Event()

    async def rows() -> AsyncIterator[dict[str, object]]:
        for number in range(5000):
            yield payment(number)
        stuck.set()
        await asyncio.sleep(60)

    async def work() -> None:
        async with road.db.session() as session:
            await copy_rows(session, Payment, rows())

    task = asyncio.create_task(work())
    await stuck.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await until(lambda: road.lanes["db"].snapshot().in_use == 0)
    assert await stored(road) == 0


async def test_a_source_that_stalls_is_given_up_at_the_deadline(road: Clearway) -> None:
    """The server waits for rows without a bound, so the bound is ours; nothing is stored."""

    async def rows() -> AsyncIterator[dict[str, object]]:
        yield payment(1)
        await asyncio.sleep(60)

    journey = Journey("request", deadline=Deadline.after(0.3))
    with travelling(journey), pytest.raises(DeadlineExceeded, match="in the middle of a COPY"):
        async with road.db.session() as session:
            await copy_rows(session, Payment, rows())
    await until(lambda: road.lanes["db"].snapshot().in_use == 0)
    assert await stored(road) == 0


async def test_a_copy_in_autocommit_is_refused(road: Clearway) -> None:
    """Half of it could stay."""
    engine = road.db.engine.execution_options(isolation_level="AUTOCOMMIT")
    async with AsyncSession(engine) as session:
        with pytest.raises(CopyInvalid, match="AUTOCOMMIT"):
            await copy_rows(session, Payment, [payment(1)])
    assert await stored(road) == 0


async def test_what_cannot_be_meant_is_refused(road: Clearway) -> None:
    """Unknown columns, too few values, and defaults that only Python knows."""
    defaulted = Table(
        "defaulted", MetaData(), Column("id", Integer), Column("n", Integer, default=lambda: 1)
    )
    async with road.db.session() as session:
        with pytest.raises(CopyInvalid, match="has no column nope"):
            await copy_rows(session, Payment, [], columns=["nope"])
        with pytest.raises(CopyInvalid, match=r"defaulted\.n has a default that only Python"):
            await copy_rows(session, defaulted, [], columns=["id"])
        with pytest.raises(CopyInvalid, match="a row has 1 values for the 4 columns"):
            await copy_rows(session, Payment, [("r1",)])
        await session.rollback()


async def test_a_read_session_copies_nothing(settings: Settings) -> None:
    """It only reads."""
    app = FastAPI()
    Clearway(app, settings)
    errors: list[Exception] = []

    @app.get("/")
    async def read(session: ReadDbSession) -> None:
        await session.execute(text("select 1"))
        try:
            await copy_rows(session, Payment, [payment(1)])
        except ReadOnlySession as error:
            errors.append(error)

    async with serving(app) as client:
        await client.get("/")

    assert len(errors) == 1


async def test_a_cancelled_copy_does_not_wait_for_a_server_that_is_frozen() -> None:
    """The backend is stopped in the middle: whoever was cancelled is back at once."""
    with EmbeddedPostgres() as server:
        road = road_to(server.url, pool_size=2, budget="off", min_size=0)
        frozen: list[int] = []

        async def rows(pid: int) -> AsyncIterator[dict[str, object]]:
            for number in range(2000):
                yield payment(number)
            os.kill(pid, signal.SIGSTOP)
            frozen.append(pid)
            await asyncio.sleep(60)

        async def work() -> None:
            async with road.db.session() as session:
                pid = await session.scalar(text("select pg_backend_pid()"))
                assert isinstance(pid, int)
                await copy_rows(session, Payment, rows(pid))

        async with road:
            async with road.db.engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
            task = asyncio.create_task(work())
            await until(lambda: bool(frozen))
            try:
                task.cancel()
                done, _ = await asyncio.wait([task], timeout=15)
                assert done
                assert task.cancelled()
            finally:
                os.kill(frozen[0], signal.SIGCONT)
