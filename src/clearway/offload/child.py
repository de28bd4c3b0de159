"""What runs in a worker process: one call after another, until the socket ends."""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import inspect
import os
import pickle
import runpy
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Literal, cast

from clearway.core.deadline import Deadline
from clearway.core.journey import Journey, enter
from clearway.offload.lifeline import die_with, leave_stopping_to_the_parent
from clearway.offload.wire import Chunk, Decoder, Frame, Kind, decode, encode

# Seconds that clean-up at the end may take: threads that the calls left behind, say.
LINGER = 1.5

_STARTED = b"".join(encode(Kind.STARTED, None))


@dataclass(frozen=True, slots=True)
class Setting:
    """What a worker needs to know of its parent before the first call.

    Attributes:
        path: The parent's `sys.path`.
        argv: The parent's `sys.argv`.
        main_name: Name of the parent's main module if it was run by `-m`.
        main_path: File of the parent's main module otherwise; None where there is none.
        nice: How much to add to the scheduling niceness.
        initializer: `module:function` to call once, None for nothing.
        initargs: The pickled tuple of its arguments.
    """

    path: list[str]
    argv: list[str]
    main_name: str | None
    main_path: str | None
    nice: int
    initializer: str | None
    initargs: bytes


@dataclass(frozen=True, slots=True)
class Context:
    """The part of a journey that travels with a call."""

    kind: Literal["request", "websocket", "background", "job", "script"]
    id: str
    route: str | None
    deadline: Deadline | None


Call = tuple[Context | None, Callable[..., object], tuple[object, ...]]


def main(fd: int, lifeline: int, parent: int) -> None:
    """Serve calls from a socket until its other end is closed.

    Args:
        fd: The socket, inherited.
        lifeline: A socket whose other end only the parent holds.
        parent: Process id of the parent.
    """
    for inherited in (fd, lifeline):
        os.set_inheritable(inherited, False)
    die_with(lifeline, parent)
    leave_stopping_to_the_parent()
    sock = socket.socket(fileno=fd)
    worker = _Worker(sock)
    # The parent may go away in mid-sentence: the same as the end.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        worker.serve()
    # The kernel closes the socket when the process is really gone, `atexit` included: that is
    # what the parent takes as the end.
    sock.detach()
    # A thread that a call left behind would hold up the exit for ever.
    timer = threading.Timer(LINGER, os._exit, (0,))
    timer.daemon = True
    timer.start()


class _Worker:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._decoder = Decoder()
        self._main = _Main()

    def serve(self) -> None:
        while (frame := self._receive()) is not None:
            if frame.kind is Kind.CALL:
                # Before any byte of the call is looked at: without it, nothing has run.
                self._sock.sendall(_STARTED)
                self._send(self._answer(frame))
            elif not self._prepare(frame):
                return

    def _receive(self) -> Frame | None:
        while count := self._sock.recv_into(self._decoder.room()):
            for frame in self._decoder.received(count):
                return frame  # the parent waits for the answer before it sends another
        return None

    def _send(self, chunks: list[Chunk]) -> None:
        if sum(map(len, chunks)) <= 1 << 16:
            self._sock.sendall(b"".join(chunks))
        else:
            for chunk in chunks:
                self._sock.sendall(chunk)

    def _prepare(self, frame: Frame) -> bool:
        try:
            setting = cast(Setting, decode(frame, str))
            os.nice(setting.nice)
            sys.path[:] = setting.path
            sys.argv[:] = setting.argv
            self._main = _Main(setting.main_name, setting.main_path)
            self._initialize(setting)
        except BaseException:  # noqa: BLE001 - told to the parent, and the worker ends
            self._send(encode(Kind.UNFIT, traceback.format_exc()))
            return False
        self._send(encode(Kind.READY, None))
        return True

    def _initialize(self, setting: Setting) -> None:
        if setting.initializer is None:
            return
        module, _, name = setting.initializer.partition(":")
        initializer: object = importlib.import_module(self._main.module(module))
        for part in name.split("."):
            initializer = getattr(initializer, part)
        args = pickle.loads(setting.initargs)  # noqa: S301 - from our own parent
        cast(Callable[..., object], initializer)(*args)

    def _answer(self, frame: Frame) -> list[Chunk]:
        try:
            context, fn, args = cast(Call, decode(frame, self._main.module))
            result = contextvars.copy_context().run(_call, context, fn, args)
        except BaseException as error:  # noqa: BLE001 - raised where the caller waits
            return _failure(error, self._main.module)
        finally:
            _flush()
        try:
            return encode(Kind.RESULT, result)
        except Exception as error:  # noqa: BLE001 - pickling runs the user's own methods
            name = type(result).__qualname__
            if inspect.iscoroutine(result):
                result.close()
            return encode(Kind.STUCK, (name, f"{type(error).__name__}: {error}"))


def _call(context: Context | None, fn: Callable[..., object], args: tuple[object, ...]) -> object:
    if context is not None:
        enter(Journey(context.kind, id=context.id, route=context.route, deadline=context.deadline))
    return fn(*args)


def _failure(error: BaseException, module: Callable[[str], str]) -> list[Chunk]:
    text = "".join(traceback.format_exception(type(error), error, _users(error.__traceback__)))
    if isinstance(error, Exception):
        try:
            blob = pickle.dumps(error, 5)
            # Many exceptions pickle and cannot be made again: their __init__ wants other
            # arguments than `args`. Better to know it here than in the parent.
            pickle.loads(blob)  # noqa: S301 - our own pickle
            return encode(Kind.RAISED, (error, text))
        except Exception:  # noqa: BLE001, S110 - it travels as text then
            pass
    return encode(Kind.FOREIGN, (type(error).__qualname__, _text_of(error), text))


def _users(trace: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback that is not ours; all of it where the call never began."""
    rest = trace
    while rest is not None and rest.tb_frame.f_code.co_filename == __file__:
        rest = rest.tb_next
    return rest or trace


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:  # noqa: BLE001 - a user's __str__ may do anything
        return f"<its __str__ raised {type(second).__name__}>"


def _flush() -> None:
    """Let printed lines out: a worker that is killed later would take them along."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue


class _Main:
    """The parent's main module, loaded once a call needs it, as `__mp_main__`.

    The name is multiprocessing's, so that `if __name__ == "__main__":` guards as it does there.
    """

    def __init__(self, name: str | None = None, path: str | None = None) -> None:
        self._name = name
        self._path = path
        self._loaded = False

    def module(self, name: str) -> str:
        """Return the name of the module that stands for `name` in this process."""
        if name != "__main__":
            return name
        if not self._loaded:
            self._load()
        return "__mp_main__"

    def _load(self) -> None:
        module = ModuleType("__mp_main__")
        # touchpoint: worker-main - the parent's script stands in for ours, as with spawn
        sys.modules["__mp_main__"] = module
        try:
            if self._name is not None:
                content = runpy.run_module(self._name, run_name="__mp_main__", alter_sys=False)
            else:
                assert self._path is not None, "the parent refuses functions of no file"
                content = runpy.run_path(self._path, run_name="__mp_main__")
        except SystemExit as error:
            raise ImportError(
                f"the script {self._path or self._name} ended with {error!r} while a worker "
                "process imported it: guard what starts it with `if __name__ == '__main__':`"
            ) from error
        module.__dict__.update(content)
        sys.modules["__main__"] = module
        self._loaded = True
