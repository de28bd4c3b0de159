"""Understand database URLs as people have them, and hand them to the driver as it wants them."""

from __future__ import annotations

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from clearway.errors import DatabaseUrlInvalid

_SCHEMES = frozenset({"postgres", "postgresql", "postgresql+asyncpg"})
_FIX = "write it as postgresql://user:password@host:5432/name"

# Parameters of libpq that asyncpg has under another name, or decides by itself.
_RENAMED = {"sslmode": "ssl", "connect_timeout": "timeout"}
_IGNORED = frozenset({"channel_binding", "gssencmode", "keepalives", "keepalives_idle"})
_UNDERSTOOD = frozenset(
    {"ssl", "timeout", "command_timeout", "host", "port", "target_session_attrs",
     "statement_cache_size", "prepared_statement_cache_size", "passfile", "krbsrvname"}
)  # fmt: skip
_NUMBERS = frozenset({"timeout", "command_timeout"})


def parse(text: str) -> tuple[URL, dict[str, object], dict[str, str]]:
    """Return the URL for SQLAlchemy, arguments for asyncpg, and server settings.

    Args:
        text: `postgres://`, `postgresql://` or `postgresql+asyncpg://`, with libpq's
            parameters (`sslmode`, `connect_timeout`, `application_name`, ...) or asyncpg's.

    Raises:
        DatabaseUrlInvalid: The URL cannot be read, or names something that is not supported.
    """
    url = _read(text)
    arguments: dict[str, object] = {}
    server: dict[str, str] = {}
    for name, value in url.query.items():
        if isinstance(value, tuple):
            raise DatabaseUrlInvalid(f"the database URL gives {name} twice", fix=_FIX)
        if name == "application_name":
            server[name] = value
        elif name not in _IGNORED:
            key, argument = _argument(name, value)
            arguments[key] = argument
    return url.set(drivername="postgresql+asyncpg", query={}), arguments, server


def _read(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # The text may hold a password, and so may the exception: neither goes any further.
        raise DatabaseUrlInvalid("the database URL cannot be read", fix=_FIX) from None
    if url.drivername not in _SCHEMES:
        raise DatabaseUrlInvalid(
            f"the database URL is for {url.drivername}; PostgreSQL over asyncpg is supported",
            fix=_FIX,
        )
    if not url.database:
        raise DatabaseUrlInvalid("the database URL names no database", fix=_FIX)
    return url


def _argument(name: str, value: str) -> tuple[str, object]:
    key = _RENAMED.get(name, name)
    if key not in _UNDERSTOOD:
        raise DatabaseUrlInvalid(
            f"the database URL has a parameter that asyncpg does not know: {name}",
            fix="remove it, or build an engine yourself and pass Clearway(app, engine=engine)",
        )
    if key not in _NUMBERS:
        return key, value
    try:
        return key, float(value)
    except ValueError:
        raise DatabaseUrlInvalid(f"{name} in the database URL is no number", fix=_FIX) from None


def shown(url: URL) -> str:
    """Return the address for messages: host, port and database, never the password."""
    return f"{url.host or 'the local socket'}:{url.port or 5432}/{url.database}"
