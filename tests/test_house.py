"""The house: floors, the public surface, what we touch of others, what needs no third party."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import clearway

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "clearway"
FILES = sorted(SOURCE.rglob("*.py"))

# From the ground up; a room imports only from floors below its own, never beside or above.
FLOORS = [
    {"errors"},
    {"settings"},
    {"core"},
    {"routing"},
    {"logs", "loop", "background", "outbound", "web", "db", "offload", "state"},
    {"report", "jobs"},
    {"app"},
    {"cli", "testing", "dev", "check"},
]
DEV_SERVES_CLI = ("cli", "dev")
"""`clearway dev` starts what `dev` holds: the one arrow between neighbours."""


def room_of(path: Path) -> str:
    """Return the room that a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> Iterator[str]:
    """Return every module that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "clearway":
                yield from (f"clearway.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_room_imports_only_from_the_floors_below(path: Path) -> None:
    """Nothing upward, nothing sideways, no circles."""
    room = room_of(path)
    floors = {name: level for level, names in enumerate(FLOORS) for name in names}
    if room in {"__init__", "__main__"}:
        return
    for module in imports_of(path):
        parts = module.split(".")
        if parts[0] != "clearway" or len(parts) == 1 or parts[1] in {room, "__version__"}:
            continue
        below = floors[parts[1]] < floors[room]
        assert below or (room, parts[1]) == DEV_SERVES_CLI, f"{room} imports {module}"


def test_core_imports_no_third_party() -> None:
    """The words of the design are plain Python."""
    for path in (SOURCE / "core").glob("*.py"):
        for module in imports_of(path):
            top = module.split(".")[0]
            assert top == "clearway" or top in sys.stdlib_module_names, f"{path.name}: {module}"


def test_the_public_surface_is_frozen() -> None:
    """Adding a public name is a decision, not an accident."""
    assert set(clearway.__all__) == {
        "AsyncReadSession",
        "Background",
        "Clearway",
        "ClearwayError",
        "DbSession",
        "Job",
        "JobContext",
        "HttpClient",
        "Journey",
        "ReadDbSession",
        "Settings",
        "after_commit",
        "cron",
        "current_journey",
        "get_logger",
        "job",
        "offload",
        "resource",
    }
    for name in clearway.__all__:
        assert getattr(clearway, name) is not None
    assert not hasattr(clearway, "no_such_name")


@pytest.mark.parametrize(
    ("missing", "name", "extra"),
    [("sqlalchemy", "DbSession", "db"),
     ("sqlalchemy", "job", "jobs"), ("cronsim", "cron", "jobs"),
     ("structlog", "get_logger", "logs"), ("orjson", "get_logger", "logs"),
     ("aiohttp", "HttpClient", "http")],
)  # fmt: skip
def test_a_missing_extra_is_named(missing: str, name: str, extra: str) -> None:
    """The one line works without the optional packages, and a name says which extra it needs."""
    code = f"""
import sys
sys.modules[{missing!r}] = None
import fastapi, clearway
clearway.Clearway(fastapi.FastAPI())
try:
    clearway.{name}
except ModuleNotFoundError as error:
    print(error)
"""
    output = python(code)

    assert f"{name} needs {missing}: pip install 'clearway[{extra}]'" in output


def test_the_line_alone_imports_no_optional_package() -> None:
    """An app that has neither sessions nor our logger pays for neither."""
    code = """
import sys, fastapi
app = fastapi.FastAPI()
before = set(sys.modules)
import clearway
clearway.Clearway(app)
optional = {
    "sqlalchemy", "asyncpg", "structlog", "orjson", "typer", "rich", "cronsim", "aiohttp",
}
print(sorted(optional & (set(sys.modules) - before)))
"""
    assert python(code).strip() == "[]"


def python(code: str) -> str:
    """Run code in a fresh interpreter and return what it wrote."""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return result.stdout + result.stderr


# What we touch of others

CALLS = {
    "signal.signal", "signal.set_wakeup_fd", "atexit.register", "os.register_at_fork",
    "loop.add_signal_handler", "structlog.configure", "logging.captureWarnings", "event.listen",
    "sys.settrace", "faulthandler.enable", "setattr",
}  # fmt: skip
MARK = re.compile(r"touchpoint: ([a-z0-9-]+)")


def our_names() -> set[str]:
    """Return every private name that our own source defines."""
    names: set[str] = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    names.add(name)
                case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name):
                    names.add(name)
                case ast.AnnAssign(target=ast.Name(id=name)) | ast.ClassDef(name=name):
                    names.add(name)
                case ast.Assign(targets=[ast.Name(id=name)]):
                    names.add(name)
                case ast.Constant(value=str(name)) if name.startswith("_"):
                    names.add(name)
    return names


def touches(path: Path, ours: set[str]) -> Iterator[tuple[int, str]]:
    """Return line and text of everything in a file that reaches into something not ours."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in CALLS:
            yield node.lineno, ast.unparse(node.func)
        elif isinstance(node, ast.Attribute) and node.attr == "__class__":
            if isinstance(node.ctx, ast.Store):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "os._exit":
            continue  # public, whatever its name looks like
        elif isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr):
            own = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
            if not own and node.attr not in ours:
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("clearway"):
            for alias in node.names:
                if alias.name.startswith("_"):
                    yield node.lineno, f"{node.module}.{alias.name}"


def marks() -> dict[str, list[tuple[Path, int]]]:
    """Return where each touchpoint is marked in the source."""
    found: dict[str, list[tuple[Path, int]]] = {}
    for path in FILES:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for slug in MARK.findall(line):
                found.setdefault(slug, []).append((path, number))
    return found


def block_around(path: Path, line: int) -> range:
    """Return the lines of the outermost function or class that holds a line, or just about it."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            if line in lines:
                return lines
    return range(line - 3, line + 2)


def test_everything_that_we_touch_is_marked() -> None:
    """A private name, a signal, a hook, a patched class: a mark stands in its block."""
    ours = our_names()
    marked = {place for places in marks().values() for place in places}
    unmarked = [
        f"{path.relative_to(ROOT)}:{line} {what}"
        for path in FILES
        for line, what in touches(path, ours)
        if not any((path, number) in marked for number in block_around(path, line))
    ]

    assert unmarked == []


def test_every_touchpoint_is_listed_with_its_reason() -> None:
    """docs/touchpoints.md and the source name the same ones."""
    text = (ROOT / "docs" / "touchpoints.md").read_text()
    listed = set(re.findall(r"^\| `([a-z0-9-]+)` \|", text, re.MULTILINE))

    assert listed == set(marks())
