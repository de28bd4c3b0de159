"""Show what failed at the start the way its reader needs it."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import TracebackType

from clearway.errors import AppNotFound, StartError

_OWN = str(Path(__file__).parent)


def show(error: BaseException) -> int:
    """Write an error of the start to stderr and return the exit code.

    A `StartError` says what happened and the fix: only its message is shown. Anything else is
    the user's own: its traceback begins at the first line of their code.
    """
    if isinstance(error, StartError):
        sys.stderr.write(f"{error}\n")
        return 2 if isinstance(error, AppNotFound) else 1
    lines = traceback.format_exception(type(error), error, _theirs(error.__traceback__))
    sys.stderr.write("".join(lines))
    return 1


def _theirs(frames: TracebackType | None) -> TracebackType | None:
    while frames is not None:
        file = frames.tb_frame.f_code.co_filename
        if not (file.startswith((_OWN, "<frozen importlib")) or "/importlib/" in file):
            return frames
        frames = frames.tb_next
    return None
