"""What travels with a job: validated when it is enqueued, the same when it arrives."""

from __future__ import annotations

import enum
import json
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, computed_field

from clearway import DbSession, JobContext
from clearway.errors import JobArgumentsInvalid, JobDeclarationInvalid
from clearway.jobs.arguments import Arguments


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Line(BaseModel):
    text: str
    price: Decimal


class Invoice(BaseModel):
    number: int
    lines: list[Line]
    paid: datetime | None = None


@dataclass
class Point:
    x: float
    y: float = 0.0


class Named(BaseModel):
    """A model whose JSON calls the field otherwise, and computes another."""

    model_config = ConfigDict(extra="forbid")

    first: str = Field(alias="firstName")

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own way
    @property
    def loud(self) -> str:
        return self.first.upper()


class OneWay(BaseModel):
    """A model that writes what it cannot read."""

    first: str = Field(validation_alias="firstName")


class Heights(BaseModel):
    """A model whose JSON has no word for infinity, as pydantic's default is."""

    highest: float


class Half(BaseModel):
    """A model that was never completed."""

    other: Elsewhere  # type: ignore[name-defined]  # noqa: F821 - that is the test


def taking(hint: Any) -> Arguments:
    """Return the arguments of a function with one parameter, `a`, of this annotation."""

    def fn(a: object) -> None:
        pass

    fn.__annotations__ = {"a": hint}
    return Arguments(fn, "module:fn")


def same(one: object, other: object) -> bool:
    """Say whether two values are equal, NaN among them."""
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and one == other


def strict_json(text: str) -> Any:
    """Read JSON as PostgreSQL does: there is no NaN in it."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


decimals = st.decimals(allow_nan=False, allow_infinity=False)
moments = st.datetimes(timezones=st.just(UTC))
lines = st.builds(Line, text=st.text(), price=decimals)

KINDS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers()),
    (bool, st.booleans()),
    (str, st.text()),
    (float, st.floats()),
    (bytes, st.binary()),
    (datetime, moments),
    (datetime, st.datetimes()),
    (date, st.dates()),
    (timedelta, st.timedeltas()),
    (Decimal, decimals),
    (UUID, st.uuids()),
    (Colour, st.sampled_from(Colour)),
    (Literal["a", "b"], st.sampled_from(["a", "b"])),
    (int | None, st.none() | st.integers()),
    (list[int], st.lists(st.integers())),
    (set[str], st.sets(st.text())),
    (tuple[int, str], st.tuples(st.integers(), st.text())),
    (dict[str, bytes], st.dictionaries(st.text(), st.binary())),
    (list[float | None], st.lists(st.none() | st.floats(allow_nan=False))),
    (Line, lines),
    (Invoice, st.builds(Invoice, lines=st.lists(lines), paid=st.none() | moments)),
    (list[Line], st.lists(lines)),
    (Point, st.builds(Point, x=st.floats(allow_nan=False), y=st.floats(allow_nan=False))),
    (Point | None, st.none() | st.builds(Point, x=st.floats(allow_nan=False))),
]


@given(st.data())
@pytest.mark.parametrize(("hint", "values"), KINDS, ids=lambda kind: str(kind)[:40])
def test_what_is_packed_arrives(hint: Any, values: st.SearchStrategy[Any], data: Any) -> None:
    """Each value arrives equal and of the same type, through JSON that PostgreSQL takes."""
    value = data.draw(values)
    arguments = taking(hint)
    text = arguments.pack((value,), {})

    strict_json(text)
    text.encode()
    assert same(arguments.unpack(text)["a"], value)


@pytest.mark.parametrize("text", ["\0", "a\0b", "\u2028", "\U0001f600", '"\\', "\x7f"])
def test_odd_characters_arrive(text: str) -> None:
    """NUL goes as an escape, which a column of type json keeps."""
    packed = taking(str).pack((text,), {})

    assert "\0" not in packed
    assert taking(str).unpack(packed) == {"a": text}


@pytest.mark.parametrize("hint", [str, object, list[str], dict[str, str]])
def test_a_lone_surrogate_is_refused(hint: Any) -> None:
    """It is no text that could be stored, which is said when the job is enqueued."""
    value: Any = {str: "\ud800", object: "\ud800", list[str]: ["\ud800"]}.get(hint, {"k": "\ud800"})
    with pytest.raises(JobArgumentsInvalid, match="module:fn"):
        taking(hint).pack((value,), {})


def test_the_last_floats_arrive() -> None:
    """Infinity and NaN have words of their own in the JSON."""
    arguments = taking(list[float])
    values = arguments.unpack(arguments.pack(([math.inf, -math.inf, math.nan, -0.0],), {}))["a"]

    assert values[:2] == [math.inf, -math.inf]
    assert math.isnan(values[2])
    assert math.copysign(1, values[3]) == -1


def test_a_model_with_aliases_and_computed_fields_arrives() -> None:
    """It is written as it is read: by its aliases, without what it computes."""
    arguments = taking(Named)
    one = Named(firstName="Ada")

    assert arguments.unpack(arguments.pack((one,), {}))["a"] == one


@pytest.mark.parametrize(
    "value", [OneWay.model_validate({"firstName": "Ada"}), Heights(highest=math.inf)]
)
def test_what_could_not_be_read_again_is_refused_at_once(value: BaseModel) -> None:
    """A model that writes what it cannot read fails where it is enqueued, not in the worker."""
    with pytest.raises(JobArgumentsInvalid) as refused:
        taking(type(value)).pack((value,), {})

    assert "a." in refused.value.what


def test_what_json_cannot_hold_is_refused() -> None:
    """An object of no known kind, where the annotation allows anything, is named as such."""
    with pytest.raises(JobArgumentsInvalid, match="cannot be written as JSON"):
        taking(Any).pack((object(),), {})


# What was given


def deliver(invoice: Invoice, copies: int = 1, *, to: Path | None = None) -> None:
    """Take a model and what has defaults."""


async def supplied(session: DbSession, context: JobContext, number: int) -> None:
    """Take what the worker supplies, first."""


DELIVER = Arguments(deliver, "mail:deliver")


def test_defaults_travel() -> None:
    """What the default was when the job was enqueued is what the job gets."""
    text = DELIVER.pack(({"number": 1, "lines": []},), {})

    assert strict_json(text) == {
        "invoice": {"number": 1, "lines": [], "paid": None}, "copies": 1, "to": None,
    }  # fmt: skip
    assert DELIVER.unpack(text) == {
        "invoice": Invoice(number=1, lines=[]), "copies": 1, "to": None,
    }  # fmt: skip


def test_what_the_worker_supplies_is_not_asked_for() -> None:
    """It is known by its annotation, and neither travels nor counts as required."""
    arguments = Arguments(supplied, "mail:supplied")

    assert list(arguments.supplied) == ["session", "context"]
    assert arguments.required == ["number"]
    assert strict_json(arguments.pack((5,), {})) == {"number": 5}


WRONG: list[tuple[tuple[Any, ...], dict[str, Any], list[str]]] = [
    ((), {}, ["missing a required argument: 'invoice'"]),
    (({"number": 1, "lines": []}, 2, 3), {}, ["too many positional arguments"]),
    (({"number": 1, "lines": []},), {"colour": 1}, ["unexpected keyword argument 'colour'"]),
    (({"number": 1, "lines": []},), {"invoice": 1}, ["multiple values for argument 'invoice'"]),
    (({"number": 1, "lines": []}, "many"), {}, ["copies: input should be a valid integer"]),
    (({"lines": []},), {}, ["invoice.number: field required"]),
    (
        ({"number": 1, "lines": [{"text": "a", "price": 1}, {"text": 5, "price": "x"}]}, 1.5), {},
        ["invoice.lines.1.text: input should be a valid string",
         "invoice.lines.1.price: ", "copies: input should be a valid integer"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("args", "kwargs", "said"), WRONG)
def test_what_does_not_fit_is_refused_with_the_place(
    args: tuple[object, ...], kwargs: dict[str, object], said: list[str]
) -> None:
    """The message names the job, each argument down to the nested field, and the parameters."""
    with pytest.raises(JobArgumentsInvalid) as refused:
        DELIVER.pack(args, kwargs)

    for words in said:
        assert words in refused.value.what
    assert refused.value.what.startswith("job mail:deliver: ")
    assert "copies: 'int' = 1" in refused.value.fix


def test_what_the_worker_supplies_cannot_be_passed() -> None:
    """A session that is passed by name is refused like any unknown argument."""
    with pytest.raises(JobArgumentsInvalid, match="session"):
        Arguments(supplied, "mail:supplied").pack((), {"session": None, "number": 1})


# A function that has changed since


def before(number: int) -> None:
    """Stand for a job."""


def with_a_new_default(number: int, colour: str = "red") -> None:
    """Stand for a job."""


def with_a_new_name(count: int) -> None:
    """Stand for a job."""


def with_a_new_type(number: UUID) -> None:
    """Stand for a job."""


OLD_ROW = Arguments(before, "m:f").pack((7,), {})


def test_a_row_from_before_a_new_default_is_run() -> None:
    """A parameter that came with a default leaves it to the function."""
    unpacked = Arguments(with_a_new_default, "m:f").unpack(OLD_ROW)

    assert unpacked == {"number": 7}
    with_a_new_default(**unpacked)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (with_a_new_name, ["count: field required", "number: extra inputs are not permitted"]),
        (with_a_new_type, ["number: UUID input should be"]),
    ],
)
def test_a_row_that_fits_no_more_says_why(now: Callable[..., None], said: list[str]) -> None:
    """A renamed or retyped parameter is named with both of its names."""
    with pytest.raises(JobArgumentsInvalid) as refused:
        Arguments(now, "m:f").unpack(OLD_ROW)

    for words in said:
        assert words.lower() in refused.value.what.lower()


@pytest.mark.parametrize("text", ["[]", "7", '"x"', "{", ""])
def test_a_row_that_is_no_object_is_refused(text: str) -> None:
    """Whatever somebody wrote into the table, the job's name is in the message."""
    with pytest.raises(JobArgumentsInvalid, match="job m:f: "):
        Arguments(before, "m:f").unpack(text)


# Names


def awkward(
    json: int, schema: int, copy: int, model_config: int, self: int, model_dump: int, fields: int,
    cls: int, dict: int, validate: int, __pydantic_config__: int, name: int, args: int,
    kwargs: int, _private: int,
) -> None:  # fmt: skip
    """Take what looks taken."""


def test_no_name_of_a_parameter_is_taken() -> None:
    """Parameters may be called what pydantic calls its own."""
    arguments = Arguments(awkward, "m:f")
    names = arguments.required
    values = dict(zip(names, range(len(names)), strict=True))

    assert len(names) == 15
    assert arguments.unpack(arguments.pack((), values)) == values


def test_a_model_that_is_not_complete_is_found_at_the_declaration() -> None:
    """Pydantic would say so at the first call, which is the first request."""
    with pytest.raises(JobDeclarationInvalid, match="Elsewhere"):
        taking(Half)


def test_without_annotations_anything_travels_that_json_holds() -> None:
    """A parameter without an annotation is not looked at."""

    def free(thing, other=None):  # type: ignore[no-untyped-def]
        pass

    arguments = Arguments(free, "m:f")

    assert typing.get_type_hints(free) == {}
    assert arguments.unpack(arguments.pack(({"a": [1, None]},), {})) == {
        "thing": {"a": [1, None]}, "other": None,
    }  # fmt: skip
