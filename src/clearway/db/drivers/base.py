"""What the pool and the unit of work ask of a driver."""

from __future__ import annotations

import functools
import importlib
from collections.abc import AsyncIterable, Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy.engine import Dialect

from clearway.db.terms import Terms
from clearway.errors import DatabaseUrlInvalid

_KNOWN = {"asyncpg": "asyncpg", "psycopg": "psycopg", "psycopg_async": "psycopg"}

_EXTRAS = {"asyncpg": "db", "psycopg": "psycopg", "psycopg_async": "psycopg"}

PING_WITHIN = 2.0
"""Seconds that a connection has to answer a ping; a dropped one never answers."""


class Driver(Protocol):
    """One driver; its methods take the driver's own connection."""

    def service(
        self, arguments: Mapping[str, object], server: Mapping[str, str], connect_timeout: float
    ) -> dict[str, Any]:
        """Return the arguments of an engine for a service.

        Args:
            arguments: What the URL said.
            server: What the server shall know from the start, the application's name first.
            connect_timeout: Seconds, where the URL says nothing else.
        """

    def arguments(self, named: Mapping[str, Any], terms: Terms) -> dict[str, Any]:
        """Return what to connect with: the engine's arguments and what we add to them."""

    def opened(self, connection: Any, terms: Terms) -> None:
        """Set a new connection up, without a round trip."""

    def refusal(self, error: BaseException) -> str | None:
        """Return the SQLSTATE that a connect failed with, None where no server answered."""

    def is_closed(self, connection: Any) -> bool:
        """Say, without a round trip, whether the server has closed the connection."""

    def is_busy(self, adapted: Any) -> bool:
        """Say whether a statement runs in SQLAlchemy's connection of this driver."""

    def checks_commit(self, connection: Any) -> bool:
        """Say whether a COMMIT that was a ROLLBACK raises by itself."""

    def backend_pid(self, connection: Any) -> int:
        """Return the id of the server's process, as it was told at the connect."""

    def in_transaction(self, connection: Any) -> bool:
        """Say whether the server has been told to BEGIN."""

    async def copy_rows(
        self,
        connection: Any,
        schema: str | None,
        table: str,
        columns: Sequence[str],
        rows: AsyncIterable[Sequence[object]],
    ) -> int:
        """Store rows by COPY, and return how many."""

    async def copy_csv(
        self,
        connection: Any,
        schema: str | None,
        table: str,
        columns: Sequence[str],
        source: AsyncIterable[bytes],
        header: bool,
    ) -> int:
        """Store CSV by COPY, and return the number of rows."""

    async def ping(self, connection: Any) -> None:
        """Make one round trip. Raises if there is no answer within `PING_WITHIN`."""

    async def end(self, connection: Any) -> None:
        """Cancel what runs on the server, and close; the caller bounds the time."""

    def abort(self, connection: Any) -> None:
        """Close at once, without a word to the server."""


@functools.cache  # it is asked for at each COMMIT
def driver_by_name(name: str) -> Driver:
    """Return the driver that SQLAlchemy calls by this name.

    Raises:
        DatabaseUrlInvalid: It is not installed.
    """
    try:
        module = importlib.import_module(f"clearway.db.drivers.{_KNOWN[name]}")
    except ModuleNotFoundError as error:
        raise DatabaseUrlInvalid(
            f"the database URL is for {name}, which is not installed",
            fix=f'pip install "clearway[{_EXTRAS[name]}]"',
        ) from error
    driver: Driver = module.DRIVER
    return driver


def driver_of(dialect: Dialect) -> Driver:
    """Return the driver of an engine's dialect.

    Raises:
        DatabaseUrlInvalid: It is none that is supported.
    """
    if dialect.name != "postgresql" or not dialect.is_async or dialect.driver not in _KNOWN:
        raise DatabaseUrlInvalid(
            f"the engine is for {dialect.name}+{dialect.driver}; PostgreSQL over asyncpg or "
            "psycopg is supported",
            fix='create_async_engine("postgresql+asyncpg://...")',
        )
    return driver_by_name(dialect.driver)
