"""Where sessions come from: an engine to write, one to read, and what looks after both."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sqlalchemy.ext.asyncio import AsyncEngine

from clearway.core.histogram import HistogramSnapshot
from clearway.core.lane import Lane
from clearway.db.budget import Budget, BudgetKeeper, Planned
from clearway.db.engine import Attachment, make_engine
from clearway.db.pool import LanePool
from clearway.db.reading import guard_engine
from clearway.db.snapshot import Meter, PoolSnapshot
from clearway.db.terms import TransactionSettings
from clearway.db.url import named_in
from clearway.errors import NotOpen
from clearway.settings import DatabaseSettings


class Source:
    """The engines of one database, from the start to the shutdown.

    Args:
        settings: Where the database is and what bounds its use.
        service: Name of the service.
        processes: How many processes the service has, where that is known.
        engine: An engine of the app's own, which is given back as it was; None to make one.
        name: Of the lane.

    Attributes:
        meter: Hears how long things take; set before the start.
        transaction_settings: What the app wants to have set in each transaction.
    """

    def __init__(
        self,
        settings: DatabaseSettings,
        service: str,
        processes: int | None,
        engine: AsyncEngine | None,
        name: str,
    ) -> None:
        self.given = engine
        self.name = name
        self.meter: Meter | None = None
        self.transaction_settings: TransactionSettings | None = None
        self._settings = settings
        # What the URL says is the name by which its owner looks for the connections.
        url = settings.url.get_secret_value() if settings.url is not None else ""
        service = self._service = named_in(url) or service
        self._budget = BudgetKeeper(settings.budget, service, processes)
        self._planned: Planned | None = None
        self._writing: Attachment | None = None
        self._reading: Attachment | None = None
        self._reader: AsyncEngine | None = None
        self._reader_in_transaction: AsyncEngine | None = None

    @property
    def configured(self) -> bool:
        """Say whether there is an engine or a URL to make one from."""
        has_url = self._settings.enabled and self._settings.url is not None
        return self.given is not None or has_url

    @property
    def engine(self) -> AsyncEngine:
        """Where to write.

        Raises:
            NotOpen: The lifespan has not run.
        """
        if self._writing is None:
            raise NotOpen(
                "the database was used while no Clearway was open",
                fix="run the lifespan: a server, `with TestClient(app)`, or `async with road:`",
            )
        return self._writing.engine

    @property
    def reader(self) -> AsyncEngine:
        """Where to read while the journey has no transaction: in AUTOCOMMIT, where that will do.

        What rides on a BEGIN, for a tenant or because a pooler refused it at the start, needs one.
        """
        in_transaction = self.transaction_settings is not None or self.pooled
        engine = self._reader_in_transaction if in_transaction else self._reader
        assert engine is not None
        return engine

    @property
    def attachments(self) -> list[Attachment]:
        """What is open."""
        return [one for one in (self._writing, self._reading) if one is not None]

    @property
    def lane(self) -> Lane | None:
        """The lane to write; None before the start, and for a pool that has no bound."""
        return None if self._writing is None else self._writing.lane

    @property
    def lanes(self) -> list[Lane]:
        """Every lane that is open."""
        return [one.lane for one in self.attachments if one.lane is not None]

    @property
    def pools(self) -> list[PoolSnapshot]:
        """How every pool stands that is open."""
        return [stands for one in self.attachments if (stands := one.snapshot()) is not None]

    @property
    def pooled(self) -> bool:
        """Say whether a pooler such as PgBouncer was met in between."""
        return any(one.terms.pooled for one in self.attachments)

    @property
    def budget(self) -> Budget | None:
        """The last look at the connection budget."""
        return self._budget.last

    @property
    def holds(self) -> Mapping[str, HistogramSnapshot]:
        """For how many seconds each route held connections to write."""
        pool = self.engine.sync_engine.pool
        return pool.holds.snapshot() if isinstance(pool, LanePool) else MappingProxyType({})

    def set_in_each_transaction(self, settings: TransactionSettings) -> None:
        """Have this ride on each BEGIN from now on."""
        self.transaction_settings = settings
        for attachment in self.attachments:
            attachment.terms.transaction_settings = settings

    def attach(self) -> None:
        """Make or adopt the engines; no connection is opened.

        Raises:
            DatabaseUrlInvalid: A URL or the engine cannot be used.
        """
        settings = self._settings
        if self.given is not None:
            self._writing = Attachment(self.given, settings, ours=False, lane=self.name)
        else:
            assert settings.url is not None
            engine = make_engine(settings.url.get_secret_value(), settings, self._service)
            self._writing = Attachment(engine, settings, ours=True, lane=self.name)
        source = self._writing
        if settings.read_url is not None:
            engine = make_engine(settings.read_url.get_secret_value(), settings, self._service)
            source = self._reading = Attachment(
                engine, settings, ours=True, read_only=True, lane=f"{self.name}.read"
            )
        self._reader = source.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._reader_in_transaction = source.engine.execution_options(clearway_reads=True)
        for reader in (self._reader, self._reader_in_transaction):
            guard_engine(reader)
        for attachment in self.attachments:
            attachment.terms.transaction_settings = self.transaction_settings
            if self.meter is not None and attachment.lane is not None:
                attachment.on_connect = self.meter.listen(attachment.lane)
        self._planned = self._plan()

    async def check_budget(self) -> None:
        """Look at the connection budget before the start.

        Raises:
            OverBudget: The server has too few connections left.
        """
        if self._planned is not None:
            await self._budget.check(self._planned)

    def start(self) -> None:
        """Begin to look after the pools, on the running loop."""
        for attachment in self.attachments:
            attachment.start()
        if self._planned is not None:
            self._budget.start(self._planned)

    def _plan(self) -> Planned | None:
        writing, reading = self._writing, self._reading
        if writing is None or writing.lane is None or self.given is not None:
            return None  # under the app's own application_name nobody could tell who is who
        lanes = [writing.lane]
        if reading is not None and reading.lane is not None:
            here, there = writing.engine.url, reading.engine.url
            if (here.host, here.port) == (there.host, there.port):
                lanes.append(reading.lane)
        return Planned(writing.engine, writing.driver, lanes)

    async def close(self) -> None:
        """Close the connections of our own engines, and give the app's back."""
        await self._budget.stop()
        attachments = self.attachments
        self._writing = self._reading = None
        for attachment in attachments:
            await attachment.stop()
