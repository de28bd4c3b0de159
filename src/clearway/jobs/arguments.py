"""A job's parameters: what the worker supplies, and what travels as JSON, validated."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NotRequired

from fastapi.params import Depends
from pydantic import (
    ConfigDict,
    PydanticUndefinedAnnotation,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import ErrorDetails, PydanticSerializationError
from typing_extensions import TypedDict

from clearway.errors import JobArgumentsInvalid, JobDeclarationInvalid
from clearway.jobs.context import JobContext

_VARIADIC = frozenset({inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD})
_UNNAMED = _VARIADIC | {inspect.Parameter.POSITIONAL_ONLY}
_CONFIG = ConfigDict(
    extra="forbid", ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="strings"
)
_TYPES_FIX = "annotate it with what pydantic can validate: str, int, a model, a dataclass, ..."


class Arguments:
    """The parameters of one job function.

    Args:
        fn: The function.
        name: The job's name, for messages.

    Attributes:
        supplied: What the worker supplies, by parameter: a dependency, or `JobContext`.

    Raises:
        JobDeclarationInvalid: A parameter can neither be supplied nor travel.
    """

    def __init__(self, fn: Callable[..., object], name: str) -> None:
        self._name = name
        hints = _hints(fn, name)
        parameters = inspect.signature(fn).parameters
        self.supplied = dict(_supplied(parameters, hints, name))
        own = [parameter for key, parameter in parameters.items() if key not in self.supplied]
        self._signature = inspect.Signature(own)
        self._adapter = _adapter({p.name: _field(p, hints) for p in own}, name)

    @property
    def required(self) -> list[str]:
        """What an enqueue has to give."""
        return [p.name for p in self._signature.parameters.values() if p.default is p.empty]

    def pack(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str:
        """Return the arguments of a call as JSON, defaults included.

        Raises:
            JobArgumentsInvalid: One is missing, unknown, or not what its annotation says.
        """
        try:
            bound = self._signature.bind(*args, **kwargs)
            bound.apply_defaults()
            checked = self._adapter.validate_python(bound.arguments)
            # With what a model calls its fields in JSON, and without what it computes.
            text = self._adapter.dump_json(checked, by_alias=True, round_trip=True).decode()
            # What cannot be read again would fail in the worker, where nobody looks.
            self._adapter.validate_json(text)
            return text
        except TypeError as error:
            raise self._misfit(str(error)) from None
        except ValidationError as error:
            raise self._misfit(_said(error)) from None
        except (PydanticSerializationError, UnicodeEncodeError) as error:
            raise self._misfit(f"an argument cannot be written as JSON: {error}") from None

    def unpack(self, text: str) -> dict[str, Any]:
        """Return the arguments that `pack` wrote, each as its annotation says.

        Raises:
            JobArgumentsInvalid: They fit the function no more: it has changed since.
        """
        try:
            return self._adapter.validate_json(text)
        except ValidationError as error:
            raise self._misfit(_said(error)) from None

    def _misfit(self, why: str) -> JobArgumentsInvalid:
        return JobArgumentsInvalid(
            f"job {self._name}: {why}",
            fix=f"its parameters are {self._signature}; what the worker supplies is not passed",
        )


def _hints(fn: Callable[..., object], name: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(fn, include_extras=True)
    except NameError as error:
        raise JobDeclarationInvalid(
            f"job {name}: its annotations name {error.name!r}, which its module does not have",
            fix="import it outside of `if TYPE_CHECKING:`",
        ) from error
    except (AttributeError, TypeError, SyntaxError) as error:
        raise JobDeclarationInvalid(
            f"job {name}: its annotations cannot be read: {error}", fix=_TYPES_FIX
        ) from error


def _supplied(
    parameters: Mapping[str, inspect.Parameter], hints: Mapping[str, Any], name: str
) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Return what the worker supplies; it comes first, so that types can tell it apart."""
    own: str | None = None
    for key, parameter in parameters.items():
        if parameter.kind in _UNNAMED:
            raise JobDeclarationInvalid(
                f"job {name}: {parameter} ({parameter.kind.description}) has no name to travel by",
                fix="name each parameter, or take one dict; leave out the `/`",
            )
        source = _source(hints.get(key), parameter.default)
        if source is None:
            own = own or key
        elif own is not None:
            raise JobDeclarationInvalid(
                f"job {name}: {key} is supplied by the worker and stands behind {own}",
                fix=f"put {key} before {own}",
            )
        else:
            _refuse_needy(source, key, name)
            yield key, source


def _source(hint: Any, default: object) -> Callable[..., Any] | None:
    """Return what supplies a parameter, None for one that travels."""
    marks = [*getattr(hint, "__metadata__", ()), default]
    for mark in reversed(marks):
        if isinstance(mark, Depends):
            return mark.dependency
    return JobContext if hint is JobContext else None


def _refuse_needy(source: Callable[..., Any], key: str, name: str) -> None:
    """Refuse a dependency that only a request can satisfy."""
    if source is JobContext:
        return
    needs = [
        parameter
        for parameter in inspect.signature(source).parameters.values()
        if parameter.default is inspect.Parameter.empty and parameter.kind not in _VARIADIC
    ]
    if needs or inspect.isgeneratorfunction(source) or inspect.isasyncgenfunction(source):
        raise JobDeclarationInvalid(
            f"job {name}: {key} depends on {getattr(source, '__qualname__', source)}, which takes "
            "parameters or yields, as only a request can have it",
            fix="take a DbSession, an HttpClient or a resource, and call the rest yourself",
        )


def _field(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> Any:
    hint = hints.get(parameter.name, Any)
    return hint if parameter.default is parameter.empty else NotRequired[hint]


def _adapter(fields: dict[str, Any], name: str) -> TypeAdapter[dict[str, Any]]:
    make: Any = TypedDict  # as a call with what only the signature knows
    try:
        shape = make(name, fields)
        shape.__pydantic_config__ = _CONFIG  # counts for reading
        # Writing goes by the adapter's own, which pydantic refuses for a bare TypedDict.
        adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(shape | None, config=_CONFIG)
        if not getattr(adapter, "pydantic_complete", True):  # since pydantic 2.10 put off
            adapter.rebuild(raise_errors=True)
        return adapter
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        reason = str(error).partition("\n")[0]
        raise JobDeclarationInvalid(
            f"job {name}: its arguments cannot be validated: {reason}", fix=_TYPES_FIX
        ) from error


def _said(error: ValidationError) -> str:
    return "; ".join(map(_fault, error.errors(include_url=False)))


def _fault(detail: ErrorDetails) -> str:
    where = ".".join(map(str, detail["loc"])) or "arguments"
    return f"{where}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"
