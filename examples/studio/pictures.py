"""Thumbnails: CPU work on bytes of strangers, made to run in a worker process."""

from __future__ import annotations

import io
import warnings
from typing import NamedTuple

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

SIZES = {"small": 160, "medium": 640, "large": 1280}
"""Longest side of each thumbnail, in pixels."""

_MOST_PIXELS = 100_000_000
_FORMATS = ("JPEG", "PNG", "WEBP")
_QUALITY = 82
_LYING = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height


class NotAPicture(ValueError):
    """The bytes are no JPEG, PNG or WebP."""


class BrokenPicture(ValueError):
    """The picture is cut off, damaged or too large."""


class MadeThumbnail(NamedTuple):
    """One thumbnail; width and height in pixels."""

    size: str
    width: int
    height: int
    jpeg: bytes


class Developed(NamedTuple):
    """What became of a photo; its own width and height in pixels, upright."""

    width: int
    height: int
    thumbnails: list[MadeThumbnail]


def make_thumbnails(data: bytes) -> Developed:
    """Return a photo's thumbnails, upright whichever way the camera was held.

    Raises:
        NotAPicture: The bytes are no JPEG, PNG or WebP.
        BrokenPicture: The picture is cut off, damaged, or has over 100 million pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit is below
            with Image.open(io.BytesIO(data), formats=_FORMATS) as photo:
                return _develop(photo)
    except UnidentifiedImageError as error:
        raise NotAPicture("this is no JPEG, PNG or WebP") from error
    except BrokenPicture:
        raise
    except Exception as error:  # decoders raise anything for a stranger's bytes
        raise BrokenPicture(f"this picture cannot be read: {error}") from error


def _develop(photo: Image.Image) -> Developed:
    width, height = photo.size
    if width * height > _MOST_PIXELS:
        raise BrokenPicture(f"{width} x {height} pixels are more than {_MOST_PIXELS:,}")
    if photo.getexif().get(ExifTags.Base.Orientation, 1) in _LYING:
        width, height = height, width
    upright = _upright(photo, max(SIZES.values()))
    thumbnails = [_thumbnail(upright, name, side) for name, side in SIZES.items()]
    return Developed(width, height, thumbnails)


def _upright(photo: Image.Image, side: int) -> Image.Image:
    """Return the photo as RGB, turned by its EXIF orientation, its longest side at most `side`."""
    # The decoder itself shrinks by 2, 4 or 8: half of the time for a photo of 12 megapixels.
    # `thumbnail` asks for a square twice as large, and so would decode that photo in full.
    scale = min(1.0, side / max(photo.size))
    photo.draft("RGB", (max(1, int(photo.width * scale)), max(1, int(photo.height * scale))))
    if photo.mode != "RGB" and not photo.has_transparency_data:
        photo = photo.convert("RGB")
    photo.thumbnail((side, side), Image.Resampling.LANCZOS)
    upright = ImageOps.exif_transpose(photo)
    return _on_white(upright) if upright.has_transparency_data else upright


def _on_white(image: Image.Image) -> Image.Image:
    paper = Image.new("RGBA", image.size, "white")
    paper.alpha_composite(image.convert("RGBA"))
    return paper.convert("RGB")


def _thumbnail(upright: Image.Image, name: str, side: int) -> MadeThumbnail:
    small = upright.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    jpeg = io.BytesIO()
    # The colour profile stays: without it a wide-gamut photo looks dull. EXIF goes: it says
    # where the photo was taken.
    profile = upright.info.get("icc_profile")
    small.save(jpeg, "JPEG", quality=_QUALITY, progressive=True, exif=b"", icc_profile=profile)
    return MadeThumbnail(name, small.width, small.height, jpeg.getvalue())
