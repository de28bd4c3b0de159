"""Recipe 6, `delay(...)` for heavy work: what was accepted, and what is done.

`apps/guide/before/queue.py` says why its queue stands for Celery's and Arq's.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import httpx2
import pytest

from apps.guide.work import gate
from support.guide import Recipe, names, observed, query
from support.worker import Works

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.fixture
def works(table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Works:
    """Return the database and the file of marks, as workers take them."""
    works = Works(table, tmp_path)
    monkeypatch.setenv("MARKS", str(works.marks))
    return works


@pytest.fixture
def recipe(app_url: str, works: Works) -> Recipe:
    """Return the recipe with its database and its file of marks."""
    return Recipe("queue", DATABASE_URL=app_url, MARKS=str(works.marks))


def ordered(recipe: Recipe, way: str, *paths: str) -> list[int]:
    """Order invoices, kill the service once it has answered, and return the statuses."""
    with recipe.served(way) as service:
        statuses = [httpx2.post(f"{service.url}/invoices/{path}").status_code for path in paths]
        service.stop(signal.SIGKILL)
    return statuses


async def test_the_recipe_works_for_nothing_and_forgets(
    recipe: Recipe, table: str, works: Works
) -> None:
    """A 409 that was rolled back is worked on; a 201 is forgotten by kill -9 and a restart."""
    with recipe.served("before") as service:
        refused = httpx2.post(f"{service.url}/invoices/refused", params={"credit": False})
        assert works.comes("begun refused")
        accepted = httpx2.post(f"{service.url}/invoices/accepted")
        service.stop(signal.SIGKILL)
    assert (refused.status_code, accepted.status_code) == (409, 201)

    gate().touch()
    with recipe.served("before") as service:
        assert httpx2.post(f"{service.url}/invoices/later").status_code == 201
        assert works.comes("drawn later")
    assert works.seen("drawn") == ["drawn later"]
    assert "refused" not in await names(table)


async def test_the_line_alone_knows_of_no_queue_and_adds_no_table(
    recipe: Recipe, table: str, works: Works
) -> None:
    """Answers are what they were, a rolled-back order is begun as before, no schema appears."""
    gate().touch()
    lanes = observed(recipe, "GET /invoices/a", "POST /invoices/a?credit=x")
    with recipe.served("observed") as service:
        refused = httpx2.post(f"{service.url}/invoices/refused", params={"credit": False})
        assert works.comes("drawn refused")
    assert refused.status_code == 409
    assert "jobs" not in lanes
    assert await query(table, "select 1 from pg_namespace where nspname = 'clearway'") == []


async def test_with_a_job_what_was_accepted_is_done_and_nothing_else(
    recipe: Recipe, table: str, works: Works
) -> None:
    """The service is killed, then a worker in mid-job: the next one does it; a 409 has no job."""
    statuses = ordered(recipe, "after", "refused?credit=false", "accepted")
    assert statuses == [409, 201]
    assert await names(table) == ["accepted"]

    lease = {"CLEARWAY_JOBS__LEASE": "1", "CLEARWAY_JOBS__POLL": "0.1"}
    with works.worker(app=recipe.app("after"), **lease) as worker:
        assert await asyncio.to_thread(works.comes, "begun accepted")
        worker.signal(signal.SIGKILL)
        worker.process.wait(10)
    assert works.seen("drawn") == []
    gate().touch()
    with works.worker(app=recipe.app("after"), **lease):
        assert await asyncio.to_thread(works.comes, "drawn accepted")
        assert await works.settled()
    assert works.seen("drawn") == ["drawn accepted"]
    assert works.seen("begun refused") == []
