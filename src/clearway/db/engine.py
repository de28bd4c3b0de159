"""The engine of a service: made from a URL, or handed over by the app."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from clearway.db.connection import CheckedConnection
from clearway.db.faults import connect_error
from clearway.db.pool import Validation, put_lane_before, take_lane_away
from clearway.db.url import parse, shown
from clearway.errors import DatabaseUrlInvalid
from clearway.settings import DatabaseSettings


def make_engine(settings: DatabaseSettings, service: str) -> AsyncEngine:
    """Return an engine for the settings' URL. No connection is opened.

    Args:
        settings: `url` must be set.
        service: The application_name that PostgreSQL shows for the connections.

    Raises:
        DatabaseUrlInvalid: The URL cannot be understood.
    """
    assert settings.url is not None
    url, arguments, server = parse(settings.url.get_secret_value())
    arguments.setdefault("timeout", settings.connect_timeout)
    arguments["server_settings"] = {"application_name": service, **server, **_timeouts(settings)}
    return create_async_engine(
        url,
        connect_args=arguments,
        pool_size=settings.pool_size,
        max_overflow=settings.max_overflow,
        pool_recycle=settings.pool_recycle,
    )


def _timeouts(settings: DatabaseSettings) -> dict[str, str]:
    """Return the server-side bounds as start-up parameters, which cost no round trip."""
    names = (
        "statement_timeout",
        "lock_timeout",
        "idle_in_transaction_session_timeout",
        "client_connection_check_interval",
    )
    seconds = ((name, getattr(settings, name)) for name in names)
    return {name: f"{round(value * 1000)}ms" for name, value in seconds if value}


class Attachment:
    """Our lane, checks and error names on an engine, and how to take them off again.

    Args:
        engine: Over asyncpg, ours or the app's own. Attach before it is used: a connection
            that is open already does not check its COMMITs.
        settings: The bounds of the waiting, and when connections are validated.

    Raises:
        DatabaseUrlInvalid: The engine is for another driver.
    """

    def __init__(self, engine: AsyncEngine, settings: DatabaseSettings) -> None:
        if not isinstance(engine, AsyncEngine):
            raise DatabaseUrlInvalid(
                f"engine= takes an SQLAlchemy AsyncEngine, not {type(engine).__name__}",
                fix="create_async_engine(url), or leave it out and set DATABASE_URL",
            )
        if engine.dialect.driver != "asyncpg":
            raise DatabaseUrlInvalid(
                f"the engine is for {engine.dialect.name}+{engine.dialect.driver}; "
                "PostgreSQL over asyncpg is supported",
                fix='create_async_engine("postgresql+asyncpg://...")',
            )
        self.engine = engine
        self.lane = put_lane_before(engine.sync_engine.pool, settings)
        self._listeners: list[tuple[str, Callable[..., object]]] = [
            ("do_connect", self._connect),
            ("checkout", Validation(settings)),
        ]
        for name, listener in self._listeners:
            event.listen(engine.sync_engine, name, listener)  # touchpoint: sqlalchemy-events

    def detach(self) -> None:
        """Give the engine back as it was."""
        for name, listener in self._listeners:
            event.remove(self.engine.sync_engine, name, listener)
        take_lane_away(self.engine.sync_engine.pool)

    def _connect(
        self, dialect: Dialect, _: ConnectionPoolEntry, args: list[Any], named: dict[str, Any]
    ) -> DBAPIConnection:
        """Open one connection; an error says what it means for the service."""
        if "async_creator_fn" not in named:
            named.setdefault("connection_class", CheckedConnection)
        try:
            return dialect.connect(*args, **named)
        except Exception as error:
            raise connect_error(error, shown(self.engine.url)) from error
