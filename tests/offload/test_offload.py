"""The public names: `offload.thread` and `offload.process`."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import assert_type

import pytest

from clearway import offload
from clearway.core.parts import Parts
from clearway.errors import NotOpen
from clearway.offload.processes import Processes
from clearway.offload.threads import Threads
from clearway.settings import OffloadSettings
from offload import errands

pytestmark = pytest.mark.anyio


@pytest.fixture
async def parts(anyio_backend: object) -> AsyncIterator[Parts]:
    """Open both lanes the way an application does."""
    settings = OffloadSettings(threads=2, processes=1, nice=0)
    parts = Parts(None)
    await parts.open(Threads(settings))
    await parts.open(Processes(settings))
    yield parts
    await parts.close()


async def test_both_names_find_their_open_part(parts: Parts) -> None:
    """A call goes through the lane of the open Clearway and keeps the type of its result."""
    assert_type(await offload.thread(errands.add, 1, 2), int)
    assert_type(await offload.process(errands.add, 1, 2, timeout=30), int)
    assert_type(await offload.process(errands.double, b"x"), bytes)
    assert_type(await offload.thread(functools.partial(errands.add, third=1), 1), int)
    assert await offload.thread(threading.get_ident) != threading.get_ident()
    assert await offload.process(os.getpid) != os.getpid()
    threads, processes = parts.get(Threads), parts.get(Processes)
    assert threads is not None
    assert processes is not None
    assert threads.lane.snapshot().admitted == 3
    assert processes.lane.snapshot().admitted == 3


async def test_wrong_arguments_are_type_errors(parts: Parts) -> None:
    """A wrong argument is refused by the type checker, and at run time by the function."""
    with pytest.raises(TypeError):
        await offload.thread(errands.nap, "long")  # type: ignore[arg-type]  # what is tested
    with pytest.raises(TypeError):
        await offload.process(errands.spin, 1)  # type: ignore[arg-type]  # what is tested


async def test_without_an_open_clearway_both_say_so() -> None:
    """Used while nothing is open, each name says that it was it and how to open."""
    with pytest.raises(NotOpen, match=r"offload\.thread(.|\n)*TestClient"):
        await offload.thread(errands.add, 1)
    with pytest.raises(NotOpen, match=r"offload\.process(.|\n)*TestClient"):
        await offload.process(errands.add, 1)


_SCRIPT = """
import asyncio
import os
from clearway.errors import NotPicklable
from clearway.offload.processes import Processes
from clearway.settings import OffloadSettings

class Box:
    def __init__(self, content):
        self.content = content

def wrap(box):
    return Box((box.content, os.getpid()))

async def main():
    part = Processes(OffloadSettings(processes=1, nice=0))
    await part.open()
    try:
        result = await part.run(wrap, Box(5), timeout=20)
        assert type(result) is Box, type(result)
        assert result.content[0] == 5 and result.content[1] != os.getpid()
        print("travelled")
    except Exception as error:
        print(type(error).__name__, error)
    await part.close()

GUARD
"""


def _python(*args: str, text: str | None = None, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *args],
        input=text,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout


def test_functions_of_a_script_travel(tmp_path: Path) -> None:
    """Functions and classes of `python app.py` and `python -m app` work, arguments and result."""
    guarded = _SCRIPT.replace("GUARD", 'if __name__ == "__main__":\n    asyncio.run(main())')
    (tmp_path / "app.py").write_text(guarded)
    assert _python("app.py", folder=tmp_path) == "travelled\n"
    assert _python("-m", "app", folder=tmp_path) == "travelled\n"


def test_functions_without_a_file_are_refused(tmp_path: Path) -> None:
    """A function that was piped in or typed in is refused with the way out."""
    script = _SCRIPT.replace("GUARD", "asyncio.run(main())")
    said = _python("-", text=script, folder=tmp_path)
    assert "NotPicklable" in said
    assert "put it into a module" in said


def test_a_script_without_a_guard_says_so(tmp_path: Path) -> None:
    """A script that starts its service when it is imported is named as what is wrong."""
    script = _SCRIPT.replace("GUARD", "import sys\nasyncio.run(main())\nsys.exit(0)")
    (tmp_path / "app.py").write_text(script)
    assert "if __name__ == '__main__':" in _python("app.py", folder=tmp_path)
