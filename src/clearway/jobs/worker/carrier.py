"""The process that has the application and runs its jobs, as its worker sees it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from clearway.jobs.store import Order
from clearway.jobs.worker.channel import Channel
from clearway.jobs.worker.manifest import Manifest
from clearway.offload.obituary import advice, cause, oom_kills

START_WITHIN = 60.0
"""Seconds for importing the application and its own start-up."""

_LAST_WORDS = 1.0  # seconds; what it had sent before it ended lies in the socket

Answer = dict[str, Any]
OnAnswers = Callable[["Carrier", list[Answer]], None]
OnGone = Callable[["Carrier", str], None]


class CarrierFailed(Exception):
    """The application did not come up; its process has said why."""


class Carrier:
    """A child process, in a session of its own, that dies with this one.

    Args:
        command: Starts it; a descriptor of the channel, one of the lifeline and our process id
            are appended.

    Attributes:
        ready: It takes orders.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._channel: Channel | None = None
        self._lifeline: socket.socket | None = None
        self._watch: asyncio.Task[None] | None = None
        self._kills_before = 0
        self._pinged: float | None = None
        self.ready = False

    @property
    def pid(self) -> int:
        """Its process id; 0 before the start."""
        return 0 if self._process is None else self._process.pid

    async def start(self) -> Manifest:
        """Start it, and return what its application is.

        Raises:
            CarrierFailed: It ended, or was not ready within 60 seconds.
        """
        ours, theirs = socket.socketpair()
        self._lifeline, line = socket.socketpair()
        self._kills_before = oom_kills()
        with theirs, line:
            fds = theirs.fileno(), line.fileno()
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command, *map(str, fds), str(os.getpid()),
                    pass_fds=fds, start_new_session=True, stdin=asyncio.subprocess.DEVNULL,
                )  # fmt: skip
            except OSError as error:
                ours.close()
                self._lifeline.close()
                raise CarrierFailed(f"no process could be started: {error}") from error
        self._channel = await Channel.over(ours)
        try:
            async with asyncio.timeout(START_WITHIN):
                hello = await self._channel.receive()
        except TimeoutError:
            hello = None
        except BaseException:
            await self._bury()
            raise
        if hello is None:
            await self._bury()
            raise CarrierFailed(f"the application did not come up: {self._reason()}")
        return Manifest.from_json(hello)

    def attend(self, on_answers: OnAnswers, on_gone: OnGone) -> None:
        """Take orders from now on.

        Args:
            on_answers: Called with what it says of its runs.
            on_gone: Called once when it has ended, with the reason in words.
        """
        self.ready = True
        self._watch = asyncio.create_task(
            self._attend(on_answers, on_gone), name="clearway carrier"
        )

    def run(self, orders: Sequence[Order]) -> None:
        """Have it run jobs."""
        self._send({"run": [_order(order) for order in orders]})

    def cancel(self, order: Order, *, lost: bool) -> None:
        """Have it give up a run; it answers when that has ended.

        Args:
            order: What is given up.
            lost: Its lease was lost; else it is asked for back.
        """
        self._send({"cancel": str(order.token), "lost": lost})

    def silent_for(self) -> float:
        """Ask whether its loop turns; return for how many seconds it has not answered that."""
        if self._pinged is None:
            self._pinged = time.monotonic()
            self._send({"ping": True})
        return time.monotonic() - self._pinged

    def kill(self) -> None:
        """Kill it and all that it has started, now."""
        self.ready = False
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def end(self, within: float) -> None:
        """Let it close its application; kill it after `within` seconds."""
        self.ready = False
        if self._channel is not None:
            self._channel.close()
        if self._watch is not None:
            await asyncio.wait([self._watch], timeout=within)
            self.kill()
            await self._watch

    def _send(self, message: dict[str, Any]) -> None:
        assert self._channel is not None
        self._channel.send(message)

    async def _attend(self, on_answers: OnAnswers, on_gone: OnGone) -> None:
        assert self._process is not None
        reading = asyncio.create_task(self._read(on_answers), name="clearway carrier's answers")
        try:
            await self._process.wait()
            await asyncio.wait([reading], timeout=_LAST_WORDS)
        finally:
            reading.cancel()
            await self._bury()
            on_gone(self, self._reason())

    async def _read(self, on_answers: OnAnswers) -> None:
        assert self._channel is not None
        while (message := await self._channel.receive()) is not None:
            self._pinged = None
            on_answers(self, message["answers"])

    async def _bury(self) -> None:
        self.kill()
        if self._process is not None:
            await self._process.wait()
        if self._channel is not None:
            self._channel.close()
        if self._lifeline is not None:
            self._lifeline.close()

    def _reason(self) -> str:
        code = None if self._process is None else self._process.returncode
        if code is None:
            return "it was not started"
        out_of_memory = oom_kills() > self._kills_before
        return f"{cause(code, out_of_memory)}; {advice(code, out_of_memory)}"


def _order(order: Order) -> dict[str, Any]:
    # Not `asdict`, which copies every value deeply: 110 us a job.
    return {
        **{field: getattr(order, field) for field in Order.__slots__},
        "token": str(order.token),
        "enqueued_at": order.enqueued_at.isoformat(),
    }
