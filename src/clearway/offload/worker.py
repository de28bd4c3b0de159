"""One worker process as its parent sees it: started, asked, killed, buried."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

from clearway.errors import WorkerUnfit
from clearway.offload import packing
from clearway.offload.obituary import oom_kills
from clearway.offload.pool import ThreadPool, settle
from clearway.offload.wire import Chunk, Decoder, Frame, Kind

# Seconds. A start imports what the initializer needs on a processor that may be busy.
START_WITHIN = 60.0
# Seconds that a worker has for its own clean-up once it is told to end.
RETIRE_WITHIN = 2.0

_BOOT = Path(__file__).with_name("boot.py")
_SMALL = 1 << 16


_here: weakref.WeakSet[Worker] = weakref.WeakSet()


@functools.cache
def _close_in_forks() -> None:
    """Close our ends in every process forked from this one, once.

    A forked child that held them open would keep the workers alive after our death.
    """

    def close() -> None:
        for worker in list(_here):
            worker.forget()

    if hasattr(os, "register_at_fork"):
        # touchpoint: worker-fork - closes two descriptors a worker in forked children
        os.register_at_fork(after_in_child=close)


class Lost(Exception):
    """The worker died before it had answered.

    Attributes:
        worker: The one that died.
        accepted: It had said that it begins; if not, nothing of the call has run.
    """

    def __init__(self, worker: Worker, accepted: bool) -> None:
        super().__init__(worker.pid, accepted)
        self.worker = worker
        self.accepted = accepted


class Worker:
    """A process, the socket to it, and at most one call in it.

    Args:
        on_lost: Called once when the process is lost, whatever the reason.
    """

    def __init__(self, on_lost: Callable[[Worker], None]) -> None:
        self.alive = True
        self.calls = 0
        self.pid = 0
        self.kills_before = 0
        self.reason: str | None = None
        self._loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[int] = self._loop.create_future()
        self._on_lost = on_lost
        self._process: subprocess.Popen[bytes] | None = None
        self._sock, self._child_sock = socket.socketpair()
        self._line, self._child_line = socket.socketpair()
        self._sock.setblocking(False)
        self._decoder = Decoder()
        self._reply: asyncio.Future[Frame] | None = None
        self._space: asyncio.Future[None] | None = None
        self._accepted = False
        self._pidfd: int | None = None
        self._bound: asyncio.TimerHandle | None = None
        _close_in_forks()
        _here.add(self)

    async def start(self, pool: ThreadPool, setting: list[Chunk]) -> None:
        """Start the process and make it ready.

        Args:
            pool: Starts it: exec takes half a millisecond here, and more on a busy machine.
            setting: The frame that makes it ready.

        Raises:
            WorkerUnfit: It cannot be started, or its initializer failed.
        """
        self._bound = self._loop.call_later(START_WITHIN, self.kill, "it was not ready in time")
        try:
            self._process = await pool.run(self._spawn)
        except OSError as error:
            self._abort()
            raise WorkerUnfit(f"no worker process could be started: {error}") from error
        self.pid = self._process.pid
        if self.alive:
            self._attend()
        else:  # killed while it was being started
            self._bury()
        await self._make_ready(setting)
        self._bound.cancel()

    async def call(self, chunks: list[Chunk]) -> Frame:
        """Send a call and return the answer; kill the process if the caller is cancelled.

        Raises:
            Lost: The process died.
        """
        self.calls += 1
        try:
            return await self._exchange(chunks)
        except asyncio.CancelledError:
            self.kill("its call was given up")
            raise

    def kill(self, reason: str | None = None) -> None:
        """Kill the process and everything it has started, now."""
        self.reason = self.reason or reason
        self._lose()

    def retire(self) -> None:
        """Let the process end by itself, in bounded time; it must be idle."""
        self._bound = self._loop.call_later(RETIRE_WITHIN, self.kill)
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def forget(self) -> None:
        """Close the descriptors, in a process that was forked from the worker's parent."""
        self._sock.close()
        self._line.close()

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.kills_before = oom_kills()
        fds = self._child_sock.fileno(), self._child_line.fileno()
        try:
            return subprocess.Popen(  # noqa: S603 - our own interpreter and file
                [sys.executable, "-P", str(_BOOT), *map(str, fds), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=fds,
                start_new_session=True,
            )
        finally:
            self._child_sock.close()
            self._child_line.close()

    def _attend(self) -> None:
        """Watch the socket, and the process itself where the kernel can say that it ended.

        The socket alone would not do: a process that the call forked may hold it open.
        """
        assert self._process is not None
        self._loop.add_reader(self._sock, self._readable)
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self._pidfd = os.pidfd_open(self._process.pid)
                self._loop.add_reader(self._pidfd, self._exited)

    async def _make_ready(self, setting: list[Chunk]) -> None:
        try:
            problem = packing.unfit(await self._exchange(setting))
        except Lost:
            code = await self.gone
            problem = self.reason or f"it ended with code {code} before it was ready"
        if problem is not None:
            self.kill("it was unfit")
            raise WorkerUnfit(
                f"worker process {self.pid} could not be made ready: {problem}",
                fix="what it wrote to stderr says more",
            )

    async def _exchange(self, chunks: list[Chunk]) -> Frame:
        if not self.alive:
            raise Lost(self, accepted=False)
        self._accepted = False
        self._reply = self._loop.create_future()
        try:
            await self._send(chunks)
        except OSError:
            self._lose()
        return await self._reply

    async def _send(self, chunks: list[Chunk]) -> None:
        if sum(map(len, chunks)) <= _SMALL:
            chunks = [b"".join(chunks)]
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                try:
                    rest = rest[self._sock.send(rest) :]
                except BlockingIOError:
                    await self._writable()

    async def _writable(self) -> None:
        """Wait until the socket takes more, or the process is lost.

        Not `loop.sock_sendall`: it would wait for ever for a socket that `_lose` has closed.
        """
        self._space = space = self._loop.create_future()
        self._loop.add_writer(self._sock, settle, space, None)
        try:
            await space
        finally:
            if self.alive:
                self._loop.remove_writer(self._sock)

    def _readable(self) -> bool:
        """Take what has arrived; return False once nothing more can."""
        try:
            count = self._sock.recv_into(self._decoder.room())
        except BlockingIOError:
            return False
        except OSError:
            count = 0
        if not count:
            self._lose()
            return False
        for frame in self._decoder.received(count):
            self._take(frame)
        return True

    def _take(self, frame: Frame) -> None:
        if frame.kind is Kind.STARTED:
            self._accepted = True
        elif self._reply is not None and not self._reply.done():
            self._reply.set_result(frame)

    def _exited(self) -> None:
        while self.alive and self._readable():
            pass  # an answer may lie in the socket still
        self._lose()

    def _lose(self) -> None:
        if not self.alive:
            return
        self.alive = False
        if self._bound is not None:
            self._bound.cancel()
        self._hang_up()
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(Lost(self, self._accepted))
            self._reply.exception()  # nobody waits where the caller has left
        if self._space is not None:
            settle(self._space, None)
        self._on_lost(self)
        if self._process is not None:
            self._bury()

    def _hang_up(self) -> None:
        if self._process is not None:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        self._sock.close()

    def _abort(self) -> None:
        """End a worker that never had a process."""
        self._lose()
        self._line.close()
        self.gone.set_result(0)

    def _bury(self) -> None:
        """Kill what is left of the group, then fetch the exit code.

        In this order: until the code is fetched, no other process can get the group's number.
        """
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._reap(0.0005)

    def _reap(self, delay: float) -> None:
        assert self._process is not None
        code = self._process.poll()
        if code is None:
            self._loop.call_later(delay, self._reap, min(2 * delay, 0.1))
            return
        self._line.close()
        if not self.gone.done():
            self.gone.set_result(code)
