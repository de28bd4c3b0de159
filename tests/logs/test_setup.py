"""Taking over structlog and `logging`, and giving them back, in real processes."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from clearway.errors import LogTargetUnusable, NotOpen
from clearway.logs import Logs
from clearway.settings import LogSettings, ServiceSettings
from support.pipes import Pipe, events, run_child

PROLOGUE = textwrap.dedent("""
    import asyncio, logging, os, signal, sys, time, warnings
    import structlog
    from clearway.logs import Logs, get_logger
    from clearway.settings import LogSettings, ServiceSettings

    def make(**fields):
        fields = {"take_over": "on", **fields}
        return Logs(ServiceSettings(name="shop"), LogSettings(**fields))
""")


def child(code: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run source after the prologue; what it asserts must hold."""
    done = run_child(PROLOGUE + textwrap.dedent(code), **options)
    assert b"AssertionError" not in done.stderr, done.stderr.decode()
    return done


def names(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    """Return the events that a child has written."""
    return [line["event"] for line in events(done.stdout)]


def test_everything_ends_in_one_stream_in_one_shape() -> None:
    """structlog, `logging`, warnings and uvicorn write JSON lines with the same names."""
    done = child("""
        logs = make()
        logs.configure()
        get_logger("mine").info("one", n=1)
        logging.getLogger("lib").warning("two %d", 2, extra={"user": "u"})
        warnings.simplefilter("always")
        warnings.warn("three")
        logging.getLogger("uvicorn.error").info("four", extra={"color_message": "no"})
        try:
            1 / 0
        except ZeroDivisionError:
            logging.getLogger("lib").exception("five")
        logging.getLogger("lib").info("six %d", "not a number")
        logging.getLogger("lib").debug("below the level")
        logs.restore()
    """)
    lines = events(done.stdout)
    assert [line["logger"] for line in lines] == [
        "mine", "lib", "py.warnings", "uvicorn.error", "lib", "lib",
    ]  # fmt: skip
    assert [line["event"] for line in lines[:2]] == ["one", "two 2"]
    assert lines[1]["user"] == "u"
    assert "three" in lines[2]["event"]
    assert "color_message" not in lines[3]
    assert lines[4]["exception"]["type"] == "ZeroDivisionError"
    assert (lines[5]["event"], lines[5]["args"]) == ("six %d", ["not a number"])
    assert all({"timestamp", "level", "service"} <= line.keys() for line in lines)
    assert done.stderr == b""


def test_restoring_leaves_nothing_behind() -> None:
    """Handlers, levels, structlog, warnings, threads and descriptors are as before, repeatedly."""
    done = child("""
        import threading, uvicorn, gc
        uvicorn.Config("x:y").configure_logging()
        stray = logging.NullHandler()
        logging.getLogger().addHandler(stray)

        def state():
            known = ("", "uvicorn", "uvicorn.error", "uvicorn.access")
            loggers = [logging.getLogger(name) for name in known]
            return (
                [(l.handlers[:], l.level, l.propagate) for l in loggers], structlog.get_config(),
                structlog.is_configured(), warnings.showwarning, threading.active_count(),
                sorted(os.listdir("/proc/self/fd")), len(logging._handlerList),
            )

        async def once():
            logs = make(target=os.devnull)
            before = state()
            await logs.open()
            assert logs.taken_over and state() != before
            get_logger().info("x")
            await logs.close()
            await asyncio.sleep(0.02)
            assert not logs.taken_over
            gc.collect()
            after = state()
            assert after == before, (before, after)

        async def main():
            await once()
            for _ in range(3):
                await once()
        asyncio.run(main())
        print("ok")
    """)
    assert done.stdout == b"ok\n", done.stderr.decode()


def test_a_configuration_of_the_user_is_put_back() -> None:
    """With `on` we stand in for it only while we are open."""
    done = child("""
        structlog.configure(processors=[structlog.processors.JSONRenderer()])
        before = structlog.get_config()
        logs = make()
        logs.configure()
        get_logger().info("ours")
        logs.restore()
        assert structlog.get_config() == before
        structlog.get_logger().info("theirs")
    """)
    assert names(done) == ["ours", "theirs"]
    assert b"timestamp" not in done.stdout.splitlines()[1]


@pytest.mark.parametrize(
    ("take_over", "before", "taken"),
    [
        ("on", "", True),
        ("off", "get_logger()", False),
        ("auto", "", False),
        ("auto", "get_logger()", True),
        ("auto", "get_logger(); structlog.configure()", False),
        ("auto", "get_logger(); logging.basicConfig()", False),
        ("auto", "structlog.get_logger()", False),
    ],
)
def test_when_logs_are_taken_over(take_over: str, before: str, taken: bool) -> None:
    """`auto` needs our `get_logger` and nobody else's configuration."""
    done = child(f"""
        {before}
        logs = make(take_over="{take_over}")
        logs.configure()
        print(logs.taken_over, structlog.is_configured())
    """)
    other = "structlog.configure()" in before
    assert done.stdout.decode().split() == [str(taken), str(taken or other)]


def test_a_second_user_joins_the_first_stream() -> None:
    """The command line and the app share one writer; the last to go gives it back."""
    done = child("""
        early = make()
        early.configure()
        later = make(take_over="auto")
        later.configure()
        assert later.writer is early.writer
        early.restore()
        early.restore()
        get_logger().info("still ours")
        assert structlog.is_configured()
        later.restore()
        assert not structlog.is_configured()
    """)
    assert names(done) == ["still ours"]


def test_uvicorn_configured_later_is_set_aside_when_we_open() -> None:
    """The order of `clearway run`: our set-up, then uvicorn's own, then the lifespan."""
    done = child("""
        import uvicorn
        early = make()
        early.configure()
        uvicorn.Config("x:y").configure_logging()
        logs = make()
        asyncio.run(logs.open())
        logging.getLogger("uvicorn.error").info("started")
        logging.getLogger("uvicorn.access").info("silenced")
        assert not logging.getLogger("uvicorn.access").hasHandlers()
        asyncio.run(logs.close())
        early.restore()
        logging.getLogger("uvicorn.error").info("finished")
    """)
    assert names(done) == ["started"]
    assert b"finished" in done.stderr


def test_uvicorn_keeps_its_access_line_where_ours_is_off() -> None:
    """Its records then end in the stream like all others."""
    done = child("""
        logs = make(access=False)
        logs.configure()
        logging.getLogger("uvicorn.access").info("GET / 200")
        logs.restore()
    """)
    assert names(done) == ["GET / 200"]


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("raise RuntimeError('unhandled')", 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("os._exit(5)", 5),
    ],
)
def test_no_way_out_loses_a_line(end: str, code: int) -> None:
    """A reader that keeps up has every line that was logged before the process ended."""
    done = child(f"""
        make().configure()
        log = get_logger()
        for n in range(200):
            log.info("x", n=n)
        {end}
    """)
    assert [line["n"] for line in events(done.stdout)] == list(range(200))
    assert done.returncode == code


@pytest.mark.parametrize("end", ["pass", "sys.exit(0)", "raise RuntimeError"])
def test_an_orderly_exit_waits_for_a_slow_reader(end: str) -> None:
    """Lines that wait in memory at the end are flushed by the interpreter's exit."""
    code = PROLOGUE + textwrap.dedent(f"""
        logs = make()
        logs.configure()
        log = get_logger()
        for n in range(1500):
            log.info("x", n=n, pad="p" * 100)
        assert logs.writer.snapshot().pending > 100
        print("waiting", file=sys.stderr, flush=True)
        {end}
    """)
    with Pipe() as pipe:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=pipe.writer, stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        assert process.stderr.readline() == b"waiting\n"
        lines = pipe.wait_for(1_500)
        process.communicate(timeout=10)
        assert [line["n"] for line in events(b"\n".join(lines))] == list(range(1_500))


def test_sigterm_under_uvicorn_loses_no_line(tmp_path: Path) -> None:
    """Uvicorn raises the signal again, so `atexit` never runs; its last record is there too."""
    (tmp_path / "service.py").write_text(
        PROLOGUE
        + textwrap.dedent("""
            from contextlib import asynccontextmanager
            logs, log = make(), get_logger()

            async def app(scope, receive, send):
                assert scope["type"] == "lifespan"
                await receive()
                await logs.open()
                for n in range(1500):
                    log.info("x", n=n, pad="p" * 100)
                await send({"type": "lifespan.startup.complete"})
                asyncio.get_running_loop().call_later(0.2, os.kill, os.getpid(), signal.SIGTERM)
                await receive()
                log.info("last", n=1500)
                await logs.close()
                await send({"type": "lifespan.shutdown.complete"})
        """)
    )
    with Pipe() as pipe:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "service:app", "--port", "0"],
            cwd=tmp_path, stdout=pipe.writer, stderr=subprocess.PIPE,
        )  # fmt: skip
        lines = []
        while process.poll() is None:
            lines += pipe.wait_for(1, 0.05)
        lines += pipe.lines()
        _, stderr = process.communicate(timeout=10)
    ours = [line for line in events(b"\n".join(lines)) if line["service"] == "shop"]
    assert [line["n"] for line in ours if "n" in line] == list(range(1_501))
    assert any("Uvicorn running" in line["event"] for line in ours)
    assert b"Finished server process" in stderr
    assert process.returncode == -signal.SIGTERM


def test_loggers_work_before_during_and_after() -> None:
    """A module-level logger follows; one that was bound while we were open prints afterwards."""
    done = child("""
        log = get_logger()
        logs = make()
        logs.configure()
        bound = log.bind(n=1)
        bound.info("during")
        logs.restore()
        bound.info("after")
        structlog.configure(processors=[structlog.processors.JSONRenderer()])
        log.info("plain")
    """)
    assert names(done) == ["during", "after", "plain"]


def test_a_forked_child_logs_into_the_same_stream() -> None:
    """Parent and child each write their own lines, once."""
    done = child("""
        logs = make()
        logs.configure()
        log = get_logger()
        log.info("parent")
        pid = os.fork()
        if pid == 0:
            log.info("child")
            os._exit(0)
        os.waitpid(pid, 0)
        log.info("parent again")
        logs.restore()
    """)
    assert names(done) == ["parent", "child", "parent again"]


def test_a_terminal_gets_the_console_and_a_pipe_gets_json() -> None:
    """`auto` looks at the target; NO_COLOR is honoured."""
    code = PROLOGUE + "logs = make(); logs.configure(); get_logger().info('hello', n=1)"
    for environ, coloured in (({"TERM": "xterm"}, True), ({"NO_COLOR": "1"}, False)):
        with Pipe(pty.openpty()) as terminal:
            subprocess.run(
                [sys.executable, "-c", code], stdout=terminal.writer, check=True, timeout=20,
                env={"PATH": os.environ["PATH"], **environ},
            )  # fmt: skip
            (line,) = terminal.wait_for(1)
            assert b"hello" in line
            assert not line.startswith(b"{")
            assert (b"\x1b[" in line) is coloured
    assert names(child("logs = make(); logs.configure(); get_logger().info('hello')")) == ["hello"]


def test_a_file_is_a_target(tmp_path: Path) -> None:
    """Lines are added to what the file has; one that cannot be opened is a start error."""
    path = tmp_path / "service.log"
    path.write_text('{"event":"old"}\n')
    child(f"""
        logs = make(target={str(path)!r})
        logs.configure()
        get_logger().info("new")
        logs.restore()
    """)
    assert [line["event"] for line in events(path.read_bytes())] == ["old", "new"]
    bad = Logs(ServiceSettings(), LogSettings(take_over="on", target=str(tmp_path / "no" / "x")))
    with pytest.raises(LogTargetUnusable, match=r"CW501.*cannot be opened for writing: No such"):
        bad.configure()
    assert not bad.taken_over


def test_a_closed_stdout_stops_nothing() -> None:
    """The service runs on, and stderr has one note."""
    done = run_child(
        f"""
import subprocess, sys
code = {PROLOGUE!r} + '''
make().configure()
for n in range(100):
    get_logger().info("x")
print("alive", file=sys.stderr)
'''
sys.exit(subprocess.run(["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, code]).returncode)
"""
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.count(b"the log target is broken") == 1
    assert b"alive" in done.stderr


def test_the_writer_is_there_only_while_open() -> None:
    """Asking for it earlier is an error that names the setting."""
    logs = Logs(ServiceSettings(), LogSettings(take_over="off"))
    logs.configure()
    with pytest.raises(NotOpen, match="CLEARWAY_LOGS__TAKE_OVER=on"):
        _ = logs.writer
    logs.restore()


def test_stdout_replaced_in_memory_still_has_a_target() -> None:
    """A stdout without a descriptor (a test's capture) leaves descriptor 1 as the target."""
    done = child("""
        import io
        sys.stdout = io.StringIO()
        make().configure()
        get_logger().info("x")
    """)
    assert names(done) == ["x"]
