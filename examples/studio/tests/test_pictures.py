"""Thumbnails of good, odd and hostile pictures."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from contextlib import suppress

import pytest
from PIL import Image

from studio.pictures import SIZES, BrokenPicture, NotAPicture, make_thumbnails


def _opened(jpeg: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(jpeg))
    image.load()
    return image


def _file(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def _red_corner(image: Image.Image) -> tuple[str, str]:
    """Say in which corner of a picture the red quarter is."""
    for vertical, y in (("top", 0.25), ("bottom", 0.75)):
        for horizontal, x in (("left", 0.25), ("right", 0.75)):
            pixel = image.getpixel((int(x * image.width), int(y * image.height)))
            assert isinstance(pixel, tuple)
            if pixel[0] > 200:
                return vertical, horizontal
    raise AssertionError("nothing is red")


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [
        (1, ("top", "left")),
        (2, ("top", "right")),
        (3, ("bottom", "right")),
        (4, ("bottom", "left")),
        (5, ("top", "left")),
        (6, ("top", "right")),
        (7, ("bottom", "right")),
        (8, ("bottom", "left")),
    ],
)
def test_every_orientation_of_the_camera_gives_upright_thumbnails(
    small_photo: Callable[..., bytes], orientation: int, corner: tuple[str, str]
) -> None:
    """Each of EXIF's eight orientations is undone, and width and height are those one sees."""
    made = make_thumbnails(small_photo(2000, 1000, orientation))
    assert (made.width, made.height) == ((2000, 1000) if orientation < 5 else (1000, 2000))
    for thumbnail in made.thumbnails:
        image = _opened(thumbnail.jpeg)
        assert (image.width > image.height) == (orientation < 5)
        assert _red_corner(image) == corner


def test_three_sizes_keep_the_aspect(small_photo: Callable[..., bytes]) -> None:
    """The longest side of each thumbnail is its size, the other follows."""
    made = make_thumbnails(small_photo(2000, 1500))
    assert [(t.size, t.width, t.height) for t in made.thumbnails] == [
        ("small", 160, 120), ("medium", 640, 480), ("large", 1280, 960),
    ]  # fmt: skip
    for thumbnail in made.thumbnails:
        assert _opened(thumbnail.jpeg).size == (thumbnail.width, thumbnail.height)


def test_a_small_picture_is_not_enlarged(small_photo: Callable[..., bytes]) -> None:
    """A thumbnail is never larger than its photo."""
    made = make_thumbnails(small_photo(200, 100))
    assert [thumbnail.width for thumbnail in made.thumbnails] == [160, 200, 200]


def test_thumbnails_do_not_say_where_and_with_what_they_were_taken() -> None:
    """EXIF does not travel to the thumbnails."""
    exif = Image.Exif()
    exif[0x010F] = "Secret Camera"
    made = make_thumbnails(_file(Image.new("RGB", (300, 200)), "JPEG", exif=exif))
    for thumbnail in made.thumbnails:
        assert not _opened(thumbnail.jpeg).getexif()
        assert b"Secret" not in thumbnail.jpeg


def test_the_colour_profile_stays() -> None:
    """The ICC profile travels to the thumbnails, else wide-gamut photos look dull."""
    made = make_thumbnails(_file(Image.new("RGB", (300, 200)), "JPEG", icc_profile=b"a profile"))
    assert _opened(made.thumbnails[0].jpeg).info["icc_profile"] == b"a profile"


def test_what_is_transparent_becomes_white() -> None:
    """A JPEG has no transparency; black would hide black text."""
    data = _file(Image.new("RGBA", (300, 200), (0, 0, 0, 0)), "PNG")
    pixel = _opened(make_thumbnails(data).thumbnails[0].jpeg).getpixel((50, 50))
    assert isinstance(pixel, tuple)
    assert min(pixel) > 250


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "1", "I;16", "LA"])
def test_unusual_modes_are_understood(mode: str) -> None:
    """Grey, print and palette pictures become ordinary JPEGs."""
    image = Image.new(mode, (300, 200))
    data = _file(image, "JPEG" if mode in {"L", "CMYK"} else "PNG")
    assert _opened(make_thumbnails(data).thumbnails[0].jpeg).mode == "RGB"


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_extreme_shapes_have_thumbnails(size: tuple[int, int]) -> None:
    """A side never shrinks to nothing."""
    made = make_thumbnails(_file(Image.new("RGB", size), "JPEG"))
    assert all(t.width >= 1 and t.height >= 1 for t in made.thumbnails)
    assert max(made.thumbnails[-1].width, made.thumbnails[-1].height) == min(
        max(size), SIZES["large"]
    )


@pytest.mark.parametrize("data", [b"", b"%PDF-1.7", b"\xff\xd8\xff", b"GIF89a" + bytes(100)])
def test_what_is_no_picture_is_refused_as_such(data: bytes) -> None:
    """Anything but JPEG, PNG and WebP is no picture."""
    with pytest.raises(NotAPicture):
        make_thumbnails(data)


def test_a_picture_that_is_cut_off_is_broken(small_photo: Callable[..., bytes]) -> None:
    """Half a file is refused, and the message says why."""
    whole = small_photo(2000, 1500)
    with pytest.raises(BrokenPicture, match="cannot be read"):
        make_thumbnails(whole[: len(whole) // 2])


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    """A small file may unpack to gigabytes; it is refused by its header."""
    header = _file(Image.new("1", (40, 30)), "PNG")
    bomb = header.replace((40).to_bytes(4), (40_000).to_bytes(4), 1)
    bomb = bomb.replace((30).to_bytes(4), (30_000).to_bytes(4), 1)
    checksum = zlib.crc32(bomb[12:29])
    bomb = bomb[:29] + checksum.to_bytes(4) + bomb[33:]
    with pytest.raises(BrokenPicture):
        make_thumbnails(bomb)


def test_hostile_exif_ends_in_a_refusal_or_in_thumbnails() -> None:
    """No bytes where EXIF should be lead to any other exception."""
    for exif in (b"Exif\0\0" + b"\xff" * 200, b"Exif\0\0MM\0*\0\0\0\x08" + b"\x01" * 300):
        data = _file(Image.new("RGB", (300, 200)), "JPEG", exif=exif)
        with suppress(BrokenPicture):
            assert len(make_thumbnails(data).thumbnails) == 3
