"""Test `clearway run` with real servers and real signals."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import uvicorn

from cli.processes import APP, answer_of, clearway, fetch, free_port, offspring, serving, until


def test_the_version_is_printed(tmp_path: Path) -> None:
    """The command says its name and version."""
    answer = clearway("--version", cwd=tmp_path)
    assert answer.returncode == 0
    assert answer.stdout.startswith("clearway 0.")


def test_the_help_names_every_command(tmp_path: Path) -> None:
    """Whoever asks for help sees what there is to run."""
    answer = clearway("--help", cwd=tmp_path)
    assert answer.returncode == 0
    for name in ("run", "dev", "explain"):
        assert f" {name} " in answer.stdout


def test_a_missing_extra_is_one_line_with_the_command(tmp_path: Path) -> None:
    """Without typer the command line says what to install, and exits as for misuse."""
    code = "import sys; sys.modules['typer'] = None; from clearway.cli import main; main()"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30
    )
    assert answer.returncode == 2
    assert answer.stderr == "clearway: typer is not installed; pip install 'clearway[cli]'\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_ends_the_service_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    """A service that was asked to stop finishes its lifespan and exits with 0."""
    (tmp_path / "main.py").write_text(APP)
    port = free_port()
    with serving("run", "main:app", "--port", str(port), cwd=tmp_path) as process:
        answer_of(port)
        process.send_signal(number)
        assert process.wait(15) == 0
    assert "Application shutdown complete" in (tmp_path / "output.txt").read_text()


def test_the_platform_chooses_the_port(tmp_path: Path) -> None:
    """PORT is honoured, and main.py is found without being named."""
    (tmp_path / "main.py").write_text(APP)
    port = free_port()
    with serving("run", cwd=tmp_path, PORT=str(port)):
        assert '"v":1' in answer_of(port)


def test_several_workers_stop_with_0_and_die_with_their_parent(tmp_path: Path) -> None:
    """WEB_CONCURRENCY starts workers; SIGTERM ends them cleanly, and kill -9 leaves none."""
    (tmp_path / "main.py").write_text(APP)
    port = free_port()
    arguments = ("run", "main:app", "--port", str(port))
    with serving(*arguments, cwd=tmp_path, WEB_CONCURRENCY="2") as process:
        answer_of(port)
        assert len(offspring(process.pid)) >= 2
        process.terminate()
        assert process.wait(15) == 0
    with serving(*arguments, cwd=tmp_path, WEB_CONCURRENCY="2") as process:
        answer_of(port)
        process.kill()
        process.wait()
        assert until(lambda: fetch(port) is None)


RESTARTS_FOR_EVER = tuple(int(n) for n in uvicorn.__version__.split(".")[:2]) < (0, 50)


@pytest.mark.parametrize(
    "workers",
    [
        "1",
        pytest.param(
            "2",
            marks=pytest.mark.skipif(
                RESTARTS_FOR_EVER, reason="before 0.50 uvicorn restarts a worker that cannot start"
            ),
        ),
    ],
)
def test_a_failing_start_up_exits_with_1(tmp_path: Path, workers: str) -> None:
    """A service whose lifespan raises is not served, with one worker or several."""
    (tmp_path / "main.py").write_text(
        "from contextlib import asynccontextmanager\n"
        "from fastapi import FastAPI\n"
        "@asynccontextmanager\n"
        "async def lifespan(app):\n"
        "    raise RuntimeError('no model file')\n"
        "    yield\n"
        "app = FastAPI(lifespan=lifespan)\n"
    )
    answer = clearway(
        "run", "main:app", "--port", str(free_port()), "--workers", workers, cwd=tmp_path
    )
    assert answer.returncode == 1
    assert "no model file" in answer.stderr


def test_a_failing_import_shows_only_the_users_frames(tmp_path: Path) -> None:
    """The traceback begins at the user's first line."""
    (tmp_path / "main.py").write_text("from helper import thing\n")
    (tmp_path / "helper.py").write_text("1 / 0\n")
    answer = clearway("run", "main:app", cwd=tmp_path)
    assert answer.returncode == 1
    assert "ZeroDivisionError" in answer.stderr
    files = [line for line in answer.stderr.splitlines() if line.lstrip().startswith("File ")]
    assert len(files) == 2
    assert all(str(tmp_path) in line for line in files)


def test_a_start_error_is_shown_as_its_message(tmp_path: Path) -> None:
    """A bad setting needs no traceback: it is said with its name and the fix."""
    (tmp_path / "main.py").write_text(APP)
    answer = clearway("run", "main:app", cwd=tmp_path, CLEARWAY_OPS__SHUTDOWN_WITHIN="-1")
    assert answer.returncode == 1
    assert answer.stderr.startswith("[CW101]")
    assert "CLEARWAY_OPS__SHUTDOWN_WITHIN" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nowhere:app", "there is no module 'nowhere'"),
        ("main:nothing", "has no application named nothing"),
        ("other", "has no application named app or api"),
        ("sub/gone.py:app", "there is no file"),
    ],
)
def test_a_wrong_target_is_misuse(tmp_path: Path, target: str, said: str) -> None:
    """What cannot be found is said with the code and the fix, and exits with 2."""
    (tmp_path / "main.py").write_text(APP)
    (tmp_path / "other.py").write_text("service = None\n")
    answer = clearway("run", target, cwd=tmp_path)
    assert answer.returncode == 2
    assert said in answer.stderr
    assert "fix:" in answer.stderr
    assert "CW105" in answer.stderr


def test_several_workers_fail_as_one(tmp_path: Path) -> None:
    """What cannot be imported is said once and with its exit code, not by every worker."""
    (tmp_path / "main.py").write_text("import no_such_module\n")
    answer = clearway("run", "main:app", "--workers", "2", cwd=tmp_path)
    assert answer.returncode == 1
    assert answer.stderr.count("No module named 'no_such_module'") == 1
    assert clearway("run", "gone:app", "--workers", "2", cwd=tmp_path).returncode == 2


def test_a_factory_is_called_in_the_server(tmp_path: Path) -> None:
    """A function that makes the app is found by its usual name."""
    (tmp_path / "main.py").write_text(
        "from fastapi import FastAPI\n"
        "def create_app():\n"
        "    app = FastAPI()\n"
        "    app.get('/')(lambda: {'made': True})\n"
        "    return app\n"
    )
    port = free_port()
    with serving("run", "main", "--factory", "--port", str(port), cwd=tmp_path):
        assert answer_of(port) == '{"made":true}'


def test_a_wrong_option_is_misuse(tmp_path: Path) -> None:
    """A port that is no number is refused before anything is imported."""
    assert clearway("run", "main:app", "--port", "many", cwd=tmp_path).returncode == 2
