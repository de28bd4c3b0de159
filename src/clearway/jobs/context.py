"""What a job may know of itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class JobContext:
    """One run of a job; a body that takes `context: JobContext` gets it.

    Attributes:
        id: The job's number, the same in every attempt: a key for effects elsewhere.
        name: The function, as `module:qualname`.
        queue: The queue that it came by.
        attempt: Which attempt this is, from 1.
        last_attempt: No other follows by itself if this one fails.
        enqueued_at: When the job was enqueued.
        request_id: The id of the request that enqueued it, None where there was none.
    """

    id: int
    name: str
    queue: str
    attempt: int
    last_attempt: bool
    enqueued_at: datetime
    request_id: str | None
