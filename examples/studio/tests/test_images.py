"""Photos over HTTP."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from PIL import Image

from studio.tests.conftest import MOST_BYTES, Studio

Photo = Callable[..., bytes]


def _files(*contents: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", (f"{n}.jpg", data)) for n, data in enumerate(contents)]


def test_photos_become_thumbnails_that_can_be_looked_at(studio: Studio, small_photo: Photo) -> None:
    """Two photos in one request: both are stored, upright, in three sizes."""
    files = _files(small_photo(1600, 1200), small_photo(1600, 1200, 6))
    answer = studio.http.post("/images", files=files)
    assert answer.status_code == 201
    first, second = answer.json()
    assert (first["width"], first["height"]) == (1600, 1200)
    assert (second["width"], second["height"]) == (1200, 1600)
    assert [t["size"] for t in second["thumbnails"]] == ["small", "medium", "large"]
    jpeg = studio.http.get(f"/images/{second['id']}/thumbnails/medium")
    assert jpeg.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(jpeg.content)).size == (480, 640)


def test_thumbnails_are_made_in_another_process(studio: Studio, small_photo: Photo) -> None:
    """The request's ledger has its time in the lane of processes."""
    answer = studio.http.post("/images", files=_files(small_photo()))
    assert "processes;dur=" in answer.headers["Server-Timing"]


def test_one_bad_file_stores_none(studio: Studio, small_photo: Photo) -> None:
    """All photos of a request, or none; the answer names the bad one."""
    before = studio.query("SELECT count(*) FROM images")
    answer = studio.http.post("/images", files=_files(small_photo(), b"no picture"))
    assert answer.status_code == 415
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == "1.jpg: this is no JPEG, PNG or WebP"
    assert studio.query("SELECT count(*) FROM images") == before


def test_a_damaged_photo_is_a_422(studio: Studio, small_photo: Photo) -> None:
    """Half a photo is not the client's type mistaken, it is content that cannot be read."""
    whole = small_photo(1600, 1200)
    answer = studio.http.post("/images", files=_files(whole[: len(whole) // 2]))
    assert answer.status_code == 422
    assert "cannot be read" in answer.json()["detail"]


def test_a_photo_that_is_too_large_is_a_413(studio: Studio) -> None:
    """The limit is a setting."""
    answer = studio.http.post("/images", files=_files(bytes(MOST_BYTES + 1)))
    assert answer.status_code == 413


def test_a_request_without_a_photo_is_a_422(studio: Studio) -> None:
    """An empty form is refused."""
    assert studio.http.post("/images").status_code == 422


@pytest.mark.parametrize("name", ["../../etc/passwd", "a\x00b.jpg", "<b>.jpg", "\ud83d\ude00"])
def test_no_name_of_a_file_does_harm(studio: Studio, small_photo: Photo, name: str) -> None:
    """A name is stored as plain text without folders, or the request is refused."""
    name = name.encode("utf-16", "surrogatepass").decode("utf-16")
    answer = studio.http.post("/images", files=[("files", (name, small_photo()))])
    assert answer.status_code == 201
    assert not set(answer.json()[0]["name"]) & set("/<>\0")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/images/999999999/thumbnails/small", 404),
        ("/images/1/thumbnails/huge", 422),
        ("/images/0/thumbnails/small", 422),
        (f"/images/{2**63}/thumbnails/small", 422),
    ],
)
def test_what_does_not_exist_is_said(studio: Studio, path: str, status: int) -> None:
    """No id, however large, is a 500."""
    answer = studio.http.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
