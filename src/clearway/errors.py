"""What can go wrong, one class for each situation.

Every error says what happened, where, and the fix; its code is stable and leads to a page:
`clearway explain CW201` prints it, and `errors.md` beside this file holds them all.
"""

from __future__ import annotations

from typing import ClassVar


class ClearwayError(Exception):
    """Root of every error that Clearway raises.

    Args:
        what: One sentence: what happened, and where.
        fix: What to do about it; empty where nothing can be advised.
        retry_after: Seconds after which the caller may try again, for `Retry-After`.
    """

    code: ClassVar[str] = "CW000"
    title: ClassVar[str] = "Clearway error"
    status: ClassVar[int] = 500

    def __init__(self, what: str, *, fix: str = "", retry_after: float | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix
        self.retry_after = retry_after

    def __str__(self) -> str:
        fix = f"\n  fix: {self.fix}" if self.fix else ""
        return f"[{self.code}] {self.what}{fix}\n  more: clearway explain {self.code}"


# At the start


class StartError(ClearwayError):
    """The service must not start like this."""


class SettingsInvalid(StartError):
    """A setting is unknown, out of its bounds, or cannot be read."""

    code, title = "CW101", "A setting cannot be used"


class AlreadyStarted(StartError):
    """`Clearway(app)` came after the application had served its first request."""

    code, title = "CW102", "Clearway came after the start"


class NotOpen(ClearwayError):
    """A name was used while no Clearway was open."""

    code, title = "CW103", "Clearway is not open"


class SeveralOpen(ClearwayError):
    """A name was used outside a request while two Clearways were open."""

    code, title = "CW104", "Two Clearways are open"


class AppNotFound(StartError):
    """The command line names an application that cannot be imported."""

    code, title = "CW105", "The application cannot be found"


class ResourceFailed(StartError):
    """A resource raised while it opened, or did not open in time."""

    code, title = "CW106", "A resource could not be opened"


class ResourceInvalid(StartError, TypeError):
    """A resource is declared in a way that cannot work."""

    code, title = "CW107", "A resource cannot be declared like this"


class DatabaseUrlMissing(StartError):
    """A route needs the database and no URL or engine was given."""

    code, title = "CW201", "No database URL"


class DatabaseUrlInvalid(StartError):
    """The database URL cannot be understood."""

    code, title = "CW202", "The database URL cannot be used"


class AsyncSessionInThread(StartError):
    """A `def` endpoint takes an asynchronous session."""

    code, title = "CW203", "A `def` endpoint takes an async session"


class SessionClassInvalid(StartError):
    """The class of sessions that the settings name cannot be used."""

    code, title = "CW204", "The session class cannot be used"


class EngineTwice(StartError):
    """An engine was adopted twice, or two by one name."""

    code, title = "CW205", "An engine was adopted twice"


class OverBudget(StartError):
    """The processes of this service want more connections than the server has left."""

    code, title = "CW206", "Over the connection budget"


class MigrationBusy(ClearwayError):
    """Another process migrates the database, and did not end in time."""

    code, title = "CW207", "Another process migrates the database"


class MigrationBlocked(ClearwayError):
    """A migration did not get a lock in time."""

    code, title = "CW208", "A migration did not get a lock"


# While waiting in a lane


class LaneBusy(ClearwayError):
    """A lane was full, or the wait in it reached its limit."""

    code, title, status = "CW301", "Too busy", 503


class DeadlineExceeded(ClearwayError):
    """The journey's deadline passed before the work was done."""

    code, title, status = "CW302", "The deadline has passed", 504


# The database


class PoolBusy(LaneBusy):
    """Every connection of this process's pool is in use."""

    code, title = "CW211", "The connection pool is busy"


class ServerFull(ClearwayError):
    """PostgreSQL accepts no more connections (SQLSTATE 53300)."""

    code, title, status = "CW212", "The database server is full", 503


class DatabaseDown(ClearwayError):
    """PostgreSQL cannot be reached, or it is starting up or shutting down."""

    code, title, status = "CW213", "The database cannot be reached", 503


class DatabaseRefused(ClearwayError):
    """PostgreSQL answered and refused these credentials or this database."""

    code, title, status = "CW214", "The database refused the connection", 500


class CommitFailed(ClearwayError):
    """COMMIT failed; its children say how, and `CommitUnknown` alone leaves it open."""

    code, title, status = "CW221", "The transaction could not be committed", 500


class CommitConflict(CommitFailed):
    """COMMIT met a serialisation conflict or a deadlock; the same request may succeed now."""

    code, title, status = "CW222", "The transaction met a conflict", 409


class CommitWasRollback(CommitFailed):
    """PostgreSQL answered ROLLBACK to COMMIT: a statement had failed and was swallowed."""

    code, title = "CW223", "COMMIT was answered by ROLLBACK"


class CommitUnknown(CommitFailed):
    """The connection was lost during COMMIT: the outcome is unknown."""

    code, title = "CW224", "The outcome of COMMIT is unknown"


class ReadOnlySession(ClearwayError):
    """A read session was asked to write."""

    code, title = "CW231", "A read session cannot write"


class SessionShared(ClearwayError):
    """Two tasks used one session at the same time."""

    code, title = "CW232", "Two tasks use one session"


class SessionEnded(ClearwayError):
    """A session was used after its unit of work had ended."""

    code, title = "CW233", "The session has ended"


class SessionUnknown(ClearwayError):
    """Something was asked of a session that Clearway has not made."""

    code, title = "CW234", "A session that is not ours"


class CopyInvalid(ClearwayError):
    """A COPY was asked for that cannot store what is meant."""

    code, title = "CW241", "The rows cannot be copied like this"


# Off the loop


class CallTimedOut(ClearwayError):
    """A call handed to a thread or a process took longer than its timeout."""

    code, title, status = "CW401", "The call took too long", 504


class WorkerKilled(ClearwayError):
    """The process that ran the call died; only this call is lost."""

    code, title = "CW402", "A worker process died"


class WorkerUnfit(ClearwayError):
    """A worker process could not be started or made ready."""

    code, title = "CW403", "A worker process could not start"


class NotPicklable(ClearwayError):
    """A function, argument or result cannot travel to another process."""

    code, title = "CW404", "This cannot travel to another process"


class CallRaised(ClearwayError):
    """A call off the loop raised something that cannot be raised here as it is."""

    code, title = "CW405", "A call raised what cannot be passed on"


class AsyncFunctionRefused(ClearwayError, TypeError):
    """An `async def` function was handed to a thread or a process."""

    code, title = "CW406", "An async function cannot be handed over"


# Logs


class LogTargetUnusable(StartError):
    """The place that the logs should go to cannot be written."""

    code, title = "CW501", "The log target cannot be used"


# Jobs


class JobArgumentsInvalid(ClearwayError):
    """What a job was given does not fit its parameters; it was not enqueued."""

    code, title = "CW701", "A job's arguments do not fit"


class JobDeclarationInvalid(StartError):
    """A function cannot be a job as it is declared."""

    code, title = "CW702", "This cannot be a job"


class StoreUnfit(StartError):
    """The tables of jobs are missing or of another version, and could not be made."""

    code, title = "CW703", "The tables of jobs cannot be used"


class LeaseLost(ClearwayError):
    """A worker was away for longer than its lease; what it would have written is refused."""

    code, title = "CW704", "The lease of a job was lost"


class NoSuchJob(ClearwayError):
    """The command line names a job or a schedule that is not there."""

    code, title = "CW705", "There is no such job"


# Development


class EmbeddedPostgresFailed(StartError):
    """The embedded PostgreSQL could not be started."""

    code, title = "CW601", "The embedded PostgreSQL did not start"


# Calls to other services


class OutboundBusy(LaneBusy):
    """As many calls to other services are on their way as this process allows."""

    code, title = "CW801", "Too many calls to other services"


# Tests


class ConnectionShared(ClearwayError):
    """Two units of work wanted the one connection of a test at the same time."""

    code, title = "CW901", "Two at once on a test's connection"


class FixtureMissing(ClearwayError):
    """A fixture of `clearway.testing` needs one that the test suite does not define."""

    code, title = "CW902", "A fixture is missing"


class LifespanFailed(ClearwayError):
    """The application's lifespan failed when a test opened it."""

    code, title = "CW903", "The application did not start in a test"
