"""Files of payments over HTTP."""

from __future__ import annotations

import httpx

from studio.tests.conftest import MOST_BYTES, Studio

HEADER = "reference,paid_on,payer,amount\r\n"


def _send(studio: Studio, text: str) -> httpx.Response:
    return studio.http.post("/import", files={"file": ("payments.csv", text.encode())})


def _count(studio: Studio, unique: str) -> int:
    sql = "SELECT count(*) FROM payments WHERE reference LIKE $1 || '%'"
    return int(studio.query(sql, unique))


def _rows(unique: str, count: int) -> str:
    return HEADER + "".join(f"{unique}-{n},2026-01-31,Ada,1.00\r\n" for n in range(count))


def test_all_rows_are_stored_as_they_stand_in_the_file(studio: Studio, unique: str) -> None:
    """Rows are counted, and quotes, commas, backslashes and all scripts survive COPY."""
    payer = 'Zoë "Z" Müller, \\N 花子'
    row = f'{unique}-x,2026-01-31,"{payer.replace(chr(34), chr(34) * 2)}",-12.5\r\n'
    answer = _send(studio, _rows(unique, 500) + row)
    assert answer.status_code == 201
    assert answer.json()["rows"] == 501
    assert _count(studio, unique) == 501
    sql = "SELECT payer || ' ' || amount FROM payments WHERE reference = $1"
    assert studio.query(sql, f"{unique}-x") == f"{payer} -12.50"
    sql = "SELECT rows FROM payment_imports WHERE id::text = $1"
    assert studio.query(sql, answer.json()["id"]) == 501


def test_a_bad_row_is_named_and_nothing_is_imported(studio: Studio, unique: str) -> None:
    """The last row of many is bad: a 422 with its line, and not one row of the file."""
    answer = _send(studio, _rows(unique, 500) + "oops\r\n")
    assert answer.status_code == 422
    assert answer.json()["line"] == 502
    assert answer.headers["content-type"] == "application/problem+json"
    assert _count(studio, unique) == 0


def test_a_file_is_imported_once(studio: Studio, unique: str) -> None:
    """Sent again with one row more it is a 409, and neither rows nor import are added."""
    assert _send(studio, _rows(unique, 20)).status_code == 201
    imports = studio.query("SELECT count(*) FROM payment_imports")
    answer = _send(studio, f"{HEADER}{unique}-new,2026-01-31,Ada,1\r\n{_rows(unique, 20)[32:]}")
    assert answer.status_code == 409
    assert f"{unique}-0" in answer.json()["detail"]
    assert _count(studio, unique) == 20
    assert studio.query("SELECT count(*) FROM payment_imports") == imports


def test_a_file_that_is_too_large_is_a_413(studio: Studio) -> None:
    """The limit is a setting."""
    assert _send(studio, "x" * (MOST_BYTES + 1)).status_code == 413


def test_the_file_is_checked_in_another_process(studio: Studio, unique: str) -> None:
    """The request's ledger has its time in the lane of processes."""
    answer = _send(studio, _rows(unique, 5))
    assert "processes;dur=" in answer.headers["Server-Timing"]
