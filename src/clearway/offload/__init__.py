"""Run blocking calls in threads and CPU work in processes, bounded and off the event loop.

Worker processes import this package too, so the parts are imported on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, Unpack

from clearway.core.current import find

__all__ = ["process", "thread"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def thread(fn: Callable[[Unpack[Ts]], T], *args: *Ts, timeout: float | None = None) -> T:
    """Call a blocking function in a thread and return its result.

    Right for waiting, and for C code that releases the GIL (hashing, image codecs); a loop in
    Python would still slow down every request, so it belongs in `process`.

    Args:
        fn: A plain function; keywords go through `functools.partial`.
        args: Its positional arguments.
        timeout: Seconds from now, the wait for a thread included. A thread cannot be stopped:
            the caller goes on, and the slot stays taken until the function really returns.

    Raises:
        CallTimedOut: `timeout` has passed.
        DeadlineExceeded: The journey's deadline has passed.
        LaneBusy: Too many calls wait for a thread.
        AsyncFunctionRefused: `fn` is an `async def` function.
        CallRaised: `fn` raised `SystemExit` or the like, which must not end the service.
    """
    from clearway.offload.threads import Threads

    return await find(Threads, "offload.thread").run(fn, *args, timeout=timeout)


async def process(fn: Callable[[Unpack[Ts]], T], *args: *Ts, timeout: float | None = None) -> T:
    """Call a function in a worker process, killed at its deadline, and return its result.

    Args:
        fn: A function at the top level of a module; keywords go through `functools.partial`.
        args: Its positional arguments; they travel by pickle, large buffers without a copy.
        timeout: Seconds from now, the wait for a process included. At that moment, and when
            the caller is cancelled, the process and all that it started are killed.

    Raises:
        CallTimedOut: `timeout` has passed.
        DeadlineExceeded: The journey's deadline has passed.
        LaneBusy: Too many calls wait for a process.
        WorkerKilled: The process died while it ran the call.
        WorkerUnfit: No process could be started.
        NotPicklable: The function, an argument or the result cannot travel.
        AsyncFunctionRefused: `fn` is an `async def` function.
        CallRaised: The call raised something that cannot travel back.
    """
    from clearway.offload.processes import Processes

    return await find(Processes, "offload.process").run(fn, *args, timeout=timeout)
