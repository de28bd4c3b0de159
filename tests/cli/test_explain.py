"""Test that every error code has its page, and that the command finds it."""

from __future__ import annotations

import subprocess
import sys

from clearway import errors
from clearway.cli.explain import read_pages
from clearway.errors import ClearwayError


def explain(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [sys.executable, "-m", "clearway", "explain", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def with_a_code() -> dict[str, str]:
    """Return the titles of the errors by their codes; roots without a code have no page."""
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    situations = [c for c in classes if issubclass(c, ClearwayError) and "code" in vars(c)]
    return {c.code: c.title for c in situations if c is not ClearwayError}


def test_every_code_has_a_page_and_every_page_a_code() -> None:
    """The pages and the classes name the same codes under the same titles."""
    titles = {
        code: page.partition("\n")[0].removeprefix(f"## {code} ")
        for code, page in read_pages().items()
    }
    assert titles == with_a_code()


def test_a_page_says_what_to_do() -> None:
    """Every page explains, and then advises."""
    for code, page in read_pages().items():
        _, meaning, advice = page.split("\n\n")
        assert len(meaning) > 60, code
        assert advice.startswith("Do: "), code


def test_a_code_is_explained() -> None:
    """The command prints the page of the code, however it is written."""
    answer = explain("cw223")
    assert answer.returncode == 0
    assert answer.stdout.startswith("CW223 COMMIT was answered by ROLLBACK\n")
    assert "begin_nested" in answer.stdout


def test_an_unknown_code_leads_to_the_nearest() -> None:
    """A misspelt code is misuse, and the answer names codes that exist."""
    answer = explain("CW22")
    assert answer.returncode == 2
    assert "CW221" in answer.stderr
    assert answer.stdout == ""


def test_without_a_code_all_are_listed() -> None:
    """Nothing asked, everything offered: one line for each code."""
    assert len(explain().stdout.splitlines()) == len(read_pages())
