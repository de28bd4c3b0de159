"""Give uvicorn the application, in this process or in one that it starts."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path

from clearway.cli import discovery, failure
from clearway.dev.launch import die_with_owner

# uvicorn hands its children an import string and nothing else, so the rest travels here. The
# underscore keeps it out of the settings, which refuse unknown names that begin with CLEARWAY_.
_VARIABLE = "_CLEARWAY_SERVES"

# uvicorn's own: after it, and only after it, the parent gives up instead of trying for ever.
_STARTUP_FAILURE = 3


def announce(import_string: str, folder: Path, *, factory: bool, reload: bool) -> str:
    """Note the application for `build`, here and in child processes; return `build`'s name.

    Args:
        import_string: `module:attribute` of the application.
        folder: What must be on `sys.path` to import it.
        factory: It is a function that makes the application.
        reload: A developer's server: it need not finish its requests if its parent is killed.
    """
    flags = ("factory" if factory else "", "reload" if reload else "")
    os.environ[_VARIABLE] = "\n".join((import_string, str(folder), *flags))
    return f"{__name__}:build"


def build() -> object:
    """Import and return the application that was announced."""
    import_string, folder, factory, reload = os.environ[_VARIABLE].split("\n")
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        # A server whose supervisor was killed would hold the port for ever. While it blocks its
        # loop it is deaf to SIGTERM, and a developer's server may well do that.
        die_with_owner(parent.pid, signal.SIGKILL if reload else signal.SIGTERM)
    module, _, attribute = import_string.partition(":")
    found = discovery.Found(module, attribute, Path(folder))
    try:
        _, app = discovery.load(found, factory=bool(factory))
        return app() if factory and callable(app) else app
    except Exception as error:  # noqa: BLE001 - the app's code may raise anything; it is shown
        sys.exit(failure.show(error) and _STARTUP_FAILURE)
