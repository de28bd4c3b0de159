"""Test the embedded PostgreSQL with real servers, real signals and real kills."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from clearway.dev import binaries
from clearway.dev.postgres import EmbeddedPostgres
from clearway.errors import EmbeddedPostgresFailed

OWNER = """
import sys, time
from pathlib import Path
from clearway.dev.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
server.start()
print(server.pid, server.folder, flush=True)
time.sleep(60)
"""


def sql(server: EmbeddedPostgres, statement: str) -> str:
    """Return the answer of a statement, as psql prints it."""
    answer = subprocess.run(
        [server.psql, server.url, "-XAtc", statement],
        check=True,
        capture_output=True,
        text=True,
        timeout=20,
    )
    return answer.stdout.strip()


def until(condition: Callable[[], bool], seconds: float = 15.0) -> bool:
    """Wait until a condition holds; say whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def gone(pid: int) -> bool:
    """Say whether a process has ended, reaped or not."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def start_owner(*arguments: str) -> tuple[subprocess.Popen[str], int, Path]:
    """Start another owner; return it with its server and its folder."""
    command = [sys.executable, "-c", OWNER, *arguments]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid, folder = owner.stdout.readline().split()
    return owner, int(pid), Path(folder)


def kill(owner: subprocess.Popen[str]) -> None:
    """Kill an owner as the kernel would."""
    owner.kill()
    owner.wait()
    assert owner.stdout is not None
    owner.stdout.close()


@pytest.fixture
def kept() -> Iterator[Path]:
    """Return a folder for a cluster, below one that every user may pass through."""
    parent = Path(tempfile.mkdtemp(prefix="clearway-test-"))
    parent.chmod(0o755)
    yield parent / "postgres"
    shutil.rmtree(parent)


def test_it_serves_postgresql_18(postgres: EmbeddedPostgres) -> None:
    """The server that the wheel carries answers with its version."""
    assert sql(postgres, "SELECT version()").startswith("PostgreSQL 18.")


def test_commit_waits_for_the_log_as_in_production(postgres: EmbeddedPostgres) -> None:
    """A temporary server is fast through fsync and not through synchronous_commit."""
    assert sql(postgres, "SHOW synchronous_commit") == "on"
    assert sql(postgres, "SHOW fsync") == "off"


def test_a_small_shared_memory_is_enough(postgres: EmbeddedPostgres) -> None:
    """Nothing is put into /dev/shm, which has 64 MB in a container."""
    assert sql(postgres, "SHOW dynamic_shared_memory_type") == "mmap"


def test_the_password_is_asked_for(postgres: EmbeddedPostgres) -> None:
    """Another user of the machine does not get in without the password."""
    wrong = postgres.url.replace(postgres.url.split(":")[2].split("@")[0], "wrong")
    answer = subprocess.run(
        [postgres.psql, wrong, "-Xc", "SELECT 1"],
        check=False, capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert answer.returncode != 0
    assert "password authentication failed" in answer.stderr


def test_as_root_the_server_is_somebody_else(postgres: EmbeddedPostgres) -> None:
    """The server never has the rights of root."""
    assert psutil.Process(postgres.pid).uids().effective != 0


def test_stop_leaves_nothing() -> None:
    """Folder, process and keeper thread of a temporary server end with the block."""
    before = set(threading.enumerate())
    with EmbeddedPostgres() as server:
        pid, folder = server.pid, server.folder
        assert folder.is_dir()
    assert gone(pid)
    assert not folder.exists()
    assert until(lambda: set(threading.enumerate()) <= before)


def test_two_owners_are_independent() -> None:
    """Stopping one server leaves another of the same process alone."""
    with EmbeddedPostgres() as first:
        with EmbeddedPostgres() as second:
            assert first.port != second.port
        assert sql(first, "SELECT 1") == "1"


def test_a_server_started_by_a_thread_outlives_the_thread() -> None:
    """The kernel's death signal is bound to a thread; ours lives as long as the server."""
    server = EmbeddedPostgres()
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    try:
        assert sql(server, "SELECT pg_sleep(0.3), 1") == "|1"
    finally:
        server.stop()


def test_settings_are_passed_on() -> None:
    """A test may ask for a server that is soon full."""
    with EmbeddedPostgres(settings={"max_connections": "10"}) as server:
        assert sql(server, "SHOW max_connections") == "10"


def test_restart_keeps_port_and_rows() -> None:
    """A restart looks to its clients like a restart in production."""
    with EmbeddedPostgres() as server:
        before = server.url, server.pid
        sql(server, "CREATE TABLE t AS SELECT 42 AS n")
        server.restart()
        assert server.url == before[0]
        assert server.pid != before[1]
        assert sql(server, "SELECT n FROM t") == "42"


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_restart_recovers_from_a_fault(fault: signal.Signals) -> None:
    """A killed or frozen server comes back on the same port with what was committed."""
    with EmbeddedPostgres() as server:
        sql(server, "CREATE TABLE t AS SELECT 42 AS n")
        os.kill(server.pid, fault)
        server.restart()
        assert sql(server, "SELECT n FROM t") == "42"


def test_kill_of_the_owner_leaves_no_server() -> None:
    """After kill -9 of the owner the kernel ends the server."""
    owner, pid, folder = start_owner()
    family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    kill(owner)
    assert until(lambda: all(gone(member) for member in family))
    shutil.rmtree(folder)


def test_the_folder_of_a_killed_owner_is_swept_by_the_next() -> None:
    """A temporary folder that nobody owns any more is removed by the next start."""
    owner, pid, folder = start_owner()
    kill(owner)
    assert until(lambda: gone(pid))
    assert folder.exists()
    with EmbeddedPostgres() as server:
        assert not folder.exists()
        assert server.folder.exists()


def test_a_kept_folder_keeps_rows_and_password(kept: Path) -> None:
    """What was committed in one run is there in the next, behind the same password."""
    with EmbeddedPostgres(kept) as server:
        sql(server, "CREATE TABLE t AS SELECT 42 AS n")
        password = server.url.split(":")[2].split("@")[0]
    with EmbeddedPostgres(kept) as server:
        assert sql(server, "SELECT n FROM t") == "42"
        assert password in server.url


def test_a_stale_lock_file_does_not_prevent_the_next_start(kept: Path) -> None:
    """After kill -9 of the owner the same folder starts again at once, with its rows."""
    owner, pid, folder = start_owner(str(kept))
    assert folder == kept
    kill(owner)
    with EmbeddedPostgres(kept) as server:
        assert server.pid != pid
        assert sql(server, "SELECT 1") == "1"


def test_a_lock_file_that_names_another_process_is_overruled(kept: Path) -> None:
    """A process id that was given to somebody else meanwhile is not taken for the server."""
    with EmbeddedPostgres(kept) as server:
        cluster = server.folder / "cluster"
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        record = cluster / "postmaster.pid"
        record.write_text(f"{stranger.pid}\n{cluster}\n0\n5432\n\n127.0.0.1\n\nready\n")
        with EmbeddedPostgres(kept) as server:
            assert sql(server, "SELECT 1") == "1"
        assert stranger.poll() is None
    finally:
        stranger.communicate(b"\n")


def test_an_orphan_that_does_not_listen_is_ended(kept: Path) -> None:
    """A frozen server whose owner was killed is ended by the next owner of its folder."""
    owner, pid, _ = start_owner(str(kept))
    os.kill(pid, signal.SIGSTOP)
    kill(owner)
    with EmbeddedPostgres(kept) as server:
        assert gone(pid)
        assert sql(server, "SELECT 1") == "1"


def test_a_kept_folder_has_one_owner(kept: Path) -> None:
    """A second owner is refused with the folder and the fix, and harms nothing."""
    with EmbeddedPostgres(kept) as server:
        with pytest.raises(EmbeddedPostgresFailed, match="in use by another owner") as refusal:
            EmbeddedPostgres(kept).start()
        assert str(kept) in str(refusal.value)
        assert "DATABASE_URL" in refusal.value.fix
        assert sql(server, "SELECT 1") == "1"


def test_a_folder_with_other_contents_is_left_alone(kept: Path) -> None:
    """A folder that holds something else is refused and not touched."""
    kept.mkdir()
    (kept / "thesis.txt").write_text("years of work")
    with pytest.raises(EmbeddedPostgresFailed, match="something other"):
        EmbeddedPostgres(kept).start()
    assert [path.name for path in kept.iterdir()] == ["thesis.txt"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as somebody else")
def test_as_root_a_closed_folder_is_neither_opened_nor_fatal(kept: Path) -> None:
    """Below a folder that nobody else may pass, the data lie in a folder of their own."""
    kept.parent.chmod(0o700)
    for rows in ("0", "1"):
        with EmbeddedPostgres(kept) as server:
            assert sql(server, "SELECT count(*) FROM pg_class WHERE relname = 't'") == rows
            sql(server, "CREATE TABLE IF NOT EXISTS t ()")
            place = server.folder
    assert place != kept
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    shutil.rmtree(place)


def test_a_server_that_cannot_start_shows_its_log() -> None:
    """The error has the code, what the server said, and the fix; nothing is left behind."""
    with pytest.raises(EmbeddedPostgresFailed) as failure:
        EmbeddedPostgres(settings={"no_such_setting": "1"}).start()
    assert "[CW601]" in str(failure.value)
    assert 'unrecognized configuration parameter "no_such_setting"' in str(failure.value)
    assert "DATABASE_URL" in failure.value.fix
    folder = re.search(r"folder (\S+);", failure.value.what)
    assert folder is not None
    assert not Path(folder[1]).exists()


def test_a_taken_port_is_waited_for() -> None:
    """A port that somebody holds for a moment costs the restart a moment, and no error."""
    with EmbeddedPostgres() as server:
        os.kill(server.pid, signal.SIGKILL)
        assert until(lambda: gone(server.pid))
        squatter = socket.create_server(("127.0.0.1", server.port))
        threading.Timer(0.5, squatter.close).start()
        server.restart()
        assert sql(server, "SELECT 1") == "1"


def test_missing_binaries_are_named_with_the_fix() -> None:
    """Without the wheel the error says what to install."""
    with pytest.raises(EmbeddedPostgresFailed, match="not installed") as failure:
        binaries.find("no_such_package")
    assert "pip install 'clearway[dev]'" in failure.value.fix


def test_a_copy_of_the_binaries_is_whole_and_readable_by_all(tmp_path: Path) -> None:
    """The copy runs by itself, is not made twice, and leaves no scrap."""
    copy = binaries.shared_copy(binaries.find(), tmp_path)
    answer = subprocess.run([copy / "bin" / "initdb", "--version"], capture_output=True, check=True)
    assert b"(PostgreSQL) 18" in answer.stdout
    assert all(path.stat().st_mode & 0o004 for path in copy.rglob("*"))
    made = copy.stat().st_ino
    assert binaries.shared_copy(binaries.find(), tmp_path).stat().st_ino == made
    assert len(list(tmp_path.iterdir())) == 1
