"""Frames of pickled objects on a stream."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearway.offload.wire import Chunk, Decoder, Frame, Kind, TooLarge, decode, encode


class Buffered:
    """An object that hands its bytes over out of band, as NumPy's arrays do."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self.data = data

    def __reduce__(self) -> tuple[object, tuple[pickle.PickleBuffer]]:
        return Buffered, (pickle.PickleBuffer(self.data),)


def feed(stream: bytes, pieces: list[int]) -> list[Frame]:
    """Give a decoder a stream in pieces of the given sizes, over and over."""
    decoder, frames, at, turn = Decoder(), list[Frame](), 0, 0
    while at < len(stream):
        room = decoder.room()
        piece = stream[at : at + min(len(room), pieces[turn % len(pieces)])]
        room[: len(piece)] = piece
        frames += decoder.received(len(piece))
        at += len(piece)
        turn += 1
    return frames


def joined(chunks: list[Chunk]) -> bytes:
    """Return what a socket would carry."""
    return b"".join(chunks)


@given(
    st.lists(st.sampled_from([0, 1, 100, 65_500, 65_536, 70_000, 300_000]), max_size=6),
    st.lists(st.integers(1, 100_000), min_size=1, max_size=4),
)
def test_frames_come_out_as_they_went_in(sizes: list[int], pieces: list[int]) -> None:
    """However a stream is cut, the same frames come out in the same order."""
    contents = [bytes([number]) * size for number, size in enumerate(sizes)]
    stream = b"".join(joined(encode(Kind.RESULT, content)) for content in contents)
    frames = feed(stream, [max(piece, len(stream) // 200) for piece in pieces])
    assert [decode(frame, str) for frame in frames] == contents


def test_buffers_travel_out_of_band() -> None:
    """A PickleBuffer's bytes are not copied into the pickle, and come back as they were."""
    data = bytearray(b"abc" * 100_000)
    chunks = encode(Kind.CALL, [Buffered(data), Buffered(b"x")])
    assert [len(chunk) for chunk in chunks[-2:]] == [300_000, 1]
    frame = feed(joined(chunks), [10_000])[0]
    items = decode(frame, str)
    assert isinstance(items, list)
    assert [bytes(item.data) for item in items] == [bytes(data), b"x"]


def test_large_bytes_are_not_copied() -> None:
    """Large bytes are sent from where they are, wherever in the content they stand."""
    data = bytes(1_000_000)
    assert any(chunk is data for chunk in encode(Kind.CALL, {"a": [data]}))


def test_a_bytearray_is_sent_as_it_was() -> None:
    """A bytearray that changes after the call was made does not change what is sent."""
    data = bytearray(b"a" * 200_000)
    chunks = encode(Kind.CALL, data)
    data[:] = b"b"
    assert decode(feed(joined(chunks), [65_536])[0], str) == b"a" * 200_000


def test_encode_stops_at_its_bound() -> None:
    """Pickling stops soon after the allowed size instead of finishing what is too large."""
    seen = 0

    class Counted:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            nonlocal seen
            seen += 1
            return str, ("x" * 100,)

    with pytest.raises(TooLarge):
        encode(Kind.CALL, [Counted() for _ in range(100_000)], 1 << 17)
    assert seen < 30_000


@pytest.mark.parametrize("size", [10, 100_000])
def test_modules_are_looked_up_by_their_other_name(size: int) -> None:
    """Small or large, a class is looked for in the module that stands for the named one."""
    frame = feed(joined(encode(Kind.RESULT, (Kind.CALL, bytes(size)))), [65_536])[0]
    asked: list[str] = []

    def module(name: str) -> str:
        asked.append(name)
        return name

    assert decode(frame, module) == (Kind.CALL, bytes(size))
    assert "clearway.offload.wire" in asked
