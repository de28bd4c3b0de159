"""Sessions that commit before the answer, on a pool that is bounded, fair and watched."""

from clearway.db.database import Database, DbSession, ReadDbSession
from clearway.db.session import AsyncReadSession

__all__ = ["AsyncReadSession", "Database", "DbSession", "ReadDbSession"]
