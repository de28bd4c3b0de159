"""Compose the parts around an application: the one place that knows them all."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Self

from fastapi import FastAPI

from clearway.background.tasks import BackgroundTasks
from clearway.core.current import current_parts
from clearway.core.journey import Journey, travelling
from clearway.core.lane import Lane
from clearway.core.observer import Faults, Observer
from clearway.core.parts import Parts
from clearway.errors import DatabaseUrlMissing
from clearway.offload.processes import Processes
from clearway.offload.threads import Threads
from clearway.outbound import Outbound
from clearway.settings import Settings, switched_off
from clearway.state.resources import Resources, ResourceSnapshot
from clearway.state.usage import resources_taken
from clearway.web.health import Probes
from clearway.web.identity import RequestId
from clearway.web.join import Join
from clearway.web.middleware import RequestPath, abandon
from clearway.web.timing import ServerTiming

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from clearway.db import Database
    from clearway.jobs.outbox import Outbox
    from clearway.jobs.slots import Slots
    from clearway.jobs.worker.manifest import Manifest
    from clearway.logs import Logs

WORKER_LOGS = "clearway.logs.setup:configure_worker"
"""What a worker process calls at its start, where our logs are taken over."""


class Clearway:
    """Measure an application with one line, and hold what its names promise.

    By itself it changes no status, body, query or log line (a request id is added to the
    headers, and `/livez` and `/readyz` are answered where the app does not); each promise begins
    where a name is used (`DbSession`, `offload`, `get_logger`) or an object is handed over.

    Args:
        app: The application, before it has served a request. The last Clearway of an app counts.
        settings: By default read from CLEARWAY_* and the platform's variables.
        engine: An SQLAlchemy engine of the app's own, over asyncpg, to use for its sessions.

    Raises:
        SettingsInvalid: A setting is unknown or out of its bounds.
        AlreadyStarted: The app has served a request.
    """

    def __init__(
        self,
        app: FastAPI,
        settings: Settings | None = None,
        *,
        engine: AsyncEngine | None = None,
    ) -> None:
        off = switched_off()
        self.app = app
        self.settings = settings or (Settings.model_construct() if off else Settings())
        self._parts = Parts(self)
        self._engine = engine
        self._db: Database | None = None
        self._logs: Logs | None = None
        self._outbox: Outbox | None = None
        self._opened = 0
        self._ready = False
        self._path = self._request_path()
        self._outbound = Outbound(
            self.settings.outbound,
            id_header=self.settings.request.id_header,
            faults=self._path.faults,
            off=off,
        )
        if not off:
            Join(app, self._path)

    @classmethod
    def current(cls) -> Self:
        """Return the Clearway of the current journey, or else the only open one.

        Raises:
            NotOpen: None is open.
            SeveralOpen: Outside a request, and more than one is open.
        """
        owner = current_parts("Clearway.current()").owner
        assert isinstance(owner, cls)
        return owner

    @property
    def db(self) -> Database:
        """The database: `engine`, `session()`, `dependency`.

        Raises:
            ModuleNotFoundError: The extra `clearway[db]` is not installed.
        """
        if self._db is None:
            from clearway.db import Database

            settings = self.settings
            service = settings.service
            db = Database(
                settings.database,
                service.name,
                processes=service.processes,
                engine=self._engine,
            )
            if self._ready and db.configured:  # first asked for while we are open
                db.attach()
                self._parts.add(db)
            self._db = db
        return self._db

    @property
    def outbound(self) -> Outbound:
        """Calls to other services: `session`, `transport()`, `trace_config()`, `middleware()`."""
        return self._outbound

    @property
    def lanes(self) -> Mapping[str, Lane]:
        """The lanes that are open, by name; `road.lanes["db"].snapshot()` says how one stands."""
        threads, processes = self._parts.get(Threads), self._parts.get(Processes)
        tasks, outbound = self._parts.get(BackgroundTasks), self._parts.get(Outbound)
        lanes = [
            self._path.lane,
            None if threads is None else threads.lane,
            None if processes is None else processes.lane,
            *(() if self._db is None else self._db.lanes),
            None if outbound is None else outbound.lane,
            None if tasks is None else tasks.lane,
            None if self._outbox is None else self._outbox.lane,
        ]
        return MappingProxyType({lane.name: lane for lane in lanes if lane is not None})

    @property
    def resources(self) -> Mapping[str, ResourceSnapshot]:
        """The resources that are open, by name, in the order in which they opened."""
        resources = self._parts.get(Resources)
        return MappingProxyType({}) if resources is None else resources.snapshot()

    @property
    def ready(self) -> bool:
        """Say whether all parts are open."""
        return self._ready

    @property
    def faults(self) -> Mapping[str, int]:
        """Faults in Clearway's own code that were skipped, counted by place."""
        return MappingProxyType(self._path.faults.counts)

    async def open(self) -> None:
        """Open the parts that this application uses. The lifespan does it; scripts may.

        Each `open` wants its own `close`; the last one closes.

        Raises:
            StartError: A part cannot open; what had been opened is closed again.
        """
        self._opened += 1
        if self._opened > 1:
            return
        try:
            await self._open_logs()
            await self._open_offload()
            await self._open_database()
            await self._open_jobs()
            await self._open_outbound()
            await self._open_resources()
            await self._open_background()  # the last: its tasks use the others
            self._ready = True
        except BaseException:
            await self.close()
            raise

    async def drain(self) -> None:
        """Finish the background tasks, within `background.drain_within`; no more are taken.

        The lifespan does it before the app's own shutdown, whose things tasks may use.
        """
        tasks = None if self._opened > 1 else self._parts.get(BackgroundTasks)
        if tasks is not None:
            await tasks.drain()

    async def close(self) -> None:
        """Close the parts, the last opened first, once nobody needs them any more."""
        self._opened -= 1
        if not self._opened:
            self._ready = False
            self._path.watch(self._own_observers())
            self._outbox = None
            await self._parts.close()

    async def carry(self) -> tuple[Manifest, Slots]:
        """Return what `clearway worker` needs in the process that runs the jobs, while open.

        Raises:
            DatabaseUrlMissing: There is no database.
            JobDeclarationInvalid: A job cannot be run as it is declared.
            ResourceFailed: A resource that a job takes could not be opened.
        """
        from clearway.jobs.attempt import Surroundings
        from clearway.jobs.declare import checked, registry, resources_of
        from clearway.jobs.slots import Slots
        from clearway.jobs.worker.manifest import Manifest

        if self._outbox is None:
            raise DatabaseUrlMissing(
                "a worker was started, but no job is declared, or there is no database for them",
                fix="set DATABASE_URL; modules with jobs that the application does not import go "
                "into CLEARWAY_JOBS__MODULES",
            )
        jobs = checked(registry)
        resources = self._parts.get(Resources)
        if resources is not None:
            await resources.open_these(resources_of(jobs.values()))
        url = self.settings.database.url
        manifest = Manifest.of(
            self.settings,
            self.db.engine.url.render_as_string(hide_password=False)
            if self._engine is not None or url is None
            else url.get_secret_value(),
            jobs.values(),
            logs=self._logs is not None and self._logs.taken_over,
        )
        overrides = self.app.dependency_overrides
        around = Surroundings(self._parts, self._outbox.store, overrides)
        return manifest, Slots(jobs, around, self._outbox.lane)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @asynccontextmanager
    async def journey(self, name: str) -> AsyncIterator[Journey]:
        """Travel outside a request: a script's or a test's journey with its own ledger.

        What hangs on the journey commits at the end of the block and is rolled back when the
        block raises; `keep` and `fail` overrule.

        Args:
            name: Stands where a request has its route.
        """
        journey = Journey("script", route=name, parts=self._parts)
        with travelling(journey):
            try:
                try:
                    yield journey
                except BaseException as error:
                    journey.error = error
                    await self._end_badly(journey, keep=isinstance(error, Exception))
                    raise
                journey.answered = True
                await journey.settle(journey.wants_commit(True))
            finally:
                for afterthought in journey.afterthoughts():
                    await afterthought(journey.committed)

    async def _end_badly(self, journey: Journey, *, keep: bool) -> None:
        journey.answered = True
        if keep and journey.wants_commit(False):
            await journey.settle(commit=True)
            return
        await abandon(journey, self._path.faults)

    def _request_path(self) -> RequestPath:
        settings = self.settings
        probes = Probes(lambda: self.app.routes, lambda: {"lifespan": self._ready})
        path = RequestPath(
            settings=settings.request,
            road=self,
            parts=self._parts,
            probes=probes if settings.request.enabled and settings.ops.probes else None,
            faults=Faults(),
            detailed=settings.service.development,
        )
        path.watch(self._own_observers())
        return path

    def _own_observers(self) -> list[Observer]:
        settings = self.settings
        observers: list[Observer] = []
        if settings.request.enabled:
            observers.append(RequestId(settings.request.id_header))
        timing = settings.ops.server_timing
        if settings.service.development if timing is None else timing:
            observers.append(ServerTiming())
        return observers

    async def _open_logs(self) -> None:
        # The room is imported only if the app has: it needs packages of its own.
        if "clearway.logs" not in sys.modules and self.settings.logs.take_over != "on":
            return
        from clearway.logs import Logs

        logs = self._logs = Logs(self.settings.service, self.settings.logs)
        await self._parts.open(logs)
        if logs.taken_over and self.settings.logs.access:
            self._path.watch([*self._own_observers(), logs.access])

    async def _open_offload(self) -> None:
        settings = self.settings
        if not settings.offload.enabled:
            return
        await self._parts.open(Threads(settings.offload))
        if self._logs is not None and self._logs.taken_over:
            setup, arguments = WORKER_LOGS, (settings.service, settings.logs)
            processes = Processes(settings.offload, initializer=setup, initargs=arguments)
        else:
            processes = Processes(settings.offload)
        await self._parts.open(processes)

    async def _open_outbound(self) -> None:
        if self.settings.outbound.enabled:
            await self._parts.open(self._outbound)

    async def _open_background(self) -> None:
        if not self.settings.background.enabled:
            return
        threads = self._parts.get(Threads)
        in_thread = asyncio.to_thread if threads is None else threads.run
        await self._parts.open(BackgroundTasks(self.settings.background, in_thread))

    async def _open_jobs(self) -> None:
        if "clearway.jobs" not in sys.modules or not self.settings.jobs.enabled:
            return
        from clearway.jobs.declare import registry
        from clearway.jobs.outbox import Outbox

        database = self._db
        if registry and database is not None and database.configured:
            name = self.settings.service.name
            outbox = Outbox(self.settings.jobs, name, lambda: database.engine)
            await self._parts.open(outbox)
            self._outbox = outbox

    async def _open_resources(self) -> None:
        # Before the background lane, so that a script's last tasks still have them at its end.
        app = self.app
        resources = Resources(self.settings.state, self._parts, lambda: app.dependency_overrides)
        await self._parts.open(resources)
        await resources.open_these(resources_taken(app.routes, app.dependency_overrides))

    async def _open_database(self) -> None:
        if "clearway.db" not in sys.modules and self._engine is None:
            return
        self.db.check(self.app.routes, self.app.dependency_overrides)
        threads = self._parts.get(Threads)
        if threads is not None:
            self.db.in_thread = threads.run
        if self.db.used:
            await self._open_metrics()
            await self._parts.open(self.db)

    async def _open_metrics(self) -> None:
        if "opentelemetry.metrics" not in sys.modules:
            return  # whoever sets an SDK up has imported it
        from clearway.report import metrics

        if metrics.set_up():
            await self._parts.open(metrics.ConnectionMetrics(self.db, self._path.faults))
