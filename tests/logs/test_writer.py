"""The writer that never waits, against readers that stall, leave or never come."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import textwrap
import threading
import time
import tracemalloc
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from clearway.logs import sinks
from clearway.logs.render import Renderer, Stamp
from clearway.logs.writer import Writer
from support.pipes import Pipe, eventually, run_child

INFO, ERROR = 20, 40
RENDERER = Renderer(Stamp("test"), 4096)
WAYS = [
    pytest.param(sinks.nowait, id="nowait"),
    pytest.param(sinks.reopened, id="reopened"),
    pytest.param(sinks.blocking, id="thread"),
]


@contextmanager
def writing(fd: int, **options: Any) -> Iterator[Writer]:
    """Open a writer for the length of a block."""
    writer = Writer(fd, report=RENDERER.dropped, **options)
    try:
        yield writer
    finally:
        writer.close(0.0)


def line(number: int, text: str = "") -> bytes:
    """Return a line that carries a number."""
    return b'{"n":%d,"text":"%s"}\n' % (number, text.encode())


def numbers(lines: list[bytes]) -> list[int]:
    """Return the numbers that lines carry; the writer's own have none."""
    return [event["n"] for event in map(json.loads, lines) if "n" in event]


def balanced(writer: Writer) -> bool:
    """Say whether the writer's books add up."""
    books = writer.snapshot()
    return books.emitted == books.written + books.lost + books.pending


async def loop_gap(seconds: float) -> float:
    """Return the longest time for which the loop ran nothing, within the given seconds."""
    longest, last = 0.0, time.monotonic()
    until = last + seconds
    while last < until:
        await asyncio.sleep(0.001)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    return longest


def test_a_line_is_in_the_pipe_when_write_returns() -> None:
    """Where the reader keeps up nothing is queued and no thread is started."""
    threads = set(threading.enumerate())
    with Pipe() as pipe, writing(pipe.writer) as writer:
        writer.write(line(1), INFO)
        assert numbers(pipe.lines()) == [1]
        assert writer.snapshot().pending == 0
        assert threads.issuperset(threading.enumerate())


@pytest.mark.anyio
async def test_a_stalled_reader_does_not_stop_the_loop() -> None:
    """The loop runs on, the shared flags stay, order holds, and what is lost is said."""
    with Pipe() as pipe, writing(pipe.writer, buffer_bytes=65_536) as writer:
        pipe.fill()
        flags = pipe.flags()
        gap = asyncio.create_task(loop_gap(0.5))
        for number in range(5_000):
            writer.write(line(number), INFO)
            if number % 50 == 0:
                await asyncio.sleep(0)
        assert await gap < 3
        stalled = writer.snapshot()
        assert stalled.lost > 0
        assert stalled.pending_bytes <= 65_536 + 4_096 + 200
        assert balanced(writer)
        assert pipe.flags() == flags
        lines = []
        while writer.snapshot().pending:
            lines += await anyio.to_thread.run_sync(pipe.lines)
            await asyncio.sleep(0.001)
        lines += pipe.lines()
        assert numbers(lines) == sorted(numbers(lines))
        reports = [event for event in map(json.loads, lines) if "dropped" in event]
        assert sum(report["dropped"] for report in reports) == stalled.lost
        assert len(numbers(lines)) + stalled.lost == 5_000
        assert balanced(writer)
        assert pipe.flags() == flags
        assert not flags & os.O_NONBLOCK


@pytest.mark.anyio
async def test_a_drop_report_is_a_line_like_the_others() -> None:
    """It says how many, of which level and since when, under the usual names."""
    with Pipe() as pipe, writing(pipe.writer, buffer_bytes=65_536) as writer:
        pipe.fill()
        for number in range(2_000):
            writer.write(line(number), 10 if number % 2 else INFO)
        lost = writer.snapshot().dropped
        lines: list[bytes] = []
        while writer.snapshot().pending or not lines:
            lines += pipe.lines()
            await asyncio.sleep(0.001)
        lines += pipe.lines()
        (report,) = [event for event in map(json.loads, lines) if "n" not in event]
        assert report["event"] == "log lines dropped"
        assert report["level"] == "warning"
        assert report["by_level"] == lost
        assert report["dropped"] == sum(lost.values())
        assert report["since"] <= report["timestamp"]
        assert set(lost) == {"debug", "info"}


@pytest.mark.anyio
async def test_a_thread_wakes_the_loop_to_drain_what_it_queued() -> None:
    """The thread goes on at once, and the loop writes its lines when the reader comes back."""
    with Pipe() as pipe, writing(pipe.writer) as writer:
        writer.attach(asyncio.get_running_loop())
        pipe.fill()

        def log() -> None:
            for number in range(100):
                writer.write(line(number), INFO)

        await asyncio.to_thread(log)
        assert writer.snapshot().pending == 100
        lines: list[bytes] = []
        while writer.snapshot().pending:
            lines += pipe.lines()
            await asyncio.sleep(0.001)
        assert numbers(lines + pipe.lines()) == list(range(100))


def test_a_loop_that_was_closed_is_forgotten() -> None:
    """What one loop left in the queue is drained by the next, or by a caller without one."""
    with Pipe() as pipe, writing(pipe.writer) as writer:

        async def stall(number: int) -> None:
            pipe.fill()
            writer.write(line(number), INFO)
            await asyncio.sleep(0.01)

        async def drain() -> list[bytes]:
            writer.write(line(2), INFO)
            lines: list[bytes] = []
            while writer.snapshot().pending:
                lines += pipe.lines()
                await asyncio.sleep(0.001)
            return lines + pipe.lines()

        asyncio.run(stall(1))
        assert numbers(asyncio.run(drain())) == [1, 2]
        asyncio.run(stall(3))
        lines = pipe.lines()
        writer.write(line(4), INFO)
        assert numbers(lines + pipe.lines()) == [3, 4]


def test_without_a_loop_a_stalled_reader_costs_one_short_wait() -> None:
    """A script waits once, then queues, then drops; it is not held up for each line."""
    with Pipe() as pipe, writing(pipe.writer, buffer_bytes=65_536) as writer:
        pipe.fill()
        began = time.monotonic()
        for number in range(3_000):
            writer.write(line(number), INFO)
        assert time.monotonic() - began < 20  # 150 s if each line waited its 50 ms
        assert writer.snapshot().lost > 0
        assert balanced(writer)


@pytest.mark.parametrize("way", WAYS)
def test_a_script_with_a_slow_reader_loses_nothing(way: sinks.Probe) -> None:
    """Every way to write keeps order and books while the reader lags behind."""
    with Pipe() as pipe, writing(pipe.writer, probe=way) as writer:
        lines: list[bytes] = []
        stop = threading.Event()

        def read_slowly() -> None:
            while not stop.wait(0.002):
                lines.extend(pipe.lines())

        reader = threading.Thread(target=read_slowly)
        reader.start()
        for number in range(4_000):
            writer.write(line(number, "x" * 60), INFO)
        writer.flush(10)
        stop.set()
        reader.join()
        books = writer.snapshot()
        assert (books.written, books.lost, books.pending) == (4_000, 0, 0)
        assert numbers(lines + pipe.lines()) == list(range(4_000))


@pytest.mark.parametrize("way", WAYS)
def test_a_reader_that_left_is_no_error(
    way: sinks.Probe, capfd: pytest.CaptureFixture[str]
) -> None:
    """Lines are counted as dropped, and stderr hears of it once."""
    with Pipe() as pipe, writing(pipe.writer, probe=way) as writer:
        os.close(pipe.reader)
        for number in range(100):
            writer.write(line(number), INFO)
        assert eventually(lambda: writer.snapshot().lost == 100)
        assert balanced(writer)
        pipe.reader = -1
    assert capfd.readouterr().err.count("the log target is broken") == 1


def test_a_reader_that_comes_back_is_told_what_it_missed(tmp_path: Path) -> None:
    """After its pause the writer tries again, and the stream carries the report."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with Pipe((reader, os.open(fifo, os.O_WRONLY))) as pipe, writing(pipe.writer) as writer:
        os.close(reader)
        writer.write(line(1), INFO)
        writer.write(line(2), INFO)
        assert writer.snapshot().lost == 2
        pipe.reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

        def written() -> bool:
            writer.write(line(3), INFO)
            return writer.snapshot().written > 0

        assert eventually(written)
        writer.flush(5)
        told = [json.loads(text) for text in pipe.lines()]
        assert told[0]["n"] == 3
        assert told[1]["dropped"] >= 2


def test_a_target_that_was_closed_from_the_start_is_no_error() -> None:
    """`python app.py >&-` counts its lines as dropped."""
    reader, closed = os.pipe()
    os.close(reader)
    os.close(closed)
    with writing(closed) as writer:
        writer.write(line(1), INFO)
        assert writer.snapshot().dropped == {"info": 1}


def test_a_reused_number_gets_no_log_lines() -> None:
    """When the application closes its stdout, the next owner of the number is left alone."""
    with Pipe() as pipe, Pipe() as stranger, writing(pipe.writer) as writer:
        os.dup2(stranger.writer, pipe.writer)
        writer.write(line(1), INFO)
        assert stranger.lines() == []
        assert numbers(pipe.lines()) == [1]


@pytest.mark.parametrize("way", WAYS)
def test_many_threads_lose_and_tear_nothing(way: sinks.Probe) -> None:
    """Each thread's lines stay in order, whoever happens to write them."""
    with Pipe() as pipe, writing(pipe.writer, probe=way, buffer_bytes=1 << 24) as writer:
        lines: list[bytes] = []
        stop = threading.Event()

        def read() -> None:
            while not stop.wait(0.0005):
                lines.extend(pipe.lines())

        def write(first: int) -> None:
            for number in range(first, first + 1_000):
                writer.write(line(number, "x" * 100), INFO)

        reader = threading.Thread(target=read)
        reader.start()
        threads = [threading.Thread(target=write, args=(k * 1_000,)) for k in range(8)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert balanced(writer)
        writer.flush(10)
        stop.set()
        reader.join()
        got = numbers(lines + pipe.lines())
        assert writer.snapshot().written == len(got) == 8_000
        for k in range(8):
            own = [n for n in got if n // 1_000 == k]
            assert own == list(range(k * 1_000, k * 1_000 + 1_000))


@pytest.mark.parametrize("way", WAYS)
def test_a_signal_handler_may_log_at_any_moment(way: sinks.Probe) -> None:
    """A handler that interrupts the writer neither deadlocks nor loses a line."""
    handled = 0
    with Pipe() as pipe, writing(pipe.writer, probe=way, buffer_bytes=1 << 24) as writer:

        def handler(number: int, frame: object) -> None:
            nonlocal handled
            handled += 1
            writer.write(line(1_000_000), INFO)

        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        lines: list[bytes] = []
        try:
            for number in range(5_000):
                writer.write(line(number), INFO)
                lines += pipe.lines()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        while writer.snapshot().pending:
            lines += pipe.lines()
            writer.flush(0.01)
        got = numbers(lines + pipe.lines())
        assert [n for n in got if n < 1_000_000] == list(range(5_000))
        assert len(got) == 5_000 + handled
        assert handled > 0


def test_waiting_lines_take_no_more_memory_than_was_allowed() -> None:
    """The bound is on real bytes: orjson's own results would take twenty times as much."""
    with Pipe() as pipe, writing(pipe.writer, buffer_bytes=1 << 20) as writer:
        pipe.fill()
        writer.write(line(0), INFO)
        tracemalloc.start()
        try:
            for number in range(20_000):
                writer.write(RENDERER.event("info", "x", {"n": number}), INFO)
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert writer.snapshot().lost > 0
        assert grown < 1.15 * (1 << 20)


def test_errors_find_room_when_info_has_filled_the_queue() -> None:
    """A stalled reader later gets every error, and fewer of the rest."""
    with Pipe() as pipe, writing(pipe.writer, buffer_bytes=65_536) as writer:
        pipe.fill()
        for number in range(1_000):
            writer.write(line(number), INFO)
        for number in range(1_000, 1_100):
            writer.write(line(number), ERROR)
        assert "error" not in writer.snapshot().dropped
        lines: list[bytes] = []
        while writer.snapshot().pending:
            lines += pipe.lines()
            writer.flush(0.01)
        assert [n for n in numbers(lines + pipe.lines()) if n >= 1_000] == list(range(1_000, 1_100))


def test_four_processes_on_one_pipe_tear_no_line() -> None:
    """Lines of up to 4,096 bytes stay whole, whoever writes beside them and however slowly."""
    code = """
        import sys
        from clearway.logs.render import Renderer, Stamp
        from clearway.logs.writer import Writer
        render = Renderer(Stamp("w"), 4096)
        writer = Writer(1, report=render.dropped)
        for n in range(400):
            pad = sys.argv[1] * (n * 17 % 6000)
            writer.write(render.event("info", "x", {"n": n, "pad": pad}), 20)
        writer.flush(20)
        assert writer.snapshot().written == 400, writer.snapshot()
    """
    with Pipe() as pipe:
        children = [
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(code), letter], stdout=pipe.writer
            )
            for letter in "abcd"
        ]
        lines: list[bytes] = []
        while any(child.poll() is None for child in children):
            lines += pipe.lines()
            time.sleep(0.002)
        lines += pipe.lines()
        assert [child.returncode for child in children] == [0] * 4
        assert len(lines) == 1_600
        assert all(json.loads(text)["event"] == "x" for text in lines)
        assert max(map(len, lines)) < 4_096


@pytest.mark.parametrize("way", WAYS)
def test_a_forked_child_logs_and_repeats_nothing(way: sinks.Probe) -> None:
    """The parent's waiting lines are written once, and the child's reach the pipe too."""
    with Pipe() as pipe, writing(pipe.writer, probe=way) as writer:
        pipe.fill()
        for number in range(20):
            writer.write(line(number), INFO)
        child = os.fork()
        if child == 0:  # what fails in here shows as a line that is missing below
            try:
                writer.write(line(100), INFO)
                writer.flush(10)
            finally:
                os._exit(0)
        lines: list[bytes] = []
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            lines += pipe.lines()
            time.sleep(0.001)
        while writer.snapshot().pending:
            lines += pipe.lines()
            writer.flush(0.01)
        got = numbers(lines + pipe.lines())
        assert sorted(got) == [*range(20), 100]


def test_a_terminal_is_written_through_a_description_of_our_own() -> None:
    """A terminal that nobody reads stops nobody, and its shared flags stay as they are."""
    ends = pty.openpty()
    tty.setraw(ends[1], termios.TCSANOW)
    with Pipe(ends) as terminal, writing(terminal.writer, buffer_bytes=65_536) as writer:
        flags = terminal.flags()
        threads = set(threading.enumerate())
        writer.write(line(0), INFO)
        assert numbers(terminal.wait_for(1)) == [0]
        for number in range(1, 3_000):
            writer.write(line(number, "x" * 40), INFO)
        assert writer.snapshot().lost > 0
        assert balanced(writer)
        assert terminal.flags() == flags
        assert not flags & os.O_NONBLOCK
        assert threads.issuperset(threading.enumerate())
        lines: list[bytes] = []
        while writer.snapshot().pending:
            lines += terminal.lines()
            writer.flush(0.01)
        got = numbers(lines + terminal.wait_for(1, 0.2))
        assert got == sorted(got)


def test_a_file_is_written_by_a_thread_that_ends_with_the_writer(tmp_path: Path) -> None:
    """A disk may stall, so its writes are a thread's; every line arrives, in order."""
    threads = set(threading.enumerate())
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    writer = Writer(fd, report=RENDERER.dropped)
    os.close(fd)
    for number in range(5_000):
        writer.write(line(number), INFO)
    writer.close(10)
    assert numbers(path.read_bytes().splitlines()) == list(range(5_000))
    assert writer.snapshot().written == 5_000
    # Not their number: a thread of an earlier test may end in between.
    assert eventually(lambda: threads.issuperset(threading.enumerate()))


def test_a_socket_that_takes_half_a_line_gets_the_other_half_first() -> None:
    """Where a write is cut short, the rest comes before the next line."""
    ours, theirs = socket.socketpair()
    ends = theirs.detach(), ours.detach()
    with Pipe(ends) as pipe, writing(pipe.writer, buffer_bytes=1 << 24) as writer:
        for number in range(200):
            writer.write(line(number, "x" * 10_000), INFO)
        lines: list[bytes] = []
        while writer.snapshot().pending:
            lines += pipe.lines()
            writer.flush(0.01)
        assert numbers(lines + pipe.lines()) == list(range(200))


@pytest.mark.parametrize("way", WAYS)
def test_close_is_bounded_and_says_what_it_gave_up(
    way: sinks.Probe, capfd: pytest.CaptureFixture[str]
) -> None:
    """A reader that stays away costs its time once, and its lines are counted as dropped."""
    with Pipe() as pipe:
        writer = Writer(pipe.writer, report=RENDERER.dropped, probe=way)
        pipe.fill()
        for number in range(7):
            writer.write(line(number), INFO)
        began = time.monotonic()
        writer.close(0.2)
        assert 0.1 < time.monotonic() - began < 10
        writer.write(line(8), INFO)
        books = writer.snapshot()
        assert (books.emitted, books.written, books.lost, books.pending) == (8, 0, 8, 0)
        assert "7 lines are lost" in capfd.readouterr().err
        writer.close(0.2)


@pytest.mark.anyio
async def test_closing_leaves_no_descriptor_behind() -> None:
    """After a stall and a close, the process has the descriptors that it had before."""
    with Pipe() as pipe:
        before = set(os.listdir("/proc/self/fd"))
        writer = Writer(pipe.writer, report=RENDERER.dropped)
        pipe.fill()
        writer.write(line(1), INFO)
        await asyncio.sleep(0.02)
        assert len(os.listdir("/proc/self/fd")) > len(before)
        writer.close(0.0)
        await asyncio.sleep(0.02)
        assert set(os.listdir("/proc/self/fd")) == before


def test_sigkill_takes_no_line_that_was_written() -> None:
    """Nothing waits in memory while the reader keeps up, so a kill has nothing to take."""
    child = run_child("""
        import os, signal
        from clearway.logs.render import Renderer, Stamp
        from clearway.logs.writer import Writer
        render = Renderer(Stamp("w"), 4096)
        writer = Writer(1, report=render.dropped)
        for n in range(100):
            writer.write(render.event("info", "x", {"n": n}), 20)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert child.returncode == -signal.SIGKILL
    assert numbers(child.stdout.splitlines()) == list(range(100))
