"""A real PgBouncer as a process of its own, where there is a binary of it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import make_url

from clearway.dev.child import spawn
from clearway.dev.home import unprivileged_user

_ROOT = Path(__file__).parents[2]
_PLACES = ("/usr/sbin/pgbouncer", str(_ROOT / ".pgbouncer/usr/sbin/pgbouncer"))
_START_WITHIN = 20.0

WHERE = "no PgBouncer: `make pgbouncer`, or CLEARWAY_TEST_PGBOUNCER=/path/to/pgbouncer"


@dataclass(frozen=True)
class PgBouncer:
    """One that runs.

    Attributes:
        url: The database behind it, through it.
        version: Such as (1, 18).
    """

    url: str
    version: tuple[int, int]


def find() -> Path | None:
    """Return the binary, or None."""
    named = os.environ.get("CLEARWAY_TEST_PGBOUNCER") or shutil.which("pgbouncer")
    paths = [Path(path) for path in (named, *_PLACES) if path]
    return next((path for path in paths if path.is_file()), None)


@contextmanager
def pgbouncer(binary: Path, database_url: str, **settings: object) -> Iterator[PgBouncer]:
    """Run one in transaction mode before a database.

    Args:
        binary: Its path. A copy runs, as `nobody` where this process is root.
        database_url: What lies behind it.
        settings: Of its section `pgbouncer`, such as `default_pool_size`.
    """
    user = unprivileged_user()
    folder = Path(tempfile.mkdtemp(prefix="clearway-pgbouncer-"))
    folder.chmod(0o755)
    program = folder / "pgbouncer"
    shutil.copy(binary, program)
    for library in binary.parents[1].glob("lib/*/lib*.so.*"):
        if library.name.startswith(("libevent", "libcares")):
            shutil.copy(library, folder / library.name)
    env = os.environ | {"LD_LIBRARY_PATH": str(folder)}
    said = subprocess.run([program, "--version"], env=env, capture_output=True, text=True)
    port = _configure(folder, database_url, settings)
    if user is not None:
        os.chown(folder, *user)
    with (folder / "output").open("wb") as output:
        process = spawn(
            [str(program), str(folder / "pgbouncer.ini")], user=user, env=env, output=output
        )
    try:
        _await_port(process, port, folder / "output")
        url = make_url(database_url).set(port=port).render_as_string(hide_password=False)
        found = re.search(r"PgBouncer (\d+)\.(\d+)", said.stdout)
        assert found is not None, said
        yield PgBouncer(url, (int(found[1]), int(found[2])))
    finally:
        process.send_signal(signal.SIGTERM)  # at once: in 1.18 nobody is waited for
        process.wait(20)
        shutil.rmtree(folder)


def _configure(folder: Path, database_url: str, settings: dict[str, object]) -> int:
    server = make_url(database_url)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    own = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "scram-sha-256",
        "auth_file": folder / "users",
        "pool_mode": "transaction",
        "default_pool_size": 2,
        **settings,
    }
    lines = [f"{name} = {value}" for name, value in own.items()]
    (folder / "users").write_text(f'"{server.username}" "{server.password}"\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={server.host} port={server.port}\n[pgbouncer]\n"
        + "\n".join(lines)
        + "\n"
    )
    for name in ("users", "pgbouncer.ini"):
        (folder / name).chmod(0o644)  # the password of a server that lives as long as this run
    return port


def _await_port(process: subprocess.Popen[bytes], port: int, output: Path) -> None:
    end = time.monotonic() + _START_WITHIN
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"PgBouncer did not start: {output.read_text()}")
