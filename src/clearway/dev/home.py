"""The folder of one embedded server: where it lies, whose it is, what is in it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Self

from clearway.errors import EmbeddedPostgresFailed

_PREFIX = "clearway-postgres-"
_STASH = Path("/var/lib/clearway")
_LOCK = "owner.lock"


def unprivileged_user() -> tuple[int, int] | None:
    """Return the user and group id of `nobody` where this process is root, else None."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


class Home:
    """A folder with one cluster, one log, one password file, and one owner at a time.

    The owner is whoever holds the lock on `owner.lock`: the kernel gives it back at the
    owner's death, so nothing stale can be left behind.
    """

    def __init__(self, folder: Path, *, temporary: bool, user: tuple[int, int] | None) -> None:
        self.folder = folder
        self.temporary = temporary
        self.cluster = folder / "cluster"
        self.log = folder / "server.log"
        self.password_file = folder / "pgpass"
        self.recorded = self.cluster / "postmaster.pid"
        self._user = user
        self._lock: int | None = None

    @classmethod
    def make_temporary(cls, user: tuple[int, int] | None) -> Self:
        """Make a folder that goes at the end, and remove those of owners that were killed."""
        parent = _open_folder(Path(tempfile.gettempdir()), user)
        _sweep(parent, os.geteuid() if user is None else user[0])
        home = cls(Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent)), temporary=True, user=user)
        home._claim()
        return home

    @classmethod
    def claim_kept(cls, folder: Path, user: tuple[int, int] | None) -> Self:
        """Make or take over a folder that is kept.

        As root, a folder that `nobody` cannot reach (below /root, say) is replaced by one in
        /var/lib/clearway that belongs to this path: no mode of a parent folder is changed.

        Raises:
            EmbeddedPostgresFailed: Another owner has it, or it holds something else.
        """
        folder = folder.expanduser().resolve()
        folder.parent.mkdir(parents=True, exist_ok=True)
        name = f"{folder.name}-{hashlib.sha256(bytes(folder)).hexdigest()[:12]}"
        folder = folder if _reachable(folder.parent, user) else _stash(user) / name
        folder.mkdir(mode=0o700, exist_ok=True)
        home = cls(folder, temporary=False, user=user)
        home._refuse_what_is_not_ours()
        home._claim()
        return home

    def give(self, path: Path) -> None:
        """Give a file or folder to the user that the server runs as."""
        if self._user is not None:
            os.chown(path, *self._user)

    def password(self) -> str:
        """Return the password of this home, made on first use and kept in `pgpass`.

        The file has libpq's format, so that `PGPASSFILE=... psql` needs no typing.
        """
        if not self.password_file.exists():
            draft = self.password_file.with_suffix(".new")
            draft.touch(mode=0o600)
            draft.write_text(f"*:*:*:postgres:{secrets.token_hex(16)}\n", encoding="ascii")
            draft.rename(self.password_file)
        return self.password_file.read_text(encoding="ascii").strip().rpartition(":")[2]

    def log_tail(self, lines: int = 12) -> str:
        """Return the last lines of the server's log."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def release(self) -> None:
        """Remove a temporary folder, and let go of the lock."""
        if self.temporary:
            shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _refuse_what_is_not_ours(self) -> None:
        entries = {path.name for path in self.folder.iterdir()}
        if entries and _LOCK not in entries:
            raise EmbeddedPostgresFailed(
                f"{self.folder} holds something other than an embedded PostgreSQL",
                fix="name a folder that is empty or does not exist",
            )
        owner = self.cluster.stat().st_uid if self.cluster.exists() else None
        if owner not in (None, os.geteuid() if self._user is None else self._user[0]):
            raise EmbeddedPostgresFailed(
                f"{self.folder} was made by another user (id {owner})",
                fix="run as that user, or remove the folder to begin with an empty database",
            )

    def _claim(self) -> None:
        # A temporary folder gets its lock file already locked: a sweep never sees it free.
        path = self.folder / (f"{_LOCK}.new" if self.temporary else _LOCK)
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except PermissionError as error:
            raise EmbeddedPostgresFailed(
                f"{self.folder} belongs to another user", fix="run as that user, or remove it"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise EmbeddedPostgresFailed(
                f"the database in {self.folder} is in use by another owner",
                fix="stop the other `clearway dev`, or use its database: set DATABASE_URL",
            ) from None
        path.rename(self.folder / _LOCK)
        self._lock = lock
        self.give(self.folder)


def _reachable(folder: Path, user: tuple[int, int] | None) -> bool:
    """Say whether a user may pass through a folder and all folders above it."""
    if user is None:
        return True
    for place in (folder, *folder.parents):
        status = place.stat()
        bit = 0o100 if status.st_uid == user[0] else 0o010 if status.st_gid == user[1] else 0o001
        if not status.st_mode & bit:
            return False
    return True


def _open_folder(folder: Path, user: tuple[int, int] | None) -> Path:
    return folder if _reachable(folder, user) else _stash(user)


def _stash(user: tuple[int, int] | None) -> Path:
    if not _STASH.is_dir():
        _STASH.mkdir(parents=True, exist_ok=True)
        _STASH.chmod(0o755)  # whatever the umask says
    if not _reachable(_STASH, user):
        raise EmbeddedPostgresFailed(
            f"the user nobody cannot reach {_STASH}, and PostgreSQL refuses to run as root",
            fix="run as an ordinary user, or set DATABASE_URL",
        )
    return _STASH


def _sweep(parent: Path, uid: int) -> None:
    """Remove the temporary folders whose owners were killed: nobody holds their lock."""
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            if folder.lstat().st_uid != uid:
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:  # gone, being made, or not ours
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)
