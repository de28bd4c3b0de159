"""Why a worker process died."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clearway.offload.obituary import advice, cause, oom_kills


@pytest.mark.parametrize(
    ("end", "says", "advises"),
    [
        ("os._exit(3)", "exit code 3", "must not end its process"),
        ("os.kill(os.getpid(), 9)", "SIGKILL", "kernel's log"),
        ("os.abort()", "SIGABRT", "PYTHONFAULTHANDLER"),
    ],
)
def test_the_cause_is_named(end: str, says: str, advises: str) -> None:
    """The exit code of a real process becomes its signal or number, and what to do."""
    code = subprocess.run([sys.executable, "-c", f"import os; {end}"], check=False).returncode
    assert says in cause(code, False)
    assert advises in advice(code, False)


def test_out_of_memory_is_named() -> None:
    """SIGKILL while the cgroup's counter rose is the kernel's, for want of memory."""
    assert "out of memory" in cause(-9, True)
    assert "memory limit" in advice(-9, True)
    assert "out of memory" not in cause(-11, True)


def test_the_cgroups_counter_is_read(tmp_path: Path) -> None:
    """The counter is that of this process's own cgroup (v2)."""
    (tmp_path / "cgroup").write_text("4:memory:/old\n0::/pod/app\n")
    (tmp_path / "pod" / "app").mkdir(parents=True)
    events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"
    (tmp_path / "pod" / "app" / "memory.events").write_text(events)
    assert oom_kills(tmp_path / "cgroup", tmp_path) == 2


def test_no_counter_is_zero(tmp_path: Path) -> None:
    """Where there is no cgroup v2, or no /proc, nothing is claimed."""
    assert oom_kills(tmp_path / "missing", tmp_path) == 0
    (tmp_path / "cgroup").write_text("4:memory:/old\n")
    assert oom_kills(tmp_path / "cgroup", tmp_path) == 0
