"""Find the application that a command line means, and import it."""

from __future__ import annotations

import importlib
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from clearway.errors import AppNotFound

_FILES = ("main.py", "app.py", "api.py", "app/main.py", "app/app.py", "app/api.py")
_NAMES = ("app", "api")
_FACTORIES = ("create_app", "make_app")
_FIX = "name it: `clearway run main:app`, or set `[tool.fastapi] entrypoint` in pyproject.toml"


@dataclass(frozen=True, slots=True)
class Found:
    """Where an application is.

    Attributes:
        module: Dotted name of its module.
        attribute: Its name in there; None if it is still to be found.
        folder: What must be on `sys.path` to import the module.
    """

    module: str
    attribute: str | None
    folder: Path


def locate(target: str | None, folder: Path) -> Found:
    """Return where the application is, without importing anything.

    Args:
        target: `module:attribute`, `module`, `path/file.py:attribute`, `path/file.py`, or None
            for what pyproject.toml names, else the first file that is usual.
        folder: Where modules and paths begin.

    Raises:
        AppNotFound: There is no such file, or nothing to choose.
    """
    target = target or _entrypoint(folder) or _usual_file(folder)
    place, _, attribute = target.partition(":")
    if place.endswith(".py") or "/" in place:
        return _from_file(folder / place, attribute or None)
    return Found(place, attribute or None, folder)


def load(found: Found, *, factory: bool = False) -> object:
    """Import and return an application.

    Args:
        found: What `locate` returned.
        factory: It is a function that makes the application; it is not called here.

    Raises:
        AppNotFound: The module does not exist, or has no such application.
        Exception: Whatever importing the module raises.
    """
    if str(found.folder) not in sys.path:
        sys.path.insert(0, str(found.folder))
    module = _import(found)
    names = (_FACTORIES + _NAMES) if factory else _NAMES
    for name in (found.attribute,) if found.attribute else names:
        value: object = module
        for part in name.split("."):
            value = getattr(value, part, None)
        if callable(value):
            return value
    wanted = found.attribute or " or ".join(names)
    raise AppNotFound(
        f"module {found.module!r} ({module.__file__}) has no application named {wanted}",
        fix=f"write its name after a colon: `clearway run {found.module}:NAME`",
    )


def _import(found: Found) -> ModuleType:
    try:
        return importlib.import_module(found.module)
    except ModuleNotFoundError as error:
        parents = found.module.split(".")
        if error.name not in {".".join(parents[: n + 1]) for n in range(len(parents))}:
            raise  # the module is there; what it imports is not
        raise AppNotFound(
            f"there is no module {found.module!r} below {found.folder} or among what is installed",
            fix=f"{_FIX}; `--app-dir` says where modules begin",
        ) from None


def _entrypoint(folder: Path) -> str | None:
    """Return what FastAPI's own command line would run from pyproject.toml."""
    file = folder / "pyproject.toml"
    if not file.is_file():
        return None
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise AppNotFound(f"{file} cannot be read: {error}", fix=_FIX) from None
    entrypoint = tables.get("tool", {}).get("fastapi", {}).get("entrypoint")
    return entrypoint if isinstance(entrypoint, str) else None


def _usual_file(folder: Path) -> str:
    for name in _FILES:
        if (folder / name).is_file():
            return name
    raise AppNotFound(
        f"no application was named, and {folder} has none of {', '.join(_FILES)}", fix=_FIX
    )


def _from_file(file: Path, attribute: str | None) -> Found:
    if not file.is_file():
        raise AppNotFound(f"there is no file {file}", fix=_FIX)
    file = file.resolve()
    parts = [] if file.name == "__init__.py" else [file.stem]
    folder = file.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return Found(".".join(parts), attribute, folder)
