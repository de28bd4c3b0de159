"""Give uvicorn the application, in this process or in one that it starts."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path

from clearway.cli import discovery, failure
from clearway.cli.discovery import Found
from clearway.dev.launch import die_with_owner

# uvicorn hands its children an import string and nothing else, so the rest travels here. The
# underscore keeps it out of the settings, which refuse unknown names that begin with CLEARWAY_.
_VARIABLE = "_CLEARWAY_SERVES"

# uvicorn's own: after it, and only after it, the parent gives up instead of trying for ever.
_STARTUP_FAILURE = 3


def announce(found: Found, *, factory: bool, reload: bool) -> str:
    """Note the application for `build`, here and in child processes; return `build`'s name.

    Args:
        found: Where the application is.
        factory: It is a function that makes the application.
        reload: A developer's server: it need not finish its requests if its parent is killed.
    """
    flags = ("factory" if factory else "", "reload" if reload else "")
    place = (found.module, found.attribute or "", str(found.folder))
    os.environ[_VARIABLE] = "\n".join((*place, *flags))
    return f"{__name__}:build"


def build() -> object:
    """Import and return the application that was announced."""
    module, attribute, folder, factory, reload = os.environ[_VARIABLE].split("\n")
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        # A server whose supervisor was killed would hold the port for ever. While it blocks its
        # loop it is deaf to SIGTERM, and a developer's server may well do that.
        die_with_owner(parent.pid, signal.SIGKILL if reload else signal.SIGTERM)
    found = Found(module, attribute or None, Path(folder))
    try:
        app = discovery.load(found, factory=bool(factory))
        return app() if factory and callable(app) else app
    except Exception as error:  # noqa: BLE001 - the app's code may raise anything; it is shown
        failure.show(error)
        sys.exit(_STARTUP_FAILURE)


def rehearse(found: Found, *, factory: bool, apart: bool) -> int:
    """Import the application, show what fails, and return the exit code.

    Args:
        found: Where the application is.
        factory: It is a function that makes the application.
        apart: Import it in a process that ends at once. A parent of workers that kept the
            application's modules would hold as much memory as a worker, for nothing.
    """
    if not apart:
        try:
            discovery.load(found, factory=factory)
        except Exception as error:  # noqa: BLE001 - the app's code may raise anything; it is shown
            return failure.show(error)
        return 0
    child = multiprocessing.get_context("spawn").Process(target=_rehearse, args=(found, factory))
    child.start()
    child.join()
    return child.exitcode or 0


def _rehearse(found: Found, factory: bool) -> None:
    sys.exit(rehearse(found, factory=factory, apart=False))
