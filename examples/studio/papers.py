"""Invoices on paper: PDF is CPU work, made to run in a worker process."""

from __future__ import annotations

import unicodedata
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from typing import NamedTuple

from fpdf import FPDF
from fpdf.enums import XPos, YPos

_FONT = "Helvetica"
_ENCODING = "windows-1252"
_HEADINGS = ("Description", "Quantity", "Unit price", "Amount")
_CENT = Decimal("0.01")


class PaperLine(NamedTuple):
    """One line of an invoice."""

    description: str
    quantity: Decimal
    unit_price: Decimal


class Paper(NamedTuple):
    """What stands on an invoice: plain data, which travels to a process for nothing."""

    number: str
    customer: str
    issued_on: date
    total: Decimal
    lines: list[PaperLine]


def make_pdf(paper: Paper) -> bytes:
    """Return an invoice as PDF, on as many pages as it takes."""
    pdf = FPDF(format="A4")
    pdf.core_fonts_encoding = _ENCODING
    pdf.alias_nb_pages("")  # else a customer called {nb} would be called 1
    pdf.set_title(f"Invoice {paper.number}")
    pdf.set_subject(paper.customer)  # in full, whatever the font can show
    pdf.set_margin(20)
    pdf.add_page()
    pdf.set_font(_FONT, "B", 20)
    _write(pdf, f"Invoice {paper.number}", 14)
    pdf.set_font(_FONT, size=11)
    _write(pdf, f"To {shown(paper.customer)}", 6)
    _write(pdf, f"Issued on {paper.issued_on:%Y-%m-%d}", 12)
    _write_lines(pdf, paper.lines)
    pdf.set_font(_FONT, "B", 11)
    _write(pdf, f"Total {_money(paper.total)}", 14, align="R")
    return bytes(pdf.output())


def shown(text: str) -> str:
    """Return text in the letters that every PDF reader has: those of Western Europe.

    A letter that is none of them loses its accents (ő is o), and what has no such form becomes
    a question mark. To print all scripts embed a font: `FPDF.add_font` takes a TTF file, which
    would be most of this service's size.
    """
    return "".join(_letter(one) for one in unicodedata.normalize("NFC", text))


def _letter(one: str) -> str:
    try:
        one.encode(_ENCODING)
        return one
    except UnicodeEncodeError:
        plain = unicodedata.normalize("NFKD", one).encode(_ENCODING, "ignore")
        return plain.decode(_ENCODING) or "?"


def _write(pdf: FPDF, text: str, height: int, *, align: str = "L") -> None:
    """Write text below what is there; `height` in millimetres."""
    pdf.multi_cell(0, height, text, align=align, new_x=XPos.LMARGIN, new_y=YPos.NEXT)


def _write_lines(pdf: FPDF, lines: list[PaperLine]) -> None:
    widths, sides = (8, 2, 3, 3), ("LEFT", "RIGHT", "RIGHT", "RIGHT")
    with pdf.table(col_widths=widths, text_align=sides, borders_layout="MINIMAL") as table:
        table.row(_HEADINGS)
        for line in lines:
            # As the database rounds; Python's own way is to the even cent.
            amount = (line.quantity * line.unit_price).quantize(_CENT, ROUND_HALF_UP)
            quantity = f"{line.quantity.normalize():f}"
            table.row((shown(line.description), quantity, _money(line.unit_price), _money(amount)))


def _money(amount: Decimal) -> str:
    return f"{amount:,.2f}"
