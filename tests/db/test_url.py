"""Database URLs as people have them."""

from __future__ import annotations

import pytest

from clearway.db.url import parse, shown
from clearway.errors import DatabaseUrlInvalid


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_every_spelling_of_the_scheme_is_understood(scheme: str) -> None:
    """Heroku's, libpq's and SQLAlchemy's spelling lead to the same engine."""
    url, arguments, server = parse(f"{scheme}://u:p%40ss@db.example:6432/shop")

    assert url.drivername == "postgresql+asyncpg"
    assert (url.host, url.port, url.database, url.password) == ("db.example", 6432, "shop", "p@ss")
    assert (arguments, server) == ({}, {})


def test_libpqs_parameters_become_asyncpgs() -> None:
    """`sslmode` and `connect_timeout` are renamed, what asyncpg decides itself is left out."""
    _, arguments, server = parse(
        "postgresql://h/d?sslmode=require&connect_timeout=3&channel_binding=prefer"
        "&application_name=reports"
    )

    assert arguments == {"ssl": "require", "timeout": 3.0}
    assert server == {"application_name": "reports"}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://u:secret@h/d", "is for mysql"),
        ("postgresql+psycopg://u:secret@h/d", "is for postgresql\\+psycopg"),
        ("postgresql://u:secret@h", "names no database"),
        ("postgresql://u:secret@h:notaport/d", "cannot be read"),
        ("not a url, secret", "cannot be read"),
        ("postgresql://u:secret@h/d?sslmod=require", "does not know: sslmod"),
        ("postgresql://u:secret@h/d?connect_timeout=soon", "connect_timeout .* is no number"),
        ("postgresql://u:secret@h/d?sslmode=a&sslmode=b", "gives sslmode twice"),
    ],
)
def test_a_url_that_cannot_be_used_says_why_and_keeps_the_password(url: str, said: str) -> None:
    """The message names the part that is wrong and the fix, and never the password."""
    with pytest.raises(DatabaseUrlInvalid, match=said) as raised:
        parse(url)

    assert raised.value.fix
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_the_address_is_shown_without_credentials() -> None:
    """Messages name host, port and database."""
    url, _, _ = parse("postgresql://u:secret@h/d")

    assert shown(url) == "h:5432/d"
