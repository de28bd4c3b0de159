"""Name functions in messages, and refuse the ones that cannot run off the loop."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TypeVar

from clearway.errors import AsyncFunctionRefused

T = TypeVar("T")


def unwrap(fn: object) -> object:
    """Return the function inside any number of `functools.partial`."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn


def name_of(fn: object) -> str:
    """Return `module:qualname`, or the type of a callable that has no name."""
    fn = unwrap(fn)
    name = getattr(fn, "__qualname__", None)
    if name is None:
        fn, name = type(fn), f"{type(fn).__qualname__} object"
    return f"{getattr(fn, '__module__', None) or 'builtins'}:{name}"


def refuse_async(fn: Callable[..., object]) -> None:
    """Raise `AsyncFunctionRefused` for an `async def` function."""
    if inspect.iscoroutinefunction(unwrap(fn)):
        raise _refusal(name_of(fn))


def refuse_coroutine(result: T, name: str) -> T:
    """Return a result, unless it is a coroutine that nobody would ever await.

    Raises:
        AsyncFunctionRefused: It is one: a lambda round an async function, say.
    """
    if inspect.iscoroutine(result):
        result.close()
        raise _refusal(name)
    return result


def _refusal(name: str) -> AsyncFunctionRefused:
    return AsyncFunctionRefused(
        f"{name} is asynchronous, and there is no event loop in a thread or worker process",
        fix="await it where you are, or hand over the plain function that does the work",
    )
