"""The class of sessions that an app wants to have."""

from __future__ import annotations

import importlib

from sqlalchemy.ext.asyncio import AsyncSession

from clearway.errors import SessionClassInvalid


def load_session_class(path: str | None) -> type[AsyncSession] | None:
    """Return the class at a dotted path, None for none.

    Args:
        path: `module:Class`, such as `sqlmodel.ext.asyncio.session:AsyncSession`.

    Raises:
        SessionClassInvalid: There is none, or it is no AsyncSession.
    """
    if path is None:
        return None
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SessionClassInvalid(
            f"database.session_class {path!r} cannot be imported: {error}",
            fix="write it as module:Class, such as sqlmodel.ext.asyncio.session:AsyncSession",
        ) from error
    if not (isinstance(found, type) and issubclass(found, AsyncSession)):
        raise SessionClassInvalid(
            f"database.session_class {path!r} is no subclass of SQLAlchemy's AsyncSession",
            fix="for SQLModel it is sqlmodel.ext.asyncio.session:AsyncSession",
        )
    return found
