"""Recipe 5, `BackgroundTasks.add_task(send_email, ...)`: when it runs, and when one fails."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from apps.guide.work import gate
from support.guide import Recipe, commits_late, names, observed
from support.pipes import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.fixture
def recipe(app_url: str, marks: Path) -> Recipe:
    """Return the recipe with its database and its file of marks."""
    return Recipe("background", DATABASE_URL=app_url, MARKS=str(marks))


def welcomed(recipe: Recipe, way: str, *paths: str) -> list[int]:
    """Make the requests, end the service as a deploy does, and return the statuses."""
    with recipe.served(way) as service:
        statuses = [httpx2.post(f"{service.url}{path}").status_code for path in paths]
        service.stop()
    return statuses


@commits_late
async def test_the_recipe_mails_about_rows_that_are_not_stored(
    recipe: Recipe, table: str, marks: Path
) -> None:
    """The mail goes out before COMMIT, which then fails; a failing task takes the next along."""
    statuses = welcomed(recipe, "before", "/people/ada?parent=4711", "/people/unreachable")

    assert statuses == [201, 201]
    assert "ada" not in await names(table)
    assert marks.read_text().splitlines() == ["mail to ada", "counted ada"]


async def test_the_line_alone_shows_that_the_request_goes_on_after_its_answer(
    recipe: Recipe, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks run as they did; until the last has ended, the request is in the lane `requests`."""
    observed(recipe, "GET /people/ada", "POST /people/ada?parent=x")

    monkeypatch.setenv("MARKS", str(marks))
    with recipe.served("observed") as service:

        def in_use() -> int:
            in_use: int = httpx2.get(f"{service.url}/lanes").json()["requests"]["in_use"]
            return in_use

        assert httpx2.post(f"{service.url}/slow").status_code == 202
        assert in_use() == 2, "this look at the lanes, and the one that has its answer"
        gate().touch()
        assert eventually(lambda: in_use() == 1)


async def test_with_background_a_task_follows_the_commit_and_stands_for_itself(
    recipe: Recipe, table: str, marks: Path
) -> None:
    """No row, no mail; a failing task skips no other; a deploy waits for what is under way."""
    statuses = welcomed(recipe, "after", "/people/ada?parent=4711", "/people/unreachable")

    assert statuses == [500, 201]
    assert await names(table) == ["unreachable"]
    assert marks.read_text().splitlines() == ["counted unreachable"]
