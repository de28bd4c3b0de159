"""Turn whatever a caller logs into one valid line of JSON of bounded length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import orjson

T = TypeVar("T")
Fields = dict[str, object]

_LONGEST_TEXT = 2_000  # characters of a repr
_LONGEST_KEY = 128
_DEEPEST = 8
_WIDEST = 1_000
_MOST_NODES = 10_000
_SHORTEST_CUT = 64
_CUT = b'"truncated":true'


def dumps(fields: Fields, most: int) -> bytes:
    """Render fields as one line, at most `most` bytes with its end; never raise.

    Args:
        fields: What to render. Only where orjson refuses it is a cleaned copy made.
        most: Longest line in bytes, 512 or more.
    """
    try:
        line = orjson.dumps(fields, default=encode, option=orjson.OPT_APPEND_NEWLINE)
    except Exception:  # noqa: BLE001 - orjson refuses, or a caller's object raises as it likes
        line = _dumps_clean(fields)
    return line if len(line) <= most else _fit(fields, most)


def encode(value: object) -> object:
    """Return something that orjson knows for a value that it does not know."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return list(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value[:_LONGEST_TEXT]).decode("utf-8", "backslashreplace")
    return text_of(value)


def text_of(value: object) -> str:
    """Return the repr of a value, bounded, and whatever its `__repr__` does."""
    try:
        return legible(repr(value))[:_LONGEST_TEXT]
    except Exception:  # noqa: BLE001 - a caller's __repr__ may raise anything
        return f"<{type(value).__name__} that cannot be shown>"


def legible(text: str) -> str:
    """Return text without lone surrogates, which UTF-8 cannot hold."""
    return str.encode(text, "utf-8", "backslashreplace").decode()


def clean(value: object) -> object:
    """Return a copy of a value that orjson takes, with cycles, depth and width cut off."""
    return _Cleaner().clean(value, ())


class _Cleaner:
    """Walks one value. The nodes are counted: a list of shared lists grows without bound."""

    def __init__(self) -> None:
        self._left = _MOST_NODES

    def clean(self, value: object, above: tuple[int, ...]) -> object:
        self._left -= 1
        if isinstance(value, str):
            return legible(value)
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int):
            return _integer(value)
        if id(value) in above or len(above) >= _DEEPEST or self._left < 0:
            return "<more>"
        try:
            return self._clean_object(value, (*above, id(value)))
        except Exception:  # noqa: BLE001 - a caller's container may raise anything
            return text_of(value)

    def _clean_object(self, value: object, above: tuple[int, ...]) -> object:
        if isinstance(value, Mapping):
            return {_key(key): self.clean(item, above) for key, item in _some(value.items())}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.clean(item, above) for item in _some(value)]
        try:
            # Dates, UUIDs, enums, dataclasses: as orjson shows them.
            known: object = orjson.loads(orjson.dumps(value))
        except (TypeError, orjson.JSONDecodeError):
            known = encode(value)
        return known


def _some(items: Iterable[T]) -> list[T]:
    return [item for item, _ in zip(items, range(_WIDEST), strict=False)]


def _integer(value: int) -> object:
    if -(1 << 63) <= value < 1 << 64:
        return int(value)
    # str() of an int of more than 4,300 digits raises.
    return str(value) if value.bit_length() < 4_096 else f"<int of {value.bit_length()} bits>"


def _key(key: object) -> str:
    return legible(key) if isinstance(key, str) else text_of(key)


def _dumps_clean(fields: Fields) -> bytes:
    plain = {_key(key): clean(value) for key, value in fields.items()}
    return orjson.dumps(plain, default=encode, option=orjson.OPT_APPEND_NEWLINE)


def _fit(fields: Fields, most: int) -> bytes:
    """Cut the longest fields first, then leave out the last ones, until the line fits."""
    room = most - len(_CUT) - 3  # the braces and the end of the line
    keys = [orjson.dumps(_key(key)[:_LONGEST_KEY]) for key in fields]
    values = [_dumps_value(value) for value in fields.values()]
    cap = _fair_share([len(value) for value in values], room - sum(len(key) + 2 for key in keys))
    parts: list[bytes] = []
    for key, rendered in zip(keys, values, strict=True):
        part = key + b":" + (rendered if len(rendered) <= cap else _shorten(rendered, cap)) + b","
        if len(part) > room:
            continue
        room -= len(part)
        parts.append(part)
    return b"{" + b"".join(parts) + _CUT + b"}\n"


def _dumps_value(value: object) -> bytes:
    try:
        return orjson.dumps(value, default=encode)
    except Exception:  # noqa: BLE001 - as in `dumps`
        return orjson.dumps(clean(value))


def _fair_share(sizes: list[int], room: int) -> int:
    """Return the cap under which all sizes fit the room, if each above it is cut to it."""
    for index, size in enumerate(sorted(sizes)):
        share = room // (len(sizes) - index)
        if size > share:
            return max(_SHORTEST_CUT, share)
        room -= size
    return max(_SHORTEST_CUT, *sizes)


def _shorten(rendered: bytes, cap: int) -> bytes:
    """Cut a rendered value to a JSON string of at most `cap` bytes; a structure becomes text."""
    loaded = orjson.loads(rendered) if rendered[:1] == b'"' else rendered.decode()
    text = loaded[:cap]
    while len(short := orjson.dumps(text + "\u2026")) > cap:
        text = text[: min(len(text) - 1, len(text) * cap // len(short))]
    return short
