"""The table of commands, and what they have in common."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer

from clearway.cli.dev import dev
from clearway.cli.explain import explain
from clearway.cli.jobs import jobs
from clearway.cli.run import run
from clearway.cli.worker import worker

commands = typer.Typer(
    name="clearway",
    help="Run FastAPI services that hold up under load, and say why one is slow.",
    no_args_is_help=True,
    # A traceback that is shown is the user's own: no boxes around it, no local variables in it.
    pretty_exceptions_enable=False,
    add_completion=False,
)
commands.command()(run)
commands.command()(worker)
commands.command()(dev)
commands.command()(explain)
commands.add_typer(jobs, name="jobs")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clearway {importlib.metadata.version('clearway')}")
        raise typer.Exit


@commands.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Run FastAPI services that hold up under load, and say why one is slow."""
