"""Log in: argon2 in a thread, and a refusal that is counted although it is a 401."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy import func, select, update

from clearway import DbSession, ReadDbSession, current_journey, get_logger, offload
from studio.models import User
from studio.passwords import matches
from studio.problems import Problem
from studio.schemas import LoginIn, LoginOut

router = APIRouter(prefix="/login", tags=["login"])
log = get_logger()


@router.post("")
async def login(attempt: LoginIn, reads: ReadDbSession, session: DbSession) -> LoginOut:
    """Check a name and a password. What a client may do afterwards is yours to add."""
    user = await reads.scalar(select(User).where(User.name == attempt.name))
    await reads.close()  # no connection waits while the password is hashed
    stored = None if user is None else user.password_hash
    # A thread is right for argon2: its C code gives up the GIL.
    right = await offload.thread(matches, stored, attempt.password, timeout=10)
    if user is None or not right:
        await _count_refusal(session, attempt.name)
        raise Problem(401, "name or password is wrong")
    await session.execute(
        update(User).where(User.id == user.id).values(failed_logins=0, last_login_at=func.now())
    )
    return LoginOut(
        name=user.name, failed_before=user.failed_logins, last_login_at=user.last_login_at
    )


async def _count_refusal(session: DbSession, name: str) -> None:
    """Count it where it is looked for, and have it committed in spite of the 401."""
    await session.execute(
        update(User).where(User.name == name).values(failed_logins=User.failed_logins + 1)
    )
    if journey := current_journey():
        journey.keep()
    log.warning("login refused", user=name)
