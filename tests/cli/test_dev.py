"""Test `clearway dev`: its database, its reload, and that nothing is left behind."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cli.processes import APP, answer_of, fetch, free_port, gone, offspring, serving, until


@pytest.fixture
def project() -> Iterator[Path]:
    """Return a project's folder that every user may pass through."""
    folder = Path(tempfile.mkdtemp(prefix="clearway-test-"))
    folder.chmod(0o755)
    (folder / "main.py").write_text(APP)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_it_ends_nothing_is_left(project: Path, number: signal.Signals) -> None:
    """Ctrl-C, SIGTERM and kill -9 all end the server, its reloader and the database."""
    port = free_port()
    with serving("dev", "main:app", "--port", str(port), cwd=project) as process:
        answer = json.loads(answer_of(port, 30))
        family = offspring(process.pid)
        assert "postgres" in {member.name() for member in family}
        process.send_signal(number)
        assert process.wait(15) == (-number if number == signal.SIGKILL else 0)
        assert until(lambda: all(gone(member) for member in family))
    assert answer["env"] == "development"
    assert answer["db"].startswith("postgresql://postgres:")


def test_it_prints_where_to_look_and_no_password(project: Path) -> None:
    """The addresses, the psql line and the folder are printed plainly; the password is not."""
    port = free_port()
    with serving("dev", "main:app", "--port", str(port), cwd=project):
        url = json.loads(answer_of(port, 30))["db"]
    text = (project / "output.txt").read_text()
    assert f"http://127.0.0.1:{port}/docs" in text
    assert "psql -h 127.0.0.1" in text
    assert str(project / ".clearway" / "postgres") in text
    assert url.split(":")[2].split("@")[0] not in text
    assert "\x1b[" not in text.partition("INFO")[0]


def test_a_url_that_is_set_is_used_and_no_server_started(project: Path) -> None:
    """DATABASE_URL is the developer's word."""
    port = free_port()
    theirs = "postgresql://me@127.0.0.1:1/mine"
    with serving("dev", "--no-reload", "--port", str(port), cwd=project, DATABASE_URL=theirs):
        assert json.loads(answer_of(port, 30))["db"] == theirs
    assert not (project / ".clearway").exists()


def test_no_db_starts_no_server(project: Path) -> None:
    """--no-db serves without a database."""
    port = free_port()
    with serving("dev", "--no-reload", "--no-db", "--port", str(port), cwd=project) as process:
        assert json.loads(answer_of(port, 30))["db"] is None
        assert "postgres" not in {member.name() for member in offspring(process.pid)}


def test_a_change_is_served(project: Path) -> None:
    """A file that changes is loaded again, by the same command and the same database."""
    port = free_port()
    with serving("dev", "main:app", "--port", str(port), cwd=project) as process:
        answer_of(port, 30)
        server = next(m for m in offspring(process.pid) if m.name() == "postgres")
        (project / "main.py").write_text(APP.replace('"v": 1', '"v": 2'))
        assert until(lambda: '"v":2' in (fetch(port) or ""))
        assert psutil.pid_exists(server.pid)


def test_a_server_that_fails_ends_the_database_too(project: Path) -> None:
    """An application that cannot be imported ends everything with 1 or 2, not a hang."""
    with serving("dev", "nowhere:app", cwd=project) as process:
        assert process.wait(20) == 1
        assert until(lambda: not offspring(process.pid))
    assert "CW105" in (project / "output.txt").read_text()
