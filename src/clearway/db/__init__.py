"""Sessions that commit before the answer, on a pool that is bounded, fair and watched."""

from clearway.db.bulk import copy_csv, copy_rows
from clearway.db.database import Database, DbSession, ReadDbSession
from clearway.db.hooks import after_commit
from clearway.db.reading import AsyncReadSession

__all__ = [
    "AsyncReadSession",
    "Database",
    "DbSession",
    "ReadDbSession",
    "after_commit",
    "copy_csv",
    "copy_rows",
]
