"""Declare a resource: an asynchronous generator that opens, yields its value, and closes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any, Generic, TypeVar, cast, get_args, get_origin

from fastapi.dependencies.utils import get_typed_signature  # touchpoint: fastapi-signature
from fastapi.params import Depends

from clearway.core.current import find
from clearway.errors import ResourceInvalid
from clearway.state.resources import Resources

T = TypeVar("T")


class Resource(Depends, Generic[T]):
    """What `@resource` makes of a function; see there.

    For FastAPI it is a dependency whose function is itself, so it stands in `Annotated`, in
    `dependencies=[...]` and as a key of `app.dependency_overrides`.

    Attributes:
        name: `module:qualname`, in messages, logs and `road.resources`.
        generator: The function that was declared.
    """

    def __init__(self, generator: Callable[..., AsyncIterator[T]]) -> None:
        super().__init__(self)
        self.name = f"{generator.__module__}:{_name_of(generator)}"
        self.generator = generator

    async def __call__(self) -> T:
        """Return the value, in a handler, a job or a script; open it if it is not open yet.

        Raises:
            NotOpen: No Clearway is open, or its shutdown has begun.
            ResourceFailed: It could not be opened.
        """
        return await find(Resources, f"resource {self.name}").get(self)

    @functools.cached_property
    def needs(self) -> Mapping[str, Resource[Any]]:
        """The resources that it asks for, by parameter; resolved at the start, when all exist.

        Raises:
            ResourceInvalid: A parameter is no resource.
        """
        parameters = get_typed_signature(self.generator).parameters.values()
        return {parameter.name: self._need(parameter) for parameter in parameters}

    def _need(self, parameter: inspect.Parameter) -> Resource[Any]:
        need = resource_in(parameter.annotation)
        if need is None:
            raise ResourceInvalid(
                f"parameter {parameter.name!r} of resource {self.name} is no resource: "
                f"{parameter.annotation!r}",
                fix=f"write `{parameter.name}: Annotated[T, other]`, where `other` is a resource "
                "that the module has at its top level",
            )
        return need

    def replaced_by(self, fake: Callable[..., Any]) -> Resource[T]:
        """Return the resource that stands for this one where a test overrides it.

        Args:
            fake: A resource, an asynchronous generator, or a function that returns the value.
        """
        if isinstance(fake, Resource):
            return cast("Resource[T]", fake)
        if inspect.isasyncgenfunction(fake):
            return Resource(fake)

        async def stand_in() -> AsyncIterator[T]:
            value = fake()
            yield await value if inspect.isawaitable(value) else value

        stand_in.__module__ = self.generator.__module__
        stand_in.__qualname__ = f"{_name_of(self.generator)} (overridden)"
        return Resource(stand_in)

    # Each is itself alone: FastAPI's dataclass would compare, and print, itself in itself.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<Resource {self.name}>"


def resource(generator: Callable[..., AsyncIterator[T]]) -> Resource[T]:
    """Open something once for the whole service, share it, and close it.

    ```python
    @resource
    async def classifier() -> AsyncIterator[Model]:
        yield await offload.thread(load_model)
    ```

    What the app's routes take opens at the start, what a resource asks for by
    `Annotated[Pool, pool]` before it; all close at shutdown in reverse. An endpoint takes the
    value by `model: Annotated[Model, classifier]`, other code by `await classifier()`.

    Args:
        generator: An `async def` function with one `yield`; each parameter is a resource.

    Raises:
        ResourceInvalid: It is no asynchronous generator function.
    """
    if inspect.isasyncgenfunction(generator):
        return Resource(generator)
    if inspect.iscoroutinefunction(generator):
        fix = "`yield` the value where it returns it, and annotate `AsyncIterator[T]`"
    elif inspect.isgeneratorfunction(generator):
        fix = "write `async def`"
    elif hasattr(generator, "__wrapped__"):
        fix = "take the other decorator (@asynccontextmanager?) off: @resource does its work"
    else:
        fix = "write an `async def` function that yields the value once"
    name = f"{generator.__module__}:{_name_of(generator)}"
    raise ResourceInvalid(f"resource {name} is no asynchronous generator function", fix=fix)


def resource_in(annotation: object) -> Resource[Any] | None:
    """Return the resource that an annotation asks for: `Annotated[Model, classifier]`."""
    extras = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    for extra in extras:
        if isinstance(extra, Depends) and isinstance(extra.dependency, Resource):
            return extra.dependency
    return None


def _name_of(function: Callable[..., object]) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))
