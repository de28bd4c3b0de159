"""Understand database URLs as people have them, and hand them to the driver as it wants them."""

from __future__ import annotations

from math import ceil
from urllib.parse import urlencode

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from clearway.errors import DatabaseUrlInvalid

_SCHEMES = {
    "postgres": "asyncpg",
    "postgresql": "asyncpg",
    "postgresql+asyncpg": "asyncpg",
    "postgresql+psycopg": "psycopg",
    "postgresql+psycopg_async": "psycopg",
}
_FIX = "write it as postgresql://user:password@host:5432/name"

# libpq's parameters for TLS, which asyncpg understands in a DSN of its own and nowhere else.
_TLS = frozenset(
    {"sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword",
     "ssl_min_protocol_version", "ssl_max_protocol_version"}
)  # fmt: skip
_SSL_MODES = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})
_SERVER = frozenset({"application_name", "options"})
_LIBPQ_ALONE = frozenset({"channel_binding", "gssencmode", "keepalives", "keepalives_idle"})
_SECONDS = {
    "asyncpg": {
        "connect_timeout": "timeout",
        "timeout": "timeout",
        "command_timeout": "command_timeout",
    },
    "psycopg": {"connect_timeout": "connect_timeout"},
}
_COUNTS = {
    "asyncpg": {"statement_cache_size", "prepared_statement_cache_size"},
    "psycopg": {"prepare_threshold"},
}
_TEXTS = frozenset({"target_session_attrs", "passfile", "krbsrvname"})


def parse(text: str, driver: str | None = None) -> tuple[URL, dict[str, object], dict[str, str]]:
    """Return the URL for SQLAlchemy, arguments for the driver, and server settings.

    Args:
        text: `postgres://`, `postgresql://`, `postgresql+asyncpg://` or `postgresql+psycopg://`,
            with libpq's parameters (`sslmode`, `connect_timeout`, `application_name`, ...) or
            asyncpg's.
        driver: `asyncpg` or `psycopg`, whatever the URL says; None to take the URL's.

    Raises:
        DatabaseUrlInvalid: The URL cannot be read, or names something that is not supported.
    """
    url = _read(text.strip())
    driver = driver or _SCHEMES[url.drivername.lower()]
    arguments: dict[str, object] = {}
    server: dict[str, str] = {}
    tls: dict[str, str] = {}
    for name, value in url.query.items():
        if isinstance(value, tuple):
            raise DatabaseUrlInvalid(f"the database URL gives {name} twice", fix=_FIX)
        if name == "host":
            url = url.set(host=value)  # the folder of a local socket, usually
        elif name in _SERVER:
            server[name] = value
        elif name in _TLS:
            tls[name] = _ssl_mode(value) if name == "sslmode" else value
        elif name in _LIBPQ_ALONE:
            if driver == "psycopg":
                arguments[name] = value
        else:
            arguments.update(_argument(name, value, driver))
    if tls and driver == "psycopg":
        arguments.update(tls)
    elif tls:
        arguments["dsn"] = "postgresql://?" + urlencode(tls)
    return url.set(drivername=f"postgresql+{driver}", query={}), arguments, server


def _read(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # The text may hold a password, and so may the exception: neither goes any further.
        raise DatabaseUrlInvalid("the database URL cannot be read", fix=_FIX) from None
    if url.drivername.lower() not in _SCHEMES:
        raise DatabaseUrlInvalid(
            f"the database URL is for {url.drivername}; PostgreSQL over asyncpg or psycopg 3 "
            "is supported",
            fix=_FIX,
        )
    if "@" in (url.host or ""):
        raise DatabaseUrlInvalid(
            "the database URL has an @ in its password", fix="write it as %40 there"
        )
    if url.port is not None and not 0 < url.port < 65_536:
        raise DatabaseUrlInvalid(f"the database URL has the port {url.port}", fix=_FIX)
    if not url.database:
        raise DatabaseUrlInvalid("the database URL names no database", fix=_FIX)
    return url


def _ssl_mode(value: str) -> str:
    mode = "require" if value == "no-verify" else value  # Node's name: encrypted, not verified
    if mode not in _SSL_MODES:
        known = ", ".join(sorted(_SSL_MODES))
        raise DatabaseUrlInvalid(f"sslmode in the database URL is none of {known}", fix=_FIX)
    return mode


def _argument(name: str, value: str, driver: str) -> dict[str, object]:
    try:
        if name in _SECONDS[driver]:
            seconds = float(value)
            if not 0 <= seconds < 86_400:
                raise ValueError(name)  # noqa: TRY301 - the same answer as for no number at all
            # libpq: 0 is no bound. It takes whole seconds.
            bound = ceil(seconds) if driver == "psycopg" else seconds
            return {_SECONDS[driver][name]: bound} if seconds else {}
        if name in _COUNTS[driver]:
            return {name: int(value)}
    except ValueError:
        raise DatabaseUrlInvalid(
            f"{name} in the database URL is no number of use", fix=_FIX
        ) from None
    if name in _TEXTS:
        return {name: value}
    raise DatabaseUrlInvalid(
        f"the database URL has a parameter that is not supported: {name}",
        fix="remove it, or build an engine yourself and pass Clearway(app, engine=engine)",
    )


def named_in(text: str) -> str | None:
    """Return the application_name that a URL gives, None where it gives none or cannot be read."""
    try:
        name = make_url(text).query.get("application_name")
    except (ArgumentError, ValueError):
        return None
    return name if isinstance(name, str) else None


def shown(url: URL) -> str:
    """Return the address for messages: host, port and database, never the password."""
    return f"{url.host or 'localhost'}:{url.port or 5432}/{url.database}"
