"""What a test suite gets by `pytest_plugins = ["clearway.testing"]`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from starlette.testclient import TestClient

from clearway.app import Clearway
from clearway.errors import FixtureMissing
from clearway.testing.queries import assert_queries
from clearway.testing.rollback import rolled_back


@pytest.fixture
def clearway_road() -> Clearway:
    """Return the Clearway under test; each test suite defines its own."""
    raise FixtureMissing(
        "no fixture says which Clearway is tested",
        fix="define a fixture clearway_road in conftest.py that returns it",
    )


@pytest.fixture
def clearway_client(clearway_road: Clearway) -> Iterator[TestClient]:
    """Return a `TestClient` of the open application; what it stores is rolled back."""
    with TestClient(clearway_road.app) as client:
        assert client.portal is not None
        with client.portal.wrap_async_context_manager(rolled_back(clearway_road)):
            yield client


@pytest.fixture
def assert_query_budget() -> Callable[..., AbstractContextManager[None]]:
    """Return `assert_queries`."""
    return assert_queries
