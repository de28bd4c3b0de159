"""The demo's own input."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from studio import inputs


def test_the_same_seed_gives_the_same_files() -> None:
    """Photos and payments are the same on every run, and differ by seed."""
    assert inputs.photo(400, 300, 6, seed=1) == inputs.photo(400, 300, 6, seed=1)
    assert inputs.photo(400, 300, 6, seed=1) != inputs.photo(400, 300, 6, seed=2)
    assert inputs.payments(50, seed=1) == inputs.payments(50, seed=1)
    assert inputs.payments(50, seed=1) != inputs.payments(50, seed=2)


def test_a_photo_is_like_a_cameras() -> None:
    """It has the sensor's pixels, an EXIF orientation, and detail that resists compression."""
    data = inputs.photo(800, 600, 6, seed=1)
    with Image.open(io.BytesIO(data)) as photo:
        assert photo.size == (800, 600)
        assert photo.getexif()[0x0112] == 6
    assert len(data) > 800 * 600 / 10


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_photo_shows_the_sky_above(orientation: int) -> None:
    """However the camera was held: turned by its EXIF orientation the picture is upright."""
    with Image.open(io.BytesIO(inputs.photo(400, 300, orientation, seed=1))) as photo:
        upright = ImageOps.exif_transpose(photo)
    top, bottom = (upright.resize((1, 10), Image.Resampling.BOX).getpixel((0, y)) for y in (0, 9))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert top[2] > bottom[2] + 60


def test_files_that_exist_are_kept(tmp_path: Path) -> None:
    """A second call makes nothing anew, and no half-made file is left under a real name."""
    for name in ("photo-1.jpg", "photo-2.jpg", "photo-3.jpg", "photo-4.jpg"):
        (tmp_path / name).write_bytes(b"mine")
    made = inputs.make_inputs(tmp_path)
    assert {path.read_bytes() for path in made.photos} == {b"mine"}
    assert made.payments.read_bytes().count(b"\r\n") == inputs.ROWS + 1
    assert not list(tmp_path.glob("*.new"))
