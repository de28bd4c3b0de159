"""What the nights have summed up."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy import select

from clearway import ReadDbSession
from studio.models import Report
from studio.schemas import ReportOut

router = APIRouter(prefix="/reports", tags=["reports"])


@router.get("")
async def last(session: ReadDbSession) -> list[ReportOut]:
    """Return the reports of the last days, the newest first."""
    rows = await session.scalars(select(Report).order_by(Report.day.desc()).limit(31))
    return [ReportOut.model_validate(row) for row in rows]
