"""The connection budget: what the server has, what others use, and what is this process's share."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import socket
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from clearway.core.lane import Lane
from clearway.db.drivers import Driver
from clearway.db.terms import UPKEEP
from clearway.errors import ClearwayError, OverBudget

_log = logging.getLogger("clearway.db")

_QUERY = text(files("clearway.db").joinpath("sql/budget.sql").read_text())
_EVERY = 60.0
_WITHIN = 2.0

Mode = Literal["fit", "enforce", "warn", "off"]


def process_name(service: str) -> str:
    """Return the application_name of this process: the service's name and a mark of its own.

    By their marks the processes of one service are counted, on this host and on others: nothing
    else that PostgreSQL shows tells them apart.
    """
    mark = zlib.crc32(f"{socket.gethostname()} {os.getpid()}".encode()) & 0xFF_FFFF
    return f"{service_name(service)}#{mark:06x}"


def service_name(service: str) -> str:
    """Return the name without the mark, cut so that both fit into PostgreSQL's 63 bytes."""
    return service.encode()[:56].decode(errors="ignore")


@dataclass(frozen=True, slots=True)
class Numbers:
    """What the server says of itself; one row of `budget.sql`.

    Attributes:
        most: max_connections.
        reserved: Of these, for superusers and for pg_use_reserved_connections.
        superuser: We are one, so nothing is reserved from us.
        role_limit: CONNECTION LIMIT of our role; -1 for none.
        database_limit: CONNECTION LIMIT of the database; -1 for none.
        others: Connections that are not this service's.
        others_of_role: Of these, the ones of our role.
        others_in_database: Of these, the ones in our database.
        processes: Processes of this service that have a connection now.
    """

    most: int
    reserved: int
    superuser: bool
    role_limit: int
    database_limit: int
    others: int
    others_of_role: int
    others_in_database: int
    processes: int


@dataclass(frozen=True, slots=True)
class Budget:
    """What one process may have, and the arithmetic behind it.

    Attributes:
        wanted: Connections that this process may open by its settings.
        processes: Processes of this service, seen or said.
        room: Connections that are left for all of them together.
        share: Connections for each; 0 where there are more processes than room.
        arithmetic: The sum, in words and numbers.
    """

    wanted: int
    processes: int
    room: int
    share: int
    arithmetic: str

    @property
    def fits(self) -> bool:
        """Say whether every process may open all that it wants."""
        return self.share >= self.wanted

    @property
    def grant(self) -> int:
        """Return how many connections this process should open at most."""
        return min(self.wanted, max(1, self.share))

    def __str__(self) -> str:
        return (
            f"{self.processes} processes x {self.wanted} connections = "
            f"{self.processes * self.wanted}, but there is room for {self.room} "
            f"({self.arithmetic}): {self.share} for each process"
        )


_WAYS_OUT = (
    "lower database.pool_size and max_overflow or the number of processes, raise the server's "
    "max_connections, or put PgBouncer in front of it"
)


def assess(numbers: Numbers, wanted: int, processes: int = 1) -> Budget:
    """Return the budget of each process.

    Args:
        numbers: What the server says.
        wanted: Connections that one process may open by its settings.
        processes: How many there are at least; more may be seen.
    """
    reserved = 0 if numbers.superuser else numbers.reserved
    room = numbers.most - reserved - numbers.others
    terms = [f"max_connections {numbers.most}"]
    if reserved:
        terms.append(f"{reserved} reserved")
    terms.append(f"{numbers.others} of others")
    arithmetic = " - ".join(terms)
    limits = (
        ("the role's", numbers.role_limit, numbers.others_of_role),
        ("the database's", numbers.database_limit, numbers.others_in_database),
    )
    for whose, limit, others in limits:
        if limit >= 0 and not numbers.superuser and limit - others < room:
            room = limit - others
            arithmetic = f"{whose} CONNECTION LIMIT {limit} - {others} of others"
    room = max(0, room)
    processes = max(1, processes, numbers.processes)
    return Budget(wanted, processes, room, room // processes, arithmetic)


class Planned:
    """What one process opens on one server: the pool that asks, and the lanes that share.

    Args:
        engine: Asks the server.
        driver: Of the engine.
        lanes: All that lead to this server; their capacities now are what is wanted.
    """

    def __init__(self, engine: AsyncEngine, driver: Driver, lanes: Sequence[Lane]) -> None:
        self.engine = engine
        self.driver = driver
        self._lanes = [(lane, lane.capacity) for lane in lanes if lane.capacity is not None]
        self.wanted = sum(capacity for _, capacity in self._lanes)

    def resize(self, grant: int) -> None:
        """Share a number of connections among the lanes, by what each wanted; one at least."""
        for lane, capacity in self._lanes:
            lane.resize(max(1, grant * capacity // self.wanted))


class BudgetKeeper:
    """Hold one pool to its share, at the start and then every minute.

    Args:
        mode: What to do over budget.
        service: The service's name, as in `process_name`.
        processes: How many processes the service has, where that is known.

    Attributes:
        last: The last assessment; None before, and where nothing can be known.
    """

    def __init__(self, mode: Mode, service: str, processes: int | None) -> None:
        self.last: Budget | None = None
        self._mode = mode
        self._service = service_name(service)
        self._processes = processes or 1
        self._said: str | None = None
        self._task: asyncio.Task[None] | None = None

    async def check(self, pool: Planned) -> None:
        """Look before the start; a server that is down or slow stops nothing.

        Raises:
            OverBudget: `enforce`, and it is; or not even one connection is left for each process.
        """
        if self._mode == "off" or not pool.wanted:
            return
        budget = await self._look(pool)
        if budget is None or self._mode == "warn":
            return
        if budget.share < 1 or (self._mode == "enforce" and not budget.fits):
            raise OverBudget(f"over the connection budget: {budget}", fix=_WAYS_OUT)

    def start(self, pool: Planned) -> None:
        """Look from time to time from now on, on the running loop."""
        if self._mode == "off" or not pool.wanted:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._task = loop.create_task(
            self._run(pool), name="clearway connection budget", context=contextvars.Context()
        )

    async def stop(self) -> None:
        """End."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self, pool: Planned) -> None:
        while True:
            if self.last is None:
                await self._look(pool)
            await asyncio.sleep(_EVERY)
            await self._look(pool)

    async def _look(self, pool: Planned) -> Budget | None:
        upkeep = UPKEEP.set(True)
        try:
            async with asyncio.timeout(_WITHIN):
                numbers = await self._ask(pool.engine, pool.driver)
        except (ClearwayError, SQLAlchemyError, OSError) as error:
            _log.debug("the connection budget could not be looked at: %s", error)
            return None
        finally:
            UPKEEP.reset(upkeep)
        if numbers is None:
            self._say(
                "a pooler stands between us and PostgreSQL: how many connections the server has "
                "left cannot be known, the pooler's own limits hold"
            )
            return None
        budget = self.last = assess(numbers, pool.wanted, self._processes)
        if self._mode == "fit":
            pool.resize(budget.grant)
        if budget.fits:
            self._said = None
        else:
            shrunk = f"; {budget.grant} here from now on" if self._mode == "fit" else ""
            self._say(f"over the connection budget: {budget}{shrunk}. Ways out: {_WAYS_OUT}")
        return budget

    async def _ask(self, engine: AsyncEngine, driver: Driver) -> Numbers | None:
        """Return what the server says; None where we do not speak with the server itself."""
        plain = engine.execution_options(isolation_level="AUTOCOMMIT")
        async with plain.connect() as connection:
            row = (await connection.execute(_QUERY, {"service": self._service})).mappings().one()
            raw = (await connection.get_raw_connection()).driver_connection
            numbers: dict[str, Any] = dict(row)
            # A pooler makes up the id that it gave us when we connected.
            if numbers.pop("pid") != driver.backend_pid(raw):
                return None
            return Numbers(**numbers)

    def _say(self, what: str) -> None:
        if what != self._said:
            self._said = what
            _log.warning("%s", what)
