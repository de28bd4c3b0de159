"""What a declaration says, and what is refused of it."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI

from clearway import Clearway, Settings, resource
from clearway.errors import ResourceInvalid
from support.asgi import StartFailed, running

pytestmark = pytest.mark.anyio


async def returns() -> int:
    """Return where a resource would yield."""
    return 1


def plain_generator() -> Iterator[int]:
    """Yield without `async`."""
    yield 1


@asynccontextmanager
async def decorated() -> AsyncIterator[int]:
    """Be a context manager already."""
    yield 1


@pytest.mark.parametrize(
    ("function", "fix"),
    [
        (returns, "`yield` the value where it returns it"),
        (plain_generator, "write `async def`"),
        (decorated, "take the other decorator"),
        (len, "write an `async def` function that yields"),
        (functools.partial(returns), "`yield` the value"),
    ],
)
def test_what_is_no_asynchronous_generator_is_refused(
    function: Callable[..., Any], fix: str
) -> None:
    """The declaration itself fails, with the way out for each kind of mistake."""
    with pytest.raises(ResourceInvalid, match=r"\[CW107\] .*is no asynchronous generator") as error:
        resource(function)

    assert fix in error.value.fix
    assert isinstance(error.value, TypeError)


def test_a_resource_is_itself_alone() -> None:
    """Two declarations of one function are two resources, and both print their name."""

    async def made() -> AsyncIterator[int]:
        yield 1

    one, other = resource(made), resource(made)

    assert {one: 1, other: 2}[one] == 1
    assert one != other
    assert repr(one) == f"<Resource {__name__}:{made.__qualname__}>"


async def get_setting() -> int:
    """Stand for an endpoint, and for a dependency of FastAPI's."""
    return 1


@resource
async def with_default(size: int = 3) -> AsyncIterator[int]:
    """Take a plain value."""
    yield size


@resource
async def with_dependency(size: Annotated[int, Depends(get_setting)]) -> AsyncIterator[int]:
    """Take a dependency that is no resource."""
    yield size


@resource
async def with_unknown(size: Annotated[int, nowhere]) -> AsyncIterator[int]:  # noqa: F821 - on purpose
    """Take what the module does not have."""
    yield size


@pytest.mark.parametrize("broken", [with_default, with_dependency, with_unknown])
async def test_a_parameter_that_is_no_resource_fails_the_start(broken: Any) -> None:
    """The resource, the parameter and what it is annotated with are named, with the fix."""
    app = FastAPI(dependencies=[broken])
    app.get("/")(get_setting)
    Clearway(app, Settings())

    with pytest.raises(StartFailed) as refusal:
        async with running(app):
            raise AssertionError("the app came up")

    assert f"[CW107] parameter 'size' of resource {broken.name} is no resource" in str(
        refusal.value
    )
    assert "write `size: Annotated[T, other]`" in str(refusal.value)


@resource
async def chicken(of: Annotated[int, egg]) -> AsyncIterator[int]:
    """Need what needs it."""
    yield of


@resource
async def egg(of: Annotated[int, chicken]) -> AsyncIterator[int]:
    """Need what needs it."""
    yield of


@resource
async def narcissus() -> AsyncIterator[int]:
    """Need itself by `await`."""
    yield await narcissus()


async def test_a_circle_is_shown() -> None:
    """Resources that need each other fail the start, by parameter as by `await`, not hang it."""
    seen: list[str] = []
    for entry in (chicken, narcissus):
        app = FastAPI(dependencies=[entry])
        app.get("/")(get_setting)
        Clearway(app, Settings())
        with pytest.raises(StartFailed) as refusal:
            async with running(app):
                raise AssertionError("the app came up")
        seen.append(str(refusal.value))

    c, e, n = chicken.name, egg.name, narcissus.name
    assert f"[CW107] resources need each other in a circle: {e} -> {c} -> {e}" in seen[0]
    assert f"in a circle: {n} -> {n}" in seen[1]
