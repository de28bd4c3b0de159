"""Make the demo's input: photos as a camera writes them, and a file of payments.

`python -m studio.inputs` writes them to `examples/studio/inputs/`, which git ignores. The same
seed gives the same files; those that exist are kept.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from random import Random

from PIL import ExifTags, Image, ImageChops, ImageDraw, ImageFilter

FOLDER = Path(__file__).parent / "inputs"
ROWS = 100_000

# Width and height in pixels as the sensor has them, and how the camera was held (EXIF).
_SHOTS = ((4000, 3000, 1), (4000, 3000, 6), (4608, 3456, 3), (6000, 4000, 8))

_HELD = {
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}

_NAMES = (
    "Ada Lovelace", "Zoë Krüger", "Łukasz Wójcik", "Nguyễn Văn An", "O'Brien & Sons",
    'The "Corner" Shop', "Müller, Meier & Co", "Søren Ågård", "Ιωάννα Παππά", "山田 花子",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Inputs:
    """Where the files are."""

    photos: tuple[Path, ...]
    payments: Path


def make_inputs(folder: Path = FOLDER) -> Inputs:
    """Write what is missing and return where everything is."""
    folder.mkdir(parents=True, exist_ok=True)
    photos = []
    for seed, (width, height, orientation) in enumerate(_SHOTS, start=1):
        path = folder / f"photo-{seed}.jpg"
        _keep(path, partial(photo, width, height, orientation, seed=seed))
        photos.append(path)
    table = folder / "payments.csv"
    _keep(table, partial(payments, ROWS, seed=1))
    return Inputs(tuple(photos), table)


def photo(width: int, height: int, orientation: int, *, seed: int) -> bytes:
    """Return a landscape with clouds, hills and sensor noise, as a camera's JPEG.

    Args:
        width: Pixels of the sensor's long side.
        height: Pixels of its short side.
        orientation: EXIF's number for how the camera was held: 1 level, 3 upside down, 6 and 8
            upright. The sensor sees the landscape turned the other way.
        seed: The same seed gives the same picture.
    """
    random = Random(seed)
    held = _HELD.get(orientation)
    upended = orientation in (6, 8)
    picture = _sky(random, *((height, width) if upended else (width, height)))
    _hills(random, picture)
    picture = _grain(random, picture if held is None else picture.transpose(held))
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Clearway"
    exif[ExifTags.Base.Model] = "Studio One"
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.DateTime] = "2026:11:22 12:00:00"
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90, subsampling="4:2:0", exif=exif)
    return file.getvalue()


def payments(rows: int, *, seed: int) -> bytes:
    """Return a CSV of payments: reference, paid_on, payer, amount."""
    random = Random(seed)
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(("reference", "paid_on", "payer", "amount"))
    start = date(2026, 1, 1)
    for row in range(rows):
        day = start + timedelta(days=random.randrange(300))
        cents = random.randrange(100, 500_000)
        amount = f"{cents // 100}.{cents % 100:02}"
        table.writerow((f"{seed:04}-{row:08}", day.isoformat(), random.choice(_NAMES), amount))
    return text.getvalue().encode()


def _keep(path: Path, make: Callable[[], bytes]) -> None:
    if path.exists():
        return
    draft = path.with_suffix(".new")
    draft.write_bytes(make())
    draft.rename(path)  # a file that is there is whole, whenever the last run was stopped


def _sky(random: Random, width: int, height: int) -> Image.Image:
    """Return clouds: noise at four scales over a gradient from blue to haze."""
    clouds = Image.new("L", (width, height), 128)
    for cells, strength in ((4, 0.5), (12, 0.35), (40, 0.25), (120, 0.12)):
        clouds = Image.blend(clouds, _noise(random, cells, cells, (width, height)), strength)
    haze = Image.linear_gradient("L").resize((width, height))
    blue = Image.merge("RGB", (haze, haze.point(lambda v: 90 + v // 2), _flat(haze, 225)))
    return Image.composite(Image.new("RGB", haze.size, (244, 244, 248)), blue, clouds)


def _hills(random: Random, picture: Image.Image) -> None:
    """Draw three ridges, the nearest the darkest."""
    draw = ImageDraw.Draw(picture)
    width, height = picture.size
    for ridge, colour in enumerate(((126, 146, 158), (86, 112, 88), (42, 66, 38))):
        level = height * (0.55 + 0.13 * ridge)
        edge = [(x, level + random.uniform(-0.06, 0.06) * height) for x in _steps(width)]
        draw.polygon([(0, height), *edge, (width, height)], fill=colour)


def _grain(random: Random, picture: Image.Image) -> Image.Image:
    """Add what a sensor adds: noise in every pixel, and a lens's slight blur below it."""
    noise = _noise(random, *picture.size, picture.size).point(lambda v: v // 12)
    soft = picture.filter(ImageFilter.GaussianBlur(1))
    return ImageChops.add(soft, Image.merge("RGB", (noise, noise, noise)), 1, -10)


def _noise(random: Random, columns: int, rows: int, size: tuple[int, int]) -> Image.Image:
    cells = Image.frombytes("L", (columns, rows), random.randbytes(columns * rows))
    return cells if cells.size == size else cells.resize(size, Image.Resampling.BICUBIC)


def _flat(like: Image.Image, value: int) -> Image.Image:
    return Image.new("L", like.size, value)


def _steps(width: int) -> list[float]:
    return [width * step / 24 for step in range(25)]


if __name__ == "__main__":
    made = make_inputs()
    for file in (*made.photos, made.payments):
        print(f"{file.stat().st_size / 1e6:6.1f} MB  {file}")
