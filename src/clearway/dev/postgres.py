"""An embedded PostgreSQL: a real server as a child of one owner, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from clearway.core.deadline import Deadline
from clearway.dev import binaries
from clearway.dev.child import spawn
from clearway.dev.home import Home, unprivileged_user
from clearway.errors import EmbeddedPostgresFailed

_START_WITHIN = 30.0
_ORPHAN_GRACE = 6.0
_HOST = "127.0.0.1"

_SETTINGS = {
    "listen_addresses": _HOST,
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "32MB",
    # A container's /dev/shm has 64 MB: parallel queries and hash joins stay out of it.
    "shared_memory_type": "mmap",
    "dynamic_shared_memory_type": "mmap",
    "huge_pages": "off",
    "io_method": "sync",
    "logging_collector": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# What is thrown away need not survive a power cut. synchronous_commit stays on, so that what a
# test learns about the order of COMMIT and answer is true.
_TEMPORARY = {"fsync": "off", "full_page_writes": "off"}

# A start that fails with one of these may succeed a moment later: somebody took the port, or
# the backends of a server that was killed are still on their way out.
_PORT_TAKEN = "Address already in use"
_STILL_LEAVING = "is still in use"

# Fast, immediate (the server itself kills what lingers after 5 s), and the end.
_STOP = ((signal.SIGINT, 5.0), (signal.SIGQUIT, 8.0), (signal.SIGKILL, 5.0))


class EmbeddedPostgres:
    """A PostgreSQL 18 on a free port of 127.0.0.1 that dies with this process.

    As root the server runs as `nobody`. Two owners are independent of each other; of one kept
    folder only one owner at a time can be. On macOS a kill -9 of the owner leaves the server
    to the next start, which ends it.

    Args:
        data: Folder that is kept, made if it is missing; None for a temporary one that is
            removed by `stop`.
        settings: Server settings to add or to overrule, such as `{"max_connections": "10"}`.

    Raises:
        EmbeddedPostgresFailed: From `start` and `restart`: no binaries, the folder is in use,
            or the server was not ready within 30 seconds; with the tail of its log.
    """

    def __init__(
        self, data: Path | None = None, *, settings: Mapping[str, str] | None = None
    ) -> None:
        self._data = data
        self._extra = dict(settings or {})
        self._user = unprivileged_user()
        self._install: Path | None = None
        self._home: Home | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._port: int | None = None

    @property
    def url(self) -> str:
        """Return the URL of the database `postgres`, password included."""
        return f"postgresql://postgres:{self._opened.password()}@{_HOST}:{self.port}/postgres"

    @property
    def port(self) -> int:
        """Return the TCP port, the same for the life of this object."""
        if self._port is None:
            raise EmbeddedPostgresFailed("the server was not started", fix="call start() first")
        return self._port

    @property
    def pid(self) -> int:
        """Return the process id of the server as it was last started."""
        if self._process is None:
            raise EmbeddedPostgresFailed("the server was not started", fix="call start() first")
        return self._process.pid

    @property
    def folder(self) -> Path:
        """Return where everything lies; as root not always the folder that was asked for."""
        return self._opened.folder

    @property
    def password_file(self) -> Path:
        """Return a file for PGPASSFILE, so that nobody has to type or print the password."""
        return self._opened.password_file

    @property
    def psql(self) -> Path:
        """Return the path of the `psql` that belongs to the server."""
        return self._program("psql")

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        if self._home is not None:
            return
        deadline = Deadline.after(_START_WITHIN)
        install = binaries.find()
        self._install = install if self._user is None else binaries.shared_copy(install)
        if self._data is None:
            self._home = Home.make_temporary(self._user)
        else:
            self._home = Home.claim_kept(self._data, self._user)
        try:
            self._end_orphan()
            self._make_cluster(deadline)
            self._launch(deadline)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server within 18 seconds, whatever state it is in; usually in 0.1."""
        self._halt()
        home, self._home = self._home, None
        if home is not None:
            home.release()

    def restart(self) -> None:
        """Stop the server, if it still runs, and start it on the same port and data."""
        self._halt()
        self._launch(Deadline.after(_START_WITHIN))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def _opened(self) -> Home:
        if self._home is None:
            raise EmbeddedPostgresFailed("the server was not started", fix="call start() first")
        return self._home

    def _program(self, name: str) -> Path:
        return (self._install or binaries.find()) / "bin" / name

    def _make_cluster(self, deadline: Deadline) -> None:
        home = self._opened
        if home.cluster.exists():
            return
        draft, secret = home.folder / "cluster.new", home.folder / "secret.new"
        shutil.rmtree(draft, ignore_errors=True)  # one that a killed owner left half made
        secret.touch(mode=0o600)
        secret.write_text(home.password(), encoding="ascii")
        home.give(secret)
        self._initdb(draft, secret, deadline)
        secret.unlink()
        draft.rename(home.cluster)

    def _initdb(self, draft: Path, secret: Path, deadline: Deadline) -> None:
        process = self._spawn(
            [
                str(self._program("initdb")), f"--pgdata={draft}", f"--pwfile={secret}",
                "--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8",
                "--locale-provider=builtin", "--locale=C.UTF-8", "--no-sync",
                "--no-instructions",
            ]
        )  # fmt: skip
        try:
            code = process.wait(deadline.remaining())
        except subprocess.TimeoutExpired:
            process.kill()
            raise self._failure("initdb did not end within 30 s") from None
        if code != 0:
            raise self._failure(f"initdb ended with {code}")

    def _launch(self, deadline: Deadline) -> None:
        while True:
            port = self._port or _free_port()
            process = self._process = self._spawn(self._command(port))
            if self._ready(process, deadline):
                self._port = port
                return
            tail = self._opened.log_tail()
            if deadline.passed or not (_PORT_TAKEN in tail or _STILL_LEAVING in tail):
                raise self._failure(_ending(process))
            time.sleep(0.1)

    def _command(self, port: int) -> list[str]:
        home = self._opened
        settings = _SETTINGS | (_TEMPORARY if home.temporary else {}) | self._extra
        command = [str(self._program("postgres")), "-D", str(home.cluster), "-p", str(port)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return command

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        # PGDATA, PGPORT and the like of the developer's own server must not leak in.
        env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        with self._opened.log.open("wb") as log:
            return spawn(
                command,
                death_signal=signal.SIGQUIT,
                user=self._user,
                env=env | {"LC_ALL": "C"},
                output=log,
                new_session=True,
            )

    def _ready(self, process: subprocess.Popen[bytes], deadline: Deadline) -> bool:
        """Wait for the line that the server writes when it takes connections, as pg_ctl does."""
        while process.poll() is None and not deadline.passed:
            record = _read_record(self._opened.recorded)
            if len(record) >= 8 and record[0] == str(process.pid) and record[7] == "ready":
                return True
            time.sleep(0.01)
        return False

    def _halt(self) -> None:
        if self._process is None:
            return
        for number, patience in _STOP:
            if self._process.poll() is not None:
                break
            self._process.send_signal(number)
            self._process.send_signal(signal.SIGCONT)  # a stopped one would not hear the first
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)

    def _end_orphan(self) -> None:
        """End the server of an owner that was killed; we hold its folder, so it is ours."""
        home = self._opened
        record = _read_record(home.recorded)
        if not record or not record[0].isdecimal():
            return
        pid = int(record[0])
        grace = Deadline.after(_ORPHAN_GRACE)
        while _serves(pid, home.cluster):
            if grace.passed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        # The id may belong to somebody else by now, and the server would take that for its own.
        home.recorded.unlink(missing_ok=True)

    def _failure(self, what: str) -> EmbeddedPostgresFailed:
        tail = self._opened.log_tail() or "(its log is empty)"
        return EmbeddedPostgresFailed(
            f"{what}; folder {self._opened.folder}; the end of its log:\n{tail}",
            fix="mend what the log names, remove the folder to begin with an empty database, or "
            "set DATABASE_URL to a server of your own",
        )


def _ending(process: subprocess.Popen[bytes]) -> str:
    code = process.poll()
    return f"the server ended with {code}" if code is not None else "it was not ready within 30 s"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _read_record(path: Path) -> list[str]:
    """Return the lines of postmaster.pid (PostgreSQL's utils/pidfile.h), none without a file."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []


def _serves(pid: int, cluster: Path) -> bool:
    """Say whether a live process is the server of this cluster."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return False
        listing = ["/bin/ps", "-o", "command=", "-p", str(pid)]
        command = subprocess.run(listing, capture_output=True, check=False).stdout.split()  # noqa: S603 - no input of others
    return bytes(cluster) in command
