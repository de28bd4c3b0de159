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

    assert arguments == {"dsn": "postgresql://?sslmode=require", "timeout": 3.0}
    assert server == {"application_name": "reports"}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://u:secret@h/d", "is for mysql"),
        ("postgresql+pg8000://u:secret@h/d", "is for postgresql\\+pg8000"),
        ("postgresql://u:secret@h", "names no database"),
        ("postgresql://u:secret@h:99999/d", "has the port 99999"),
        ("postgresql://u:secret@h:notaport/d", "cannot be read"),
        ("not a url, secret", "cannot be read"),
        ("postgresql://u:secret@h/d?sslmod=require", "is not supported: sslmod"),
        (
            "postgresql://u:secret@h/d?connect_timeout=soon",
            "connect_timeout .* is no number of use",
        ),
        ("postgresql://u:secret@h/d?connect_timeout=nan", "connect_timeout .* is no number of use"),
        ("postgresql://u:secret@h/d?statement_cache_size=few", "statement_cache_size .* no number"),
        ("postgresql://u:secret@h/d?sslmode=a&sslmode=b", "gives sslmode twice"),
        ("postgresql://u:secret@h/d?sslmode=maybe", "sslmode .* is none of allow, disable"),
        ("postgresql://u:p@secret@h/d", "has an @ in its password"),
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


@pytest.mark.parametrize(
    ("query", "arguments", "server"),
    [
        ("sslmode=no-verify", {"dsn": "postgresql://?sslmode=require"}, {}),
        ("sslmode=verify-full&sslrootcert=/ca.pem",
         {"dsn": "postgresql://?sslmode=verify-full&sslrootcert=%2Fca.pem"}, {}),
        ("prepared_statement_cache_size=0", {"prepared_statement_cache_size": 0}, {}),
        ("connect_timeout=0", {}, {}),
        ("options=-c%20search_path%3Dshop", {}, {"options": "-c search_path=shop"}),
    ],
)  # fmt: skip
def test_what_hosted_databases_write_is_understood(
    query: str, arguments: dict[str, object], server: dict[str, str]
) -> None:
    """TLS files, PgBouncer's cache sizes, libpq's `options` and its 0 for no bound."""
    assert parse(f" POSTGRES://h/d?{query}\n")[1:] == (arguments, server)


def test_a_local_socket_is_named_by_its_folder() -> None:
    """`?host=/run/postgresql` is where to connect, and what messages say."""
    url, _, _ = parse("postgresql:///shop?host=/run/postgresql")

    assert url.host == "/run/postgresql"
    assert shown(url) == "/run/postgresql:5432/shop"


def test_the_address_is_shown_without_credentials() -> None:
    """Messages name host, port and database."""
    url, _, _ = parse("postgresql://u:secret@h/d")

    assert shown(url) == "h:5432/d"
