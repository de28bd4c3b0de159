"""Photos in, thumbnails out: CPU work in processes, so that every other request goes on."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, File, Path, UploadFile
from fastapi.responses import Response
from sqlalchemy import select

from clearway import DbSession, ReadDbSession, current_journey, offload
from studio.models import Image, Thumbnail
from studio.pictures import BrokenPicture, Developed, NotAPicture, make_thumbnails
from studio.problems import Problem
from studio.schemas import ImageOut, RowId
from studio.settings import studio_settings
from studio.uploads import read_upload, shown_name

router = APIRouter(prefix="/images", tags=["images"])


@router.post("", status_code=201)
async def add(
    files: Annotated[list[UploadFile], File(min_length=1, max_length=20)], session: DbSession
) -> list[ImageOut]:
    """Take in photos and make their thumbnails. All of them, or none."""
    # One at a time: a request with twenty photos must not take every process. And all before
    # the first INSERT: no connection waits for a processor.
    rows = [_row(shown_name(file), await _develop(file)) for file in files]
    session.add_all(rows)
    await session.flush()
    if journey := current_journey():
        journey.note(photos=len(rows))  # on the access line, which knows whether COMMIT came
    return [ImageOut.model_validate(row) for row in rows]


@router.get("/{id}/thumbnails/{size}", response_class=Response)
async def thumbnail(
    id: Annotated[RowId, Path()],
    size: Literal["small", "medium", "large"],
    session: ReadDbSession,
) -> Response:
    """Return one thumbnail."""
    jpeg = await session.scalar(
        select(Thumbnail.jpeg).where(Thumbnail.image_id == id, Thumbnail.size == size)
    )
    if jpeg is None:
        raise Problem(404, f"there is no image {id}")
    return Response(jpeg, media_type="image/jpeg", headers={"cache-control": "max-age=3600"})


async def _develop(file: UploadFile) -> Developed:
    settings = studio_settings()
    data = await read_upload(file, at_most=settings.max_photo_bytes)
    try:
        return await offload.process(make_thumbnails, data, timeout=settings.photo_timeout)
    except NotAPicture as error:
        raise Problem(415, f"{shown_name(file)}: {error}") from error
    except BrokenPicture as error:
        raise Problem(422, f"{shown_name(file)}: {error}") from error


def _row(name: str, made: Developed) -> Image:
    thumbnails = [Thumbnail(**thumbnail._asdict()) for thumbnail in made.thumbnails]
    return Image(name=name, width=made.width, height=made.height, thumbnails=thumbnails)
