"""Say why a worker process died."""

from __future__ import annotations

import signal
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def cause(code: int, out_of_memory: bool) -> str:
    """Return a phrase for an exit code.

    Args:
        code: As `subprocess` gives it: negative for a signal.
        out_of_memory: The kernel killed something in our cgroup for want of memory meanwhile.
    """
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if -code == signal.SIGKILL and out_of_memory:
        return "killed by the kernel (SIGKILL): the cgroup was out of memory"
    return f"killed by {name}"


def advice(code: int, out_of_memory: bool) -> str:
    """Return what to do about it."""
    if out_of_memory:
        return "raise the memory limit, lower offload.processes, or work on smaller pieces"
    if code == -signal.SIGKILL:
        return "look at the kernel's log for an out-of-memory kill, and for who sends SIGKILL"
    if code < 0:
        return "a C library crashed, most likely: PYTHONFAULTHANDLER=1 prints where"
    return "the function must not end its process: return, or raise an exception"


def oom_kills(memberships: Path = Path("/proc/self/cgroup"), root: Path = _CGROUPS) -> int:
    """Return how often the kernel has killed in our cgroup (v2), 0 where it cannot be told."""
    try:
        lines = memberships.read_text().splitlines()
        own = next(line[3:] for line in lines if line.startswith("0::"))
        events = (root / own.lstrip("/") / "memory.events").read_text()
        return int(dict(line.split() for line in events.splitlines())["oom_kill"])
    except (OSError, ValueError, KeyError, StopIteration):
        return 0
