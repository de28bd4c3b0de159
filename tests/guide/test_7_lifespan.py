"""Recipe 7, `app.state.model = load_model()` in the lifespan, and one that fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from support.guide import Recipe, observed
from support.process import TESTS, free_port

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def recipe(tmp_path: Path, marks: Path) -> Recipe:
    """Return the recipe with a model and its file of marks."""
    model = tmp_path / "model"
    model.write_text("cat")
    return Recipe("lifespan", MODEL=str(model), MARKS=str(marks))


def start_without_model(recipe: Recipe, way: str) -> str:
    """Start the service while the model is away, and return what it says before it ends."""
    os.unlink(recipe.env["MODEL"])
    result = subprocess.run(
        [sys.executable, "-m", "uvicorn", recipe.app(way), "--port", str(free_port())],
        env={**os.environ, **recipe.env, "RECIPE": recipe.name, "PYTHONPATH": str(TESTS)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 3, "uvicorn's code for a start that failed"
    return result.stderr


def test_the_recipe_leaves_the_first_open_when_the_second_fails(
    recipe: Recipe, marks: Path
) -> None:
    """The client is open, the model is not: a bare error, and nobody closes the client."""
    said = start_without_model(recipe, "before")

    assert "FileNotFoundError: [Errno 2] No such file" in said
    assert "CW" not in said
    assert marks.read_text().splitlines() == ["client opened"]


def test_the_line_alone_adds_probes_and_fails_as_before(recipe: Recipe, marks: Path) -> None:
    """`/livez` and `/readyz` answer where the app did not; the app's own lifespan is the app's."""
    observed(recipe, "GET /classify", "GET /missing")
    probes = ("/livez", "/readyz")
    with recipe.served("before") as service:
        assert [httpx2.get(service.url + path).status_code for path in probes] == [404, 404]
    with recipe.served("observed") as service:
        assert [httpx2.get(service.url + path).status_code for path in probes] == [200, 200]
    marks.write_text("")

    said = start_without_model(recipe, "observed")

    assert "FileNotFoundError: [Errno 2] No such file" in said
    assert "CW" not in said
    assert marks.read_text().splitlines() == ["client opened"]


def test_with_resources_the_one_that_fails_is_named_and_the_other_closed(
    recipe: Recipe, marks: Path
) -> None:
    """It says which, why and who needed it; what was open is closed, at the failed start too."""
    with recipe.served("after") as service:
        assert httpx2.get(f"{service.url}/classify").json() == "a cat"
        service.stop()
    assert marks.read_text().splitlines() == ["client opened", "client closed"]
    marks.write_text("")

    said = start_without_model(recipe, "after")

    assert "[CW106] resource apps.guide.after.lifespan:model could not be opened" in said
    assert "needed by" in said
    assert marks.read_text().splitlines() == ["client opened", "client closed"]
