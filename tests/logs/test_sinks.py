"""How the way to write is chosen."""

from __future__ import annotations

import os
import pty
import socket
from pathlib import Path

import pytest

from clearway.logs import sinks
from support.pipes import Pipe


def kind_for(fd: int) -> type[sinks.Sink]:
    """Return the kind of sink that is chosen for a descriptor."""
    sink = sinks.probe(fd)
    sink.close()
    return type(sink)


def test_each_kind_of_target_has_its_way(tmp_path: Path) -> None:
    """Pipes and sockets need no thread, terminals a description of their own, files a thread."""
    ours, theirs = socket.socketpair()
    master, slave = pty.openpty()
    with (
        ours, theirs, Pipe((master, slave)), Pipe() as pipe,
        open(os.devnull, "wb") as null, open(tmp_path / "file", "wb") as file,
    ):  # fmt: skip
        assert kind_for(pipe.writer) is sinks.NoWait
        assert kind_for(ours.fileno()) is sinks.NoWait
        assert kind_for(null.fileno()) is sinks.NoWait
        assert kind_for(slave) is sinks.Reopened
        assert kind_for(file.fileno()) is sinks.Blocking


def test_a_pipe_with_a_name_is_reopened(tmp_path: Path) -> None:
    """RWF_NOWAIT works on a pipe without a name and is refused by one that has a name."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with Pipe((reader, os.open(fifo, os.O_WRONLY))) as pipe:
        assert kind_for(pipe.writer) is sinks.Reopened
        with pytest.raises(OSError, match="not supported"):
            os.pwritev(pipe.writer, [b"x"], -1, os.RWF_NOWAIT)


def test_probing_writes_nothing_and_leaves_the_flags() -> None:
    """A target that was only looked at has received nothing and is as blocking as before."""
    with Pipe() as pipe:
        flags = pipe.flags()
        for way in (sinks.probe, sinks.nowait, sinks.reopened, sinks.blocking):
            way(pipe.writer).close()
        assert pipe.lines() == []
        assert pipe.flags() == flags


def test_batches_to_a_pipe_are_short_enough_to_stay_whole(tmp_path: Path) -> None:
    """Longer batches than PIPE_BUF are for files only."""
    with Pipe() as pipe, open(tmp_path / "file", "wb") as file:
        for fd, most in ((pipe.writer, sinks.PIPE_BUF), (file.fileno(), 65_536)):
            sink = sinks.blocking(fd)
            assert sink.batch == most
            sink.close()
