"""What a file of payments may contain."""

from __future__ import annotations

import csv
import io
import pickle

import pytest

from studio.inputs import payments
from studio.payments import BadRow, check_payments

HEADER = "reference,paid_on,payer,amount\r\n"
GOOD = "A-1,2026-01-31,Ada,10.50\r\n"


def _rows(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode(), newline="")))


def test_every_row_comes_out_as_it_went_in_with_the_import_before_it() -> None:
    """Quotes, commas and letters of all scripts survive; the header does not."""
    data = payments(500, seed=7)
    checked = check_payments(data, "the-import")
    assert checked.rows == 500
    assert _rows(checked.csv) == [["the-import", *row] for row in _rows(data)[1:]]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("A-2,2026-01-31,Ada", "3 columns"),
        ("A-2,2026-01-31,Ada,1,2", "5 columns"),
        ("", "0 columns"),
        (",2026-01-31,Ada,1", "no reference"),
        ("A 2,2026-01-31,Ada,1", "no reference"),
        (f"{'A' * 41},2026-01-31,Ada,1", "no reference"),
        ("A-2,2026-02-30,Ada,1", "no date"),
        ("A-2,20260131,Ada,1", "no date"),
        ("A-2,2026-01-31, ,1", "no payer"),
        ("A-2,2026-01-31,A\0da,1", "no payer"),
        (f"A-2,2026-01-31,{'a' * 201},1", "no payer"),
        ("A-2,2026-01-31,Ada,1.234", "no amount"),
        ("A-2,2026-01-31,Ada,NaN", "no amount"),
        ("A-2,2026-01-31,Ada,1e5", "no amount"),
        ("A-2,2026-01-31,Ada,1_0", "no amount"),
        ("A-2,2026-01-31,Ada,\u0661", "no amount"),
        ("A-1,2026-01-31,Ada,1", "A-1 stands here twice"),
        ('A-2,2026-01-31,"Ada,1', "unexpected end"),
        ('A-2,2026-01-31,"A"da,1', "expected"),
    ],
)
def test_a_bad_row_is_named_by_its_line(row: str, why: str) -> None:
    """The line number counts from 1 with the header, and the message says what is wrong."""
    data = f"{HEADER}{GOOD}{row}\r\n".encode()
    with pytest.raises(BadRow, match=why) as caught:
        check_payments(data, "x")
    assert caught.value.line == 3


def test_line_numbers_count_lines_and_not_rows() -> None:
    """A name on two lines is refused there, and does not shift what follows."""
    with pytest.raises(BadRow) as caught:
        check_payments(f'{HEADER}A-1,2026-01-31,"A\nda",1\r\n'.encode(), "x")
    assert caught.value.line == 3


@pytest.mark.parametrize("data", [b"", b"reference\r\n", b"\r\n", HEADER.encode()])
def test_a_file_without_header_or_rows_is_refused(data: bytes) -> None:
    """Nothing to import is an error of line 1, not an import of nothing."""
    with pytest.raises(BadRow) as caught:
        check_payments(data, "x")
    assert caught.value.line == 1


def test_bytes_that_are_no_text_are_named_by_their_line() -> None:
    """Latin-1 is refused where it begins, not decoded into something else."""
    data = (HEADER + GOOD).encode() + "A-2,2026-01-31,Zoë,1".encode("latin-1")
    with pytest.raises(BadRow, match="not UTF-8") as caught:
        check_payments(data, "x")
    assert caught.value.line == 3


def test_a_byte_order_mark_is_no_part_of_the_header() -> None:
    """Spreadsheets write one."""
    assert check_payments(b"\xef\xbb\xbf" + (HEADER + GOOD).encode(), "x").rows == 1


def test_the_error_travels_between_processes() -> None:
    """What is raised in a worker arrives with its line."""
    error = pickle.loads(pickle.dumps(BadRow(7, "why")))  # noqa: S301 - our own bytes
    assert (error.line, error.why) == (7, "why")
