"""Turn calls into frames and answers into results, and say what cannot travel and why."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, Unpack, cast

from clearway.core.journey import current_journey
from clearway.errors import AsyncFunctionRefused, CallRaised, ClearwayError, NotPicklable
from clearway.offload.child import Context, Setting
from clearway.offload.functions import name_of, unwrap
from clearway.offload.pool import ThreadPool
from clearway.offload.wire import Chunk, Frame, Kind, TooLarge, decode, encode

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Bytes. What is smaller is pickled on the loop (at most 2-3 ms even for tiny objects), what is
# larger in a thread that gives up the GIL every 64 KiB.
ON_LOOP = 1 << 17

_PLAIN = (
    "pass plain data (ids, bytes, paths, dataclasses) and open what is live (a session, a "
    "connection, a lock, a file) inside the function"
)


class RemoteTraceback(Exception):
    """The traceback of a worker process, as the cause of the exception that it raised."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


async def pack(pool: ThreadPool, fn: Callable[[Unpack[Ts]], object], *args: *Ts) -> list[Chunk]:
    """Return the frame of a call.

    Args:
        pool: Pickles what is large, so that the loop is not held.
        fn: The function.
        args: Its arguments.

    Raises:
        NotPicklable: The function or an argument cannot travel.
    """
    _refuse_homeless(fn)
    call = (_context(), fn, args)
    try:
        try:
            return encode(Kind.CALL, call, ON_LOOP)
        except TooLarge:
            return await pool.run(encode, Kind.CALL, call)
    except Exception as error:
        raise _explain(fn, args, error) from error


async def unpack(pool: ThreadPool, frame: Frame, name: str) -> object:
    """Return what a call returned, or raise what it raised.

    Args:
        pool: Unpickles what is large.
        frame: The answer.
        name: The function's, for messages.

    Raises:
        NotPicklable: The result cannot travel.
        AsyncFunctionRefused: The result is a coroutine.
        CallRaised: It raised something that cannot travel.
    """
    try:
        if frame.size <= ON_LOOP:
            content = decode(frame, _module)
        else:
            content = await pool.run(decode, frame, _module)
    except Exception as error:
        raise _strange(frame.kind, name, error) from error
    if frame.kind is Kind.RESULT:
        return content
    if frame.kind is Kind.RAISED:
        raised, text = cast(tuple[Exception, str], content)
        raise raised from RemoteTraceback(text)
    if frame.kind is Kind.STUCK:
        raise _stuck(name, *cast(tuple[str, str], content))
    raise _foreign(name, *cast(tuple[str, str, str], content))


def setting(nice: int, initializer: str | None, initargs: bytes) -> list[Chunk]:
    """Return the frame that makes a new worker ready."""
    name, path = _main()
    return encode(
        Kind.INIT,
        Setting(list(sys.path), list(sys.argv), name, path, nice, initializer, initargs),
    )


def unfit(frame: Frame) -> str | None:
    """Return why a new worker cannot be used, None if it can."""
    return None if frame.kind is Kind.READY else str(decode(frame, _module))


def pickled_arguments(initializer: str | None, args: tuple[object, ...]) -> bytes:
    """Return the pickled arguments of an initializer.

    Raises:
        NotPicklable: One of them cannot travel.
    """
    try:
        return pickle.dumps(args, 5)
    except Exception as error:
        raise NotPicklable(
            f"an argument of the initializer {initializer} cannot be pickled: {error}", fix=_PLAIN
        ) from error


def _context() -> Context | None:
    journey = current_journey()
    if journey is None:
        return None
    return Context(journey.kind, journey.id, journey.route, journey.deadline)


def _module(name: str) -> str:
    return "__main__" if name == "__mp_main__" else name


def _main() -> tuple[str | None, str | None]:
    """Return the name of our main module if it was run by `-m`, else its file."""
    main = sys.modules.get("__main__")
    name = getattr(getattr(main, "__spec__", None), "name", None)
    path = getattr(main, "__file__", None)
    # `python -` calls its file "<stdin>".
    return name, path if name is None and path is not None and os.path.isfile(path) else None


def _refuse_homeless(fn: object) -> None:
    fn = unwrap(fn)
    name = getattr(fn, "__qualname__", "")
    if "<lambda>" in name:
        raise NotPicklable(
            f"{name_of(fn)} is a lambda, and another process cannot find it by its name",
            fix="write it as a `def` at the top level of a module",
        )
    if "<locals>" in name:
        raise NotPicklable(
            f"{name_of(fn)} is defined inside a function, and another process cannot find it",
            fix="move it to the top level of its module and pass what it uses as arguments "
            "(keywords through functools.partial)",
        )
    if getattr(fn, "__module__", None) == "__main__" and _main() == (None, None):
        raise NotPicklable(
            f"{name_of(fn)} was typed in or piped in: there is no file to import it from",
            fix="put it into a module",
        )


def _explain(fn: object, args: tuple[object, ...], error: Exception) -> ClearwayError:
    if (problem := _problem(fn)) is not None:
        return NotPicklable(
            f"{name_of(fn)} cannot be pickled: {problem}",
            fix="hand over a function that stands at the top level of a module under its own "
            "name (what a decorator has replaced is found no more)",
        )
    for number, arg in enumerate(args, 1):
        if (problem := _problem(arg)) is not None:
            kind = type(arg).__qualname__
            return NotPicklable(
                f"argument {number} of {name_of(fn)} ({kind}) cannot be pickled: {problem}",
                fix=_PLAIN,
            )
    return NotPicklable(f"the call of {name_of(fn)} cannot be pickled: {error}", fix=_PLAIN)


def _problem(item: object) -> str | None:
    try:
        encode(Kind.CALL, item, ON_LOOP)
    except TooLarge:
        return None
    except Exception as error:  # noqa: BLE001 - pickling runs the user's own methods
        return f"{type(error).__name__}: {error}"
    return None


def _stuck(name: str, kind: str, problem: str) -> ClearwayError:
    if kind == "coroutine":
        return AsyncFunctionRefused(
            f"{name} returned a coroutine, which nobody can await in a worker process",
            fix="hand over the plain function that does the work",
        )
    return NotPicklable(f"the result of {name} ({kind}) cannot be pickled: {problem}", fix=_PLAIN)


def _foreign(name: str, kind: str, text: str, trace: str) -> ClearwayError:
    error = CallRaised(
        f"{name} raised {kind}: {text}",
        fix="let it raise an Exception that can be pickled: one whose `args` are what its "
        "__init__ takes",
    )
    error.__cause__ = RemoteTraceback(trace)
    return error


def _strange(kind: Kind, name: str, error: Exception) -> ClearwayError:
    if kind is Kind.RAISED:
        return CallRaised(f"{name} raised an exception that cannot be unpickled here: {error}")
    return NotPicklable(
        f"the result of {name} cannot be unpickled: {type(error).__name__}: {error}", fix=_PLAIN
    )
