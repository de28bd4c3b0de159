"""A file of 100,000 payments: checked in a process, stored by COPY, all of it or nothing."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from functools import partial

from fastapi import APIRouter, UploadFile
from sqlalchemy.exc import IntegrityError

from clearway import DbSession, get_logger, offload
from clearway.db import copy_csv
from studio.models import Payment, PaymentImport
from studio.payments import COLUMNS, BadRow, Checked, check_payments
from studio.problems import Problem
from studio.schemas import ImportOut
from studio.settings import studio_settings
from studio.uploads import read_upload, shown_name

router = APIRouter(prefix="/import", tags=["payments"])
log = get_logger()

_CHUNK = 1 << 19


@router.post("", status_code=201)
async def add(file: UploadFile, session: DbSession) -> ImportOut:
    """Import a CSV of payments (reference, paid_on, payer, amount)."""
    started = time.monotonic()
    batch = PaymentImport(id=uuid.uuid4(), name=shown_name(file), rows=0)
    checked = await _check(file, batch.id)
    batch.rows = checked.rows
    session.add(batch)
    try:
        await copy_csv(
            session,
            Payment,
            _chunks(checked.csv),
            columns=("import_id", *COLUMNS),
            header=False,
            on_progress=partial(_note, len(checked.csv)),
        )
    except IntegrityError as error:
        twice = getattr(error.orig, "detail", None) or error.orig
        raise Problem(409, f"imported before: {twice}") from error
    seconds = time.monotonic() - started
    log.info("payments copied", rows=checked.rows, seconds=round(seconds, 3))
    return ImportOut(id=batch.id, rows=checked.rows, seconds=seconds)


async def _check(file: UploadFile, batch: uuid.UUID) -> Checked:
    settings = studio_settings()
    data = await read_upload(file, at_most=settings.max_csv_bytes)
    try:
        return await offload.process(
            check_payments, data, str(batch), timeout=settings.import_timeout
        )
    except BadRow as error:
        raise Problem(422, f"line {error.line}: {error.why}", line=error.line) from error


def _note(size: int, copied: int) -> None:
    log.debug("payments on their way", percent=100 * copied // size)


async def _chunks(rows: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(rows), _CHUNK):
        yield rows[start : start + _CHUNK]
