"""The command `clearway`: one file for each of its commands."""

from __future__ import annotations

import sys

_EXTRA = {
    "typer": "cli", "rich": "cli", "uvicorn": "cli", "watchfiles": "dev",
    "sqlalchemy": "jobs", "asyncpg": "jobs", "cronsim": "jobs",
}  # fmt: skip


def main() -> None:
    """Run the command line; exit 0 if all went well, 1 if the service failed, 2 for misuse."""
    try:
        from clearway.cli.commands import commands

        commands()
    except ModuleNotFoundError as error:
        extra = _EXTRA.get(error.name or "")
        if extra is None:
            raise
        sys.stderr.write(
            f"clearway: {error.name} is not installed; pip install 'clearway[{extra}]'\n"
        )
        sys.exit(2)
