"""Test which application a command line means."""

from __future__ import annotations

from pathlib import Path

import pytest

from clearway.cli.discovery import Found, locate
from clearway.errors import AppNotFound


def test_a_module_and_attribute_are_taken_as_they_are(tmp_path: Path) -> None:
    """`module:attribute` needs no file to be looked at."""
    assert locate("shop.web:service", tmp_path) == Found("shop.web", "service", tmp_path)


def test_a_bare_module_leaves_the_attribute_open(tmp_path: Path) -> None:
    """`module` is looked into only when it is imported."""
    assert locate("shop", tmp_path) == Found("shop", None, tmp_path)


def test_a_file_in_a_package_is_imported_by_its_full_name(tmp_path: Path) -> None:
    """Relative imports in it work, because its package is known."""
    package = tmp_path / "src" / "shop"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "web.py").touch()
    expected = Found("shop.web", "app", tmp_path / "src")
    assert locate("src/shop/web.py:app", tmp_path) == expected


def test_pyproject_names_the_entry_point(tmp_path: Path) -> None:
    """What FastAPI's own command would run comes before the usual files."""
    (tmp_path / "main.py").touch()
    (tmp_path / "pyproject.toml").write_text('[tool.fastapi]\nentrypoint = "shop.web:app"\n')
    assert locate(None, tmp_path) == Found("shop.web", "app", tmp_path)


@pytest.mark.parametrize("file", ["main.py", "app.py", "api.py", "app/main.py"])
def test_the_usual_files_are_found(tmp_path: Path, file: str) -> None:
    """Nothing named and nothing configured: the file that is usual."""
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    assert locate(None, tmp_path).module == Path(file).stem


def test_nothing_to_choose_names_what_was_tried(tmp_path: Path) -> None:
    """The error lists the files that were looked for, and the fix."""
    with pytest.raises(AppNotFound, match=r"main\.py, app\.py, api\.py") as error:
        locate(None, tmp_path)
    assert "entrypoint" in error.value.fix


def test_a_broken_pyproject_is_named(tmp_path: Path) -> None:
    """A pyproject.toml that cannot be read is not passed over."""
    (tmp_path / "pyproject.toml").write_text("[tool.fastapi\n")
    with pytest.raises(AppNotFound, match=r"pyproject\.toml cannot be read"):
        locate(None, tmp_path)
