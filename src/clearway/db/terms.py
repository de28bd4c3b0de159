"""On what terms transactions run: what the server is told, and how long we wait for it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar

from clearway.core.journey import current_journey
from clearway.settings import DatabaseSettings

_log = logging.getLogger("clearway.db")

TransactionSettings = Callable[[], Mapping[str, str]]
"""Returns what PostgreSQL shall know for the length of one transaction: name and value."""

UPKEEP: ContextVar[bool] = ContextVar("clearway_upkeep", default=False)
"""True where a connection is wanted for the pool's own sake, for no journey and no tenant."""

_REFUSED_BY_A_POOLER = "08P01"
_REFUSED_BY_THE_SERVER = frozenset({"42704", "22023"})
_NAME = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?", re.I)
_MARGIN = 2.0  # seconds after the server's own bound until we stop waiting for its answer
_TIMEOUTS = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "client_connection_check_interval",
)


class Terms:
    """The terms of one engine.

    Args:
        settings: The bounds.
        ours: The engine was made by us. One that the app made keeps the server's own bounds.

    Attributes:
        startup: What is sent with each connect, which costs no round trip.
        pooled: A pooler is in between: from one transaction to the next another backend may
            be behind a connection.
        transaction_settings: What the app wants to have set in each transaction; None: nothing.
    """

    def __init__(self, settings: DatabaseSettings, *, ours: bool, read_only: bool = False) -> None:
        self.startup: dict[str, str] = {}
        self.pooled = False
        self.transaction_settings: TransactionSettings | None = None
        self._with_begin: dict[str, str] = {}
        self._ours = ours
        self._connect = settings.connect_timeout
        self._statement = settings.statement_timeout
        self._lock = settings.lock_timeout
        if ours:
            seconds = ((name, getattr(settings, name)) for name in _TIMEOUTS)
            self.startup = {name: _milliseconds(value) for name, value in seconds if value}
            if read_only:
                self.startup["default_transaction_read_only"] = "on"

    def leave_out(self, state: str | None, said: str, sent: Collection[str] | None = None) -> bool:
        """Say whether a connect failed by one of our start-up parameters, which is now left out.

        A pooler knows only some (08P01): what it refuses is set with each BEGIN from now on. A
        server that does not know one (42704), or cannot do it (22023), goes without.

        Args:
            state: The SQLSTATE of the refusal.
            said: Its text, which names the parameter.
            sent: What that connect had sent; others may have left some of it out since.
        """
        if state != _REFUSED_BY_A_POOLER and state not in _REFUSED_BY_THE_SERVER:
            return False
        sent = list(self.startup if sent is None else sent)
        named = [name for name in sent if name in said]
        if not named and state == _REFUSED_BY_A_POOLER and "options" in said:
            named = sent  # psycopg sends them in one
        self.pooled |= bool(named) and state == _REFUSED_BY_A_POOLER
        for name in named:
            value = self.startup.pop(name, None)
            if value is None:
                continue
            if state == _REFUSED_BY_A_POOLER:
                self._with_begin[name] = value
                _log.warning("%s is set with each BEGIN: a pooler refuses it at the start", name)
            else:
                _log.warning("%s is left out, PostgreSQL refuses it: %s", name, said)
        return bool(named)

    def begin(self) -> str:
        """Return the SQL that rides on a BEGIN; mostly there is none."""
        journey = current_journey()
        deadline = None if journey is None or not self._ours else journey.deadline
        tenant = None if UPKEEP.get() else self.transaction_settings
        if deadline is None and not self._with_begin and tenant is None:
            return ""
        values = dict(self._with_begin)
        if deadline is not None:
            left = max(0.001, deadline.remaining())
            for name, bound in (
                ("statement_timeout", self._statement),
                ("lock_timeout", self._lock),
            ):
                if not bound or left < bound:
                    values[name] = _milliseconds(left)
        if tenant is not None:
            values.update(tenant())
        return "".join(_set_local(name, value) for name, value in values.items())

    @property
    def patience(self) -> float | None:
        """Seconds for which a BEGIN, COMMIT or ROLLBACK is waited for; None for ever.

        The server bounds them itself, by statement_timeout; this is for one that is frozen. No
        deadline makes it shorter: a COMMIT that nobody waits for any more has an unknown outcome.
        """
        return self._statement + _MARGIN if self._statement else None


def _set_local(name: str, value: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a PostgreSQL setting")
    if "\0" in value:
        raise ValueError(f"the value for {name} has a NUL byte in it")
    # E'' whatever standard_conforming_strings says.
    quoted = value.replace("\\", "\\\\").replace("'", "''")
    # As SET LOCAL does it, but a list (`search_path`) stays a list.
    return f"SELECT set_config('{name}', E'{quoted}', true);"


def _milliseconds(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"
