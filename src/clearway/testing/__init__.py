"""Tests of a service: each in a transaction that rolls back, with a budget of queries.

In `conftest.py`: `pytest_plugins = ["clearway.testing"]`. Nothing is loaded by itself.

PYTEST_DONT_REWRITE: a conftest may import it before pytest knows that it is a plugin.
"""

from clearway.testing.fixtures import assert_query_budget, clearway_client, clearway_road
from clearway.testing.jobs import EnqueuedJob, enqueued
from clearway.testing.lifespan import opened
from clearway.testing.queries import QueryBudgetExceeded, assert_queries
from clearway.testing.rollback import rolled_back

__all__ = [
    "EnqueuedJob",
    "QueryBudgetExceeded",
    "assert_queries",
    "assert_query_budget",
    "clearway_client",
    "clearway_road",
    "enqueued",
    "opened",
    "rolled_back",
]
