"""Say what a database error means, by SQLSTATE and by whether the connection died.

The driver's exception classes say little: a statement timeout is an `OperationalError` under
psycopg and a bare `DBAPIError` under asyncpg, and a connect may raise either or an `OSError`.
Codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError

from clearway.errors import (
    CommitConflict,
    CommitFailed,
    CommitUnknown,
    CommitWasRollback,
    DatabaseDown,
    DatabaseRefused,
    ServerFull,
)

SERVER_FULL = frozenset({"53300"})
STARTING_OR_STOPPING = frozenset({"57P01", "57P02", "57P03"})
PARAMETER_REFUSED = frozenset({"08P01", "42704", "22023"})
CONFLICT = frozenset({"40001", "40P01"})
IN_FAILED_TRANSACTION = "25P02"

# libpq keeps the SQLSTATE of a failed connect to itself; only the text tells. A server that
# speaks another language counts as one that cannot be reached.
_NO_CONNECTION = "08006"
_REFUSALS = {
    "53300": ("too many clients", "remaining connection slots", "too many connections for"),
    "57P03": (
        "is starting up",
        "is shutting down",
        "in recovery mode",
        "not accepting connections",
    ),
    "08P01": ("unsupported startup parameter",),
    "42704": ("unrecognized configuration parameter",),
    "22023": ("invalid value for parameter",),
    "28P01": ("password authentication failed",),
    "28000": ("no pg_hba.conf entry", "role "),
    "3D000": ("database ",),
}


def sqlstate(error: BaseException) -> str | None:
    """Return the five characters that PostgreSQL gave, None where it gave none."""
    origin = getattr(error, "orig", None) or error
    state = getattr(origin, "sqlstate", None)
    return state if isinstance(state, str) else None


def state_in_text(error: BaseException) -> str:
    """Return the SQLSTATE that the text of a failed connect stands for, over libpq."""
    said = str(error)
    for state, texts in _REFUSALS.items():
        if any(text in said for text in texts):
            return state
    return _NO_CONNECTION


def connection_lost(error: BaseException) -> bool:
    """Say whether the connection died with this error, so that nobody knows what was done."""
    if isinstance(error, DBAPIError):
        return bool(error.connection_invalidated)
    return isinstance(error, OSError)  # a TimeoutError is one


def left_in_doubt(error: BaseException) -> bool:
    """Say whether an answer may still be on its way, so that the connection is of no more use."""
    return isinstance(error, TimeoutError)


def connect_error(error: Exception, where: str, state: str | None) -> Exception:
    """Return what a failed connect means; an error that is none of the database's comes back.

    Args:
        error: What the driver raised.
        where: The address, without a password, for the message.
        state: The SQLSTATE that the server gave, None where there was none.
    """
    reason = _reason(error)
    if state in SERVER_FULL:
        return ServerFull(
            f"PostgreSQL at {where} accepts no more connections: {reason}",
            fix="lower database.pool_size or the number of processes, or raise max_connections",
            retry_after=2,
        )
    if state in PARAMETER_REFUSED:
        return DatabaseRefused(
            f"PostgreSQL at {where} refused a start-up parameter: {reason}",
            fix="a pooler or an old server? set the database.*_timeout that it names, or "
            "database.client_connection_check_interval, to 0 so that it is not sent",
        )
    if _unreachable(error, state):
        return DatabaseDown(
            f"PostgreSQL at {where} cannot be reached: {reason}",
            fix="check that the server runs and that host and port in the URL are right",
            retry_after=2,
        )
    if state is not None:
        return DatabaseRefused(
            f"PostgreSQL at {where} refused the connection ({state}): {reason}",
            fix="check user, password and database name in the URL",
        )
    return error


def _unreachable(error: Exception, state: str | None) -> bool:
    if state is not None:
        return state in STARTING_OR_STOPPING or state.startswith("08")
    return isinstance(error, (OSError, DBAPIError))


def commit_error(error: Exception, *, sent: bool) -> CommitFailed:
    """Return what an error at the end of a unit of work means.

    Args:
        error: What the flush or the COMMIT raised.
        sent: COMMIT itself had been sent, so that a lost connection leaves its outcome open.
    """
    state = sqlstate(error)
    reason = _reason(error)
    if state in CONFLICT:
        return CommitConflict(
            f"the transaction met a conflict ({state}): {reason}",
            fix="send the request again",
            retry_after=1,
        )
    if state == IN_FAILED_TRANSACTION:
        return CommitWasRollback(
            "PostgreSQL answered ROLLBACK to COMMIT: nothing was stored",
            fix="a statement failed and its exception was swallowed; wrap what may fail in "
            "`async with session.begin_nested()`, or let the exception through",
        )
    if sent and connection_lost(error):
        return CommitUnknown(
            f"the connection was lost during COMMIT, the outcome is unknown: {reason}",
            fix="look before you repeat it, or make it repeatable with a key of your own",
        )
    return CommitFailed(
        f"the transaction could not be committed and nothing was stored: {reason}",
        fix="meet the error in the handler, where it can be answered: flush there, and for "
        "deferred constraints run SET CONSTRAINTS ALL IMMEDIATE",
    )


def _reason(error: Exception) -> str:
    """Return what the driver said. SQLAlchemy's own text would show the parameters."""
    return str(getattr(error, "orig", None) or error) or type(error).__name__
