"""Check a file of payments: CPU work, made to run in a worker process."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from datetime import date
from typing import NamedTuple

COLUMNS = ("reference", "paid_on", "payer", "amount")

_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9/_.-]{0,39}", re.ASCII)
_AMOUNT = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,2})?", re.ASCII)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


class BadRow(ValueError):
    """A file cannot be imported; nothing of it is.

    Args:
        line: Where, counted from 1.
        why: What is wrong there.
    """

    def __init__(self, line: int, why: str) -> None:
        super().__init__(line, why)
        self.line = line
        self.why = why


class Checked(NamedTuple):
    """A file that may be imported: rows, and the CSV for COPY without a header."""

    rows: int
    csv: bytes


def check_payments(data: bytes, import_id: str) -> Checked:
    """Return the rows with `import_id` before each, as one block of CSV.

    One block, not a list: 100,000 tuples that come back through pickle would hold the GIL of
    the service for a quarter of a second, bytes hold it for nothing.

    Raises:
        BadRow: The first row that cannot be imported, or line 1 for the file as a whole.
    """
    block = io.StringIO(newline="")
    out = csv.writer(block, lineterminator="\n")
    rows = 0
    for row in _checked(_text(data)):
        out.writerow((import_id, *row))
        rows += 1
    if not rows:
        raise BadRow(1, "there is no row below the header")
    return Checked(rows, block.getvalue().encode())


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadRow(line, "this is not UTF-8") from error


def _checked(text: str) -> Iterator[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    seen: set[str] = set()
    try:
        if tuple(next(reader, ())) != COLUMNS:
            raise BadRow(1, f"the header must be {','.join(COLUMNS)}")
        for row in reader:
            fault = _fault(row) or (f"{row[0]} stands here twice" if row[0] in seen else None)
            if fault is not None:
                raise BadRow(reader.line_num, fault)
            seen.add(row[0])
            yield row
    except csv.Error as error:
        raise BadRow(reader.line_num, str(error)) from error


def _fault(row: list[str]) -> str | None:
    """Return what is wrong with a row, None for a good one."""
    if len(row) != len(COLUMNS):
        return f"{len(row)} columns, not {len(COLUMNS)}"
    reference, paid_on, payer, amount = row
    if not _REFERENCE.fullmatch(reference):
        return f"{reference[:60]!r} is no reference"
    if not _AMOUNT.fullmatch(amount):
        return f"{amount[:60]!r} is no amount"
    if not payer.strip() or len(payer) > 200 or _UNPRINTABLE.search(payer):
        return f"{payer[:60]!r} is no payer"
    return None if _is_day(paid_on) else f"{paid_on[:60]!r} is no date (YYYY-MM-DD)"


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
