"""Take in files of strangers: how large, and what they are called."""

from __future__ import annotations

import re
from pathlib import PurePath

from fastapi import UploadFile

from studio.problems import Problem

_UNUSUAL = re.compile(r"[^\w .()+-]")


async def read_upload(file: UploadFile, *, at_most: int) -> bytes:
    """Return the bytes of an upload.

    Args:
        file: Starlette has it in memory, or on disk above 1 MB; a thread reads it there.
        at_most: Bytes.

    Raises:
        Problem: 413 if it is larger.
    """
    if (file.size or 0) > at_most:
        raise Problem(413, f"{shown_name(file)} is larger than {at_most:,} bytes")
    return await file.read()


def shown_name(file: UploadFile) -> str:
    """Return the name of an upload as text that can be stored and shown."""
    return _UNUSUAL.sub("_", PurePath(file.filename or "").name)[:200] or "unnamed"
