"""Whatever is logged becomes one valid line of bounded length."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import uuid
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearway.logs.plain import dumps


class _Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class _HostileMapping(dict[str, object]):
    def items(self) -> object:  # type: ignore[override]  # that is what makes it hostile
        raise RuntimeError("no")


class _HostileText(str):
    def __str__(self) -> str:
        raise RuntimeError("no")


class _Colour(enum.Enum):
    RED = object()


def _round(fields: dict[str, object], most: int = 4096) -> dict[str, object]:
    line = dumps(fields, most)
    assert len(line) <= most
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    loaded: dict[str, object] = json.loads(line)
    return loaded


_KEPT: list[object] = []
_KEPT.append(_KEPT)
_LOOP: dict[str, object] = {"a": 1}
_LOOP["again"] = [_LOOP] * 3
_SHARED: list[object] = [1]
for _ in range(40):
    _SHARED = [_SHARED, _SHARED]

# Picked by number: hypothesis shows what it picks from, and these cannot be shown.
_HOSTILE: list[object] = [
            _Hostile(), _HostileMapping(a=1), _HostileText("x"), _Colour.RED, _KEPT, _LOOP,
            10**5_000, -(1 << 63) - 1, 1 << 64, "\ud800", object, len, float("nan"),
            Exception("\udfff"), memoryview(b"ab"), deque([1]), "\x1b[31m\r\n\x00\u2028",
        ]  # fmt: skip

hostile = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(),
        st.text(st.characters(), max_size=20), st.binary(), st.datetimes(), st.uuids(),
        st.decimals(), st.complex_numbers(),
        st.integers(0, len(_HOSTILE) - 1).map(lambda index: _HOSTILE[index]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.tuples(inner, inner),
        st.dictionaries(
            st.one_of(st.text(), st.integers(), st.tuples(st.integers()), st.just("\ud800")),
            inner,
            max_size=5,
        ),
        st.frozensets(st.integers(), max_size=3),
    ),
    max_leaves=20,
)  # fmt: skip


@given(
    st.dictionaries(st.text(st.characters(), max_size=300), hostile, max_size=30),
    st.sampled_from([512, 600, 4096]),
)
def test_any_fields_become_one_valid_line(fields: dict[str, object], most: int) -> None:
    """No value and no key makes rendering raise, grow or break the line."""
    _round(fields, most)


def test_lists_that_share_without_end_are_cut_off() -> None:
    """A cleaned copy has a bounded number of nodes, however often parts are shared."""
    assert _round({"bad": 1 << 70, "shared": _SHARED})["bad"] == str(1 << 70)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1 << 64, "18446744073709551616"),
        ("a\ud800b", "a\\ud800b"),
        ({1: "one", (2, 3): "pair"}, {"1": "one", "(2, 3)": "pair"}),
        (b"ab\xff", "ab\\xff"),
        (Path("/tmp"), "PosixPath('/tmp')"),
        (decimal.Decimal("1.50"), "Decimal('1.50')"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (_Hostile(), "<_Hostile that cannot be shown>"),
        ([_Hostile(), 1 << 64], ["<_Hostile that cannot be shown>", str(1 << 64)]),
        (10**5_000, "<int of 16610 bits>"),
        (_KEPT, ["<more>"]),
    ],
    ids=iter("abcdefghijkl"),  # pytest's own would show the values, which is what cannot be done
)
def test_what_json_cannot_hold_is_still_shown(value: object, shown: object) -> None:
    """A value that orjson refuses appears as text, beside fields that are untouched."""
    assert _round({"event": "e", "value": value, "n": 1}) == {
        "event": "e",
        "value": shown,
        "n": 1,
    }


def test_the_longest_fields_are_cut_first() -> None:
    """Short fields stay whole, long ones share the room, and the line says so."""
    line = _round({"event": "e", "a": "x" * 9_000, "b": ["y" * 5_000], "n": 7, "c": "z" * 900})
    assert (line["event"], line["n"], line["c"]) == ("e", 7, "z" * 900)
    assert line["truncated"] is True
    assert str(line["a"]).startswith("xxx")
    assert str(line["b"]).startswith('["yyy')
    assert len(dumps({"a": "x" * 9_000}, 4096)) > 4_000, "the room is used"


def test_cutting_counts_bytes_and_not_characters() -> None:
    """Text that grows in UTF-8 or by escapes is cut so that the line still fits."""
    for text in ("\u20ac" * 5_000, "\x00" * 5_000, "\U0001f600" * 5_000, '"' * 5_000):
        assert _round({"event": text, "n": 1})["n"] == 1


def test_too_many_fields_leave_out_the_last() -> None:
    """The first fields, which name the event, survive ten thousand others."""
    line = _round({"event": "e", **{f"field{n}": n for n in range(10_000)}})
    assert line["event"] == "e"
    assert line["truncated"] is True
    assert len(line) > 100
