"""Functions that the tests hand to threads and worker processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

_memory: list[int] = []


class Odd(Exception):
    """An exception that pickles and cannot be made again."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


class Clingy(Exception):
    """An exception that holds something that cannot be pickled."""

    def __init__(self) -> None:
        super().__init__(threading.Lock())


class Sum:
    """A class whose instances travel."""

    def __init__(self, start: int) -> None:
        self.start = start

    def plus(self, number: int) -> int:
        return self.start + number


class Grenade:
    """An object that cannot be unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return int, ("no number",)


def add(first: int, second: int = 0, *, third: int = 0) -> int:
    """Add two or three numbers."""
    return first + second + third


def fail(text: str) -> None:
    """Raise a ValueError."""
    raise ValueError(text)


def fail_oddly() -> None:
    """Raise what pickles and cannot be made again."""
    raise Odd(1, 2)


def fail_clingily() -> None:
    """Raise what cannot be pickled."""
    raise Clingy


def stop_iteration() -> None:
    """Raise StopIteration."""
    raise StopIteration("nothing more")


def leave(code: int) -> None:
    """Raise SystemExit."""
    sys.exit(code)


def vanish(code: int) -> None:
    """End the process at once."""
    os._exit(code)


def lock() -> object:
    """Return what cannot be pickled."""
    return threading.Lock()


def grenade() -> Grenade:
    """Return what cannot be unpickled."""
    return Grenade()


def promise() -> object:
    """Return a coroutine."""
    return asyncio.sleep(0)


async def coroutine() -> None:
    """Do nothing, asynchronously."""


def spin() -> None:
    """Stay in a loop for ever."""
    while True:
        pass


def count_in_c() -> int:
    """Stay in one C call that holds the GIL, for minutes."""
    return sum(range(1 << 42))


def nap(seconds: float, value: int = 0) -> int:
    """Sleep, then return a value."""
    time.sleep(seconds)
    return value


def wait_for(path: str) -> int:
    """Return the process id once a file is there."""
    while not os.path.exists(path):
        time.sleep(0.005)
    return os.getpid()


def announce_and_nap(path: str, seconds: float) -> None:
    """Write the process id to a file, then sleep."""
    announce(path, os.getpid())
    time.sleep(seconds)


def announce_and_spin(path: str) -> None:
    """Write the process id to a file, then stay in a loop for ever."""
    announce(path, os.getpid())
    spin()


def start_sleep_and_nap(path: str, seconds: float) -> None:
    """Start a grandchild, write its process id to a file, then sleep."""
    announce(path, subprocess.Popen(["sleep", "600"]).pid)
    time.sleep(seconds)


def fork_and_vanish(path: str) -> None:
    """Fork a process that holds every descriptor open, then die."""
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
    announce(path, pid)
    os.kill(os.getpid(), signal.SIGKILL)


def announce(path: str, number: int) -> None:
    """Write a number to a file that appears complete."""
    Path(path + ".new").write_text(str(number))
    os.replace(path + ".new", path)


def remember(number: int) -> list[int]:
    """Return the numbers of all calls in this process."""
    _memory.append(number)
    return list(_memory)


def set_up(number: int) -> None:
    """Remember a number, as an initializer."""
    remember(number)


def fail_to_set_up() -> None:
    """Fail as an initializer."""
    raise RuntimeError("no set-up today")


def append_line(path: str) -> int:
    """Leave a trace that shows how often it was called."""
    with open(path, "a", encoding="ascii") as file:
        file.write("called\n")
    return os.getpid()


def modules() -> list[str]:
    """Return the names of the imported modules."""
    return sorted(sys.modules)


def niceness() -> int:
    """Return the niceness of this process."""
    return os.nice(0)


def path_of_python() -> list[str]:
    """Return the import path."""
    return list(sys.path)


def journey_of_the_call() -> tuple[str, str | None, bool] | None:
    """Return id, route and presence of a deadline of the current journey."""
    from clearway.core.journey import current_journey

    journey = current_journey()
    if journey is None:
        return None
    return journey.id, journey.route, journey.deadline is not None


def double(data: bytes) -> bytes:
    """Return the data twice."""
    return data + data


def echo(item: object) -> object:
    """Return what was given."""
    return item
