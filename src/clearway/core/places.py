"""Places in code: where a task is, and which of its frames are the application's own."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple, Self

_NOT_OURS = tuple(
    os.path.join(path, "")
    for path in {
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        str(Path(__file__).parent.parent),
    }
)
_DEPTH = 100


class Place(NamedTuple):
    """One line of one function; its text is made only when somebody asks."""

    code: CodeType
    line: int

    @classmethod
    def at(cls, code: CodeType, offset: int) -> Self:
        """Return the place of an instruction, by its offset (`frame.f_lasti`).

        To note an offset costs a tenth of what working out its line does.
        """
        lines = (line for start, end, line in code.co_lines() if start <= offset < end)
        return cls(code, next(lines, None) or code.co_firstlineno)

    @property
    def function(self) -> str:
        """Return the function's qualified name."""
        return self.code.co_qualname

    @property
    def own(self) -> bool:
        """Say whether it is the application's code: no library's, not Python's, not ours."""
        name = self.code.co_filename
        return not name.startswith(("<", *_NOT_OURS))

    def __str__(self) -> str:
        return f"{_short(self.code.co_filename)}:{self.line} in {self.function}"


def own_places(places: Iterable[Place]) -> list[Place]:
    """Return those of the application's own code, in their order."""
    return [place for place in places if place.own]


def coroutine_places(coroutine: Any) -> list[Place]:
    """Return where a suspended coroutine is: itself and what it awaits, the innermost first."""
    found: list[Place] = []
    while coroutine is not None and len(found) < _DEPTH:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "ag_frame", None)
        if frame is not None:
            found.append(Place(frame.f_code, frame.f_lineno))
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "ag_await", None)
    return found[::-1]


def _short(path: str) -> str:
    # Not relative to the working folder: asking for that may block.
    return "/".join(path.split(os.sep)[-2:])
