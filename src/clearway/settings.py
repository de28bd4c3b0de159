"""Every setting of every part: its default, its unit, its bounds, its environment name.

The environment name of a field is `CLEARWAY_<GROUP>__<FIELD>`, so `pool_size` in `database`
is `CLEARWAY_DATABASE__POOL_SIZE`. The names that platforms already set are honoured where the
own name is absent: `DATABASE_URL`, `LOG_LEVEL`, `FASTAPI_ENV`, `WEB_CONCURRENCY`. The command line
reads `PORT` as well.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from clearway.errors import SettingsInvalid

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

PREFIX = "CLEARWAY_"
SWITCH = "CLEARWAY"
PLATFORM_NAMES = {
    ("service", "environment"): "FASTAPI_ENV",
    ("service", "processes"): "WEB_CONCURRENCY",
    ("database", "url"): "DATABASE_URL",
    ("logs", "level"): "LOG_LEVEL",
}

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
SecondsOrNone = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]


_LEVELS = ("debug", "info", "warning", "error", "critical")


def _level_name(value: object) -> object:
    """Accept the spellings that other tools accept: `WARN`, `Fatal`, ` info `."""
    name = value.strip().lower() if isinstance(value, str) else value
    return (
        {"warn": "warning", "fatal": "critical"}.get(name, name) if isinstance(name, str) else name
    )


def _split(value: object) -> object:
    """Accept `a, b` for a list, as variables have it."""
    if not isinstance(value, str):
        return value
    return tuple(name for part in value.split(",") if (name := part.strip()))


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]

LevelName = Annotated[
    Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_level_name)
]


def default_processes() -> int:
    """Return 4, or the processors that this process may really use if they are fewer.

    A container's quota is read from cgroup v2 (`cpu.max`, in microseconds of each period).
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        quota, period = "max", "1"
    if quota != "max":
        usable = min(usable or 1, max(1, int(quota) // int(period)))
    return min(4, usable or 1)


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ServiceSettings(_Group):
    """Who this process is."""

    name: Annotated[str, Field(min_length=1, max_length=63)] = "app"
    """Name of the service in logs, and in PostgreSQL's application_name, where each process adds
    `#` and a mark of its own."""
    version: str = ""
    """Version of the service in logs; empty leaves it out."""
    environment: Annotated[str, Field(min_length=1)] = "production"
    """`development` turns on Server-Timing and console logs; also read from FASTAPI_ENV."""

    processes: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Processes that serve it, for the connection budget; also read from WEB_CONCURRENCY. Those
    that are seen at the server count in any case."""

    @property
    def development(self) -> bool:
        """Say whether this is a developer's machine."""
        return self.environment == "development"


class RequestSettings(_Group):
    """What bounds and names a request."""

    enabled: bool = True
    """Add the request id to answers and answer the probes; off leaves requests as they were."""
    timeout: Seconds = 30.0
    """Seconds from the arrival to the start of the response."""
    timeout_mode: Literal["observe", "enforce"] = "observe"
    """`observe` counts what would have expired; `enforce` cancels it and answers 504."""
    id_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")] = "X-Request-ID"
    """Header that carries the request id in and out."""


class OffloadSettings(_Group):
    """The lanes for blocking calls (threads) and for CPU work (processes)."""

    enabled: bool = True
    """Open the lanes; off, `offload.thread` and `offload.process` raise `NotOpen`."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 32
    """Most calls in threads at one time."""
    processes: Annotated[int, Field(ge=1, le=256)] = Field(default_factory=default_processes)
    """Most worker processes; they start on first use. Default: 4 or the CPU quota if less."""
    queue_limit: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    """Most calls that may wait for a thread or a process; one more is refused (503)."""
    max_tasks_per_process: Annotated[int, Field(ge=1)] = 1000
    """Calls after which a worker process is replaced."""
    nice: Annotated[int, Field(ge=0, le=19)] = 10
    """Scheduling niceness of worker processes, so that CPU work yields to the loop."""


class DatabaseSettings(_Group):
    """The connections to PostgreSQL."""

    enabled: bool = True
    """Open the database if a URL is set; off leaves it to an engine that is handed over."""
    url: SecretStr | None = None
    """Where the database is; also read from DATABASE_URL. `postgres://` URLs are understood."""
    driver: Literal["auto", "asyncpg", "psycopg"] = "auto"
    """What reaches PostgreSQL; `auto` takes what the URL says, and asyncpg if it says nothing."""
    pool_size: Annotated[int, Field(ge=1, le=1000)] = 20
    """Connections that are kept."""
    max_overflow: Annotated[int, Field(ge=0, le=1000)] = 10
    """Connections beyond `pool_size` at peaks, closed when they come back."""
    min_size: Annotated[int, Field(ge=0, le=1000)] = 1
    """Connections that are opened ahead, in the background; at most `pool_size`."""
    pool_recycle: Seconds = 1800.0
    """Longest life of a connection in seconds; each ends up to a tenth earlier, by chance."""
    pre_ping: Literal["idle", "always", "off"] = "idle"
    """When a connection is checked by a round trip before use; `idle` after `idle_ping_after`."""
    idle_ping_after: Seconds = 30.0
    """Seconds without use after which `pre_ping=idle` checks a connection."""
    wait_timeout: Seconds = 5.0
    """Longest wait for a connection; then 503 with Retry-After."""
    queue_limit: Annotated[int, Field(ge=0, le=1_000_000)] = 300
    """Most journeys that may wait for a connection; one more is refused (503)."""
    connect_timeout: Seconds = 10.0
    """Longest time for opening one connection."""
    reconnect_within: SecondsOrNone = 3.0
    """Seconds that connects are tried again while the server restarts; then they fail at once."""
    budget: Literal["fit", "enforce", "warn", "off"] = "fit"
    """Where all processes together may open more connections than the server has left: `fit`
    keeps to this process's share, `enforce` refuses to start, `warn` only says so."""
    hold_warn_after: Seconds = 2.0
    """Seconds after which whoever holds a connection is named in the log."""
    statement_timeout: SecondsOrNone = 30.0
    """Seconds a statement may run on the server; 0 for no bound."""
    lock_timeout: SecondsOrNone = 5.0
    """Seconds a statement may wait for a lock; 0 for no bound."""
    idle_in_transaction_session_timeout: SecondsOrNone = 10.0
    """Seconds a transaction may sit idle before the server ends it; 0 for no bound."""
    client_connection_check_interval: SecondsOrNone = 1.0
    """Seconds between the server's checks that the client of a running query is there; 0: none."""
    read_url: SecretStr | None = None
    """Where `ReadDbSession` reads, by a pool of its own that the server makes read only."""
    session_class: str | None = None
    """Class of the sessions as `module:Class`, such as SQLModel's AsyncSession."""
    expire_on_commit: bool = False
    """Expire objects at COMMIT, as SQLAlchemy does by default."""


class BackgroundSettings(_Group):
    """Light tasks in this process, after the response."""

    enabled: bool = True
    """Open the lane; off, a `Background` raises `NotOpen`."""
    capacity: Annotated[int, Field(ge=1, le=10_000)] = 16
    """Most tasks that run at one time."""
    queue_limit: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    """Most tasks that may wait; `add` refuses one more (503)."""
    warn_after: Seconds = 2.0
    """Seconds after which a task was too heavy for this process, and a warning says so."""
    drain_within: SecondsOrNone = 5.0
    """Seconds that tasks may still take at shutdown; then they are cancelled, and named."""


class JobSettings(_Group):
    """Durable work: jobs in the service's own database, and the workers that run them."""

    enabled: bool = True
    """Open the outbox where a job is declared; off, `enqueue` raises `NotOpen`."""
    database_schema: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$")] = "clearway"
    """PostgreSQL schema that holds the tables of jobs."""
    install: Literal["auto", "off"] = "auto"
    """`auto` makes the tables at the start; `off` leaves it to `clearway jobs sql`."""
    modules: Names = ()
    """Modules that a worker imports beside the application, separated by commas."""
    queues: Names = ()
    """Queues that a worker serves, separated by commas; none for all."""
    concurrency: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Most jobs that a worker runs at one time beside those in processes (`offload.processes`)."""
    lease: Annotated[float, Field(ge=1, le=3600)] = 10.0
    """Seconds after which a job of a worker that is gone may run again; renewed by thirds."""
    poll: Annotated[float, Field(ge=0.01, le=60)] = 1.0
    """Seconds between looks for jobs that no wake-up has told of."""
    unknown_patience: Annotated[float, Field(gt=0, le=2_592_000)] = 3600.0
    """Seconds that a job waits while no worker knows its name; then it is in the failure queue."""
    keep_done: Annotated[float, Field(ge=0, le=31_536_000)] = 86_400.0
    """Seconds that finished jobs are kept."""
    keep_failed: Annotated[float, Field(ge=3600, le=315_360_000)] = 7_776_000.0
    """Seconds that the failure queue keeps a job."""


class StateSettings(_Group):
    """What a service opens at its start and closes at its end: its resources."""

    open_within: Seconds = 60.0
    """Seconds that one resource may take to open, not counting those that it needs."""
    close_within: Seconds = 5.0
    """Seconds that one resource may take to close; then it is cancelled, and named."""


class OutboundSettings(_Group):
    """Calls to other services."""

    enabled: bool = True
    """Open the lane; off, an `HttpClient` raises `NotOpen` and adopted clients are left alone."""
    max_connections: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Most calls at one time; each holds its place until its response is read or closed."""
    max_per_host: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Most connections of the shared session to one host and port."""
    timeout: Seconds = 10.0
    """Seconds for one call in all; half of them at most may be spent waiting for a place."""
    queue_limit: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    """Most calls that may wait for a place; one more is refused (503)."""


class LogSettings(_Group):
    """The one stream of log lines."""

    take_over: Literal["auto", "on", "off"] = "auto"
    """Configure structlog and the root logger. `auto`: only if `get_logger` is used and neither
    of the two has been configured."""
    level: LevelName = "info"
    """Lowest level that is written; also read from LOG_LEVEL."""
    format: Literal["auto", "json", "console"] = "auto"
    """`auto` is `console` on a terminal and `json` elsewhere."""
    target: Annotated[str, Field(min_length=1)] = "stdout"
    """`stdout`, `stderr` or the path of a file."""
    buffer_bytes: Annotated[int, Field(ge=65_536, le=1 << 30)] = 1 << 20
    """Most bytes of memory for lines that the target does not take; then lines are dropped."""
    max_line_bytes: Annotated[int, Field(ge=512, le=1 << 20)] | None = None
    """Longest line. Default: 4,096 on a pipe, where a longer one could be torn; 16,000 else."""
    access: bool = True
    """Write one line for each request where logs are taken over."""


class OpsSettings(_Group):
    """What operators look at."""

    probes: bool = True
    """Answer `/livez` and `/readyz` where the app has no such route."""
    server_timing: bool | None = None
    """Send `Server-Timing`; by default only in development."""
    shutdown_within: Seconds = 25.0
    """Seconds for all phases of the shutdown together; Kubernetes kills after 30."""


# What Kubernetes sets in every pod beside a Service that is called `clearway`.
_KUBERNETES = re.compile(r"CLEARWAY_(SERVICE_HOST|SERVICE_PORT|PORT)(_|$)")

_FIX = "correct the value or unset it; docs/settings.md lists every setting with its bounds"


class _TreeSource(PydanticBaseSettingsSource):
    """A source that gives the whole tree at once, and never a field alone."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False


class _ArgumentSource(_TreeSource):
    """The constructor's arguments; a group given as an object leaves its unset fields open.

    Without this, `Settings(database=DatabaseSettings(pool_size=5))` would hide DATABASE_URL.
    """

    def __init__(self, arguments: PydanticBaseSettingsSource) -> None:
        super().__init__(arguments.settings_cls)
        self._arguments = arguments

    def __call__(self) -> dict[str, Any]:
        return {
            name: group.model_dump(exclude_unset=True) if isinstance(group, BaseModel) else group
            for name, group in self._arguments().items()
        }


class _EnvironmentSource(_TreeSource):
    """The CLEARWAY_* variables; a group given whole has to be JSON."""

    def __init__(self, environment: PydanticBaseSettingsSource) -> None:
        super().__init__(environment.settings_cls)
        self._environment = environment

    def __call__(self) -> dict[str, Any]:
        try:
            return self._environment()
        except SettingsError as error:  # it shows the value, which may be a URL with a password
            group = str(error).partition('"')[2].partition('"')[0]
            raise SettingsInvalid(
                f"{PREFIX}{group.upper()} is no JSON object",
                fix=f"give one setting of it, as {PREFIX}{group.upper()}__NAME",
            ) from None


class _PlatformSource(_TreeSource):
    """The variables that platforms and FastAPI already set, below our own names."""

    def __call__(self) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for (group, field), variable in PLATFORM_NAMES.items():
            value = os.environ.get(variable)
            if field == "level" and _level_name(value) not in _LEVELS:
                continue  # uvicorn's `trace`, say: it was not written for us
            if field == "processes" and not (value or "").strip().isdecimal():
                continue  # as above
            if value:
                tree.setdefault(group, {})[field] = value
        return tree


class Settings(BaseSettings):
    """The whole tree: from arguments, then the environment, then the defaults.

    Raises:
        SettingsInvalid: A value is out of its bounds, cannot be read, or has an unknown name.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    service: ServiceSettings = Field(default_factory=ServiceSettings)
    request: RequestSettings = Field(default_factory=RequestSettings)
    offload: OffloadSettings = Field(default_factory=OffloadSettings)
    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    background: BackgroundSettings = Field(default_factory=BackgroundSettings)
    jobs: JobSettings = Field(default_factory=JobSettings)
    state: StateSettings = Field(default_factory=StateSettings)
    outbound: OutboundSettings = Field(default_factory=OutboundSettings)
    logs: LogSettings = Field(default_factory=LogSettings)
    ops: OpsSettings = Field(default_factory=OpsSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments first, then CLEARWAY_*, then what the platform sets."""
        return (
            _ArgumentSource(init_settings),
            _EnvironmentSource(env_settings),
            _PlatformSource(settings_cls),
        )

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, value: object, build: ModelWrapValidatorHandler[Self]) -> Self:
        problems = [_unknown(variable, cls) for variable in _strays(cls)]
        try:
            settings = build(value)
        except ValidationError as error:
            problems += [_problem(detail, cls) for detail in error.errors()]
        if problems:
            listed = "".join(f"\n  - {problem}" for problem in problems)
            raise SettingsInvalid(f"settings cannot be used:{listed}", fix=_FIX)
        return settings


def _strays(tree: type[Settings]) -> list[str]:
    """Return the CLEARWAY_* variables that belong to no group: pydantic would ignore them.

    Without a double underscore only what is nearly a setting counts: nobody else's variables
    may stop the start.
    """
    ours = (name for name in os.environ if name.upper().startswith(PREFIX))
    return [
        name
        for name in ours
        if name.upper().removeprefix(PREFIX).partition("__")[0].lower() not in tree.model_fields
        and not _KUBERNETES.match(name.upper())
        and ("__" in name or _nearest(name, tree))
    ]


def _problem(detail: ErrorDetails, tree: type[Settings]) -> str:
    variable = PREFIX + "__".join(str(part) for part in detail["loc"]).upper()
    if detail["type"] == "extra_forbidden":
        return _unknown(variable, tree)
    plain = len(detail["loc"]) > 1 and isinstance(detail["input"], str | int | float)
    given = f", not {detail['input']!r}" if plain and "url" not in detail["loc"] else ""
    return f"{variable}: {detail['msg'][:1].lower()}{detail['msg'][1:]}{given}"


def _unknown(variable: str, tree: type[Settings]) -> str:
    nearest = _nearest(variable, tree)
    hint = f"; did you mean {nearest}?" if nearest else ""
    return f"{variable} is not a setting{hint}"


def _nearest(variable: str, tree: type[Settings]) -> str | None:
    known = [
        f"{PREFIX}{group}__{field}".upper()
        for group, info in tree.model_fields.items()
        for field in _fields(info)
    ]
    nearest = difflib.get_close_matches(variable.upper(), known, n=1, cutoff=0.75)
    return nearest[0] if nearest else None


def _fields(info: FieldInfo) -> Mapping[str, FieldInfo]:
    group = info.annotation
    return group.model_fields if isinstance(group, type) and issubclass(group, BaseModel) else {}


def switched_off() -> bool:
    """Say whether CLEARWAY=off makes the whole layer a pass-through."""
    return os.environ.get(SWITCH, "").lower() in {"off", "0", "false", "no"}
