"""`clearway explain`: the page of an error code."""

from __future__ import annotations

import difflib
import re
from importlib import resources
from typing import Annotated

import typer

_HEADING = re.compile(r"^## (?P<code>CW\d+) (?P<title>.+)$", re.MULTILINE)


def explain(
    code: Annotated[
        str | None,
        typer.Argument(help="Such as CW201. Default: list them all.", show_default=False),
    ] = None,
) -> None:
    """Say what an error code means, why it happens and what to do."""
    pages = read_pages()
    if code is None:
        for page in pages.values():
            typer.echo(page.partition("\n")[0].removeprefix("## "))
        return
    wanted = code.strip("[]").upper()
    if wanted not in pages:
        near = [known for known in pages if known.startswith(wanted)]
        near = near or difflib.get_close_matches(wanted, pages, n=3, cutoff=0.0)
        typer.echo(f"there is no code {code!r}; the nearest: {', '.join(sorted(near))}", err=True)
        raise typer.Exit(2)
    typer.echo(pages[wanted].removeprefix("## "))


def read_pages() -> dict[str, str]:
    """Return the sections of `errors.md` by their codes, in the file's order."""
    text = resources.files("clearway").joinpath("errors.md").read_text(encoding="utf-8")
    starts = list(_HEADING.finditer(text))
    ends = [match.start() for match in starts[1:]] + [len(text)]
    return {
        match["code"]: text[match.start() : end].strip()
        for match, end in zip(starts, ends, strict=True)
    }
