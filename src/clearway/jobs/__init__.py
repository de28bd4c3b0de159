"""Durable work: jobs enqueued in the caller's transaction, and the workers that run them."""

from clearway.jobs.context import JobContext
from clearway.jobs.declare import cron, job
from clearway.jobs.job import Job

__all__ = ["Job", "JobContext", "cron", "job"]
