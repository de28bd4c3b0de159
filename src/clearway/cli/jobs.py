"""`clearway jobs`: look at jobs, and at what has failed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from clearway.cli import failure
from clearway.errors import ClearwayError
from clearway.settings import Settings

if TYPE_CHECKING:
    from clearway.jobs.desk import Desk

T = TypeVar("T")

jobs = typer.Typer(
    help="Look at a service's jobs. DATABASE_URL and CLEARWAY_SERVICE__NAME say whose.",
    no_args_is_help=True,
)
schedules = typer.Typer(help="Look at schedules, and run one now.", no_args_is_help=True)
jobs.add_typer(schedules, name="cron")

Limit = Annotated[int, typer.Option(help="Most rows to show.", min=1, max=10_000)]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on each line.")]

_COLUMNS = ("id", "job", "queue", "state", "since or at", "attempts", "crashes", "error")


@jobs.command("list")
def list_jobs(limit: Limit = 50, as_json: AsJson = False) -> None:
    """List the jobs that run or wait."""
    rows = _ask(_desk().waiting(limit))
    _print(rows, as_json=as_json, empty="no job runs or waits")


@jobs.command()
def failed(limit: Limit = 50, as_json: AsJson = False) -> None:
    """List the failure queue, the newest first."""
    rows = _ask(_desk().failed(limit))
    _print(rows, as_json=as_json, empty="the failure queue is empty")


@jobs.command()
def show(id: Annotated[int, typer.Argument(help="The job's id.")], as_json: AsJson = False) -> None:
    """Show all that is known of a job: its arguments, its error, its traceback."""
    row = _ask(_desk().show(id))
    if as_json:
        _print_json([row])
        return
    for key, value in row.items():
        if value is not None:
            shown = _moment(value) if isinstance(value, datetime) else str(value)
            separator = "\n" if "\n" in shown else " "
            typer.echo(f"{key + ':':<13}{separator}{shown}")


@jobs.command()
def retry(
    ids: Annotated[list[int] | None, typer.Argument(help="Ids of failed jobs.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="The whole failure queue.")] = False,
) -> None:
    """Let failed jobs run again, from their first attempt."""
    if bool(ids) == everything:
        typer.echo("name the ids of failed jobs, or --all", err=True)
        raise typer.Exit(2)
    rows = _ask(_desk().retry(None if everything else ids))
    for row in rows:
        typer.echo(f"job {row['id']} ({row['name']}) runs again")
    if not rows:
        typer.echo("the failure queue is empty")


@jobs.command()
def sql() -> None:
    """Print the SQL that makes the tables, for a migration or a role that may."""
    from clearway.jobs.store import schema_sql

    try:
        settings = Settings()
    except ClearwayError as error:
        raise typer.Exit(failure.show(error)) from None
    typer.echo(schema_sql(settings.jobs.database_schema), nl=False)


@schedules.command("list")
def list_schedules(as_json: AsJson = False) -> None:
    """List the schedules that workers have declared."""
    rows = _ask(_desk().schedules())
    if as_json:
        _print_json(rows)
        return
    if not rows:
        typer.echo("no worker of this service has declared a schedule")
        return
    table = Table("job", "schedule", "time zone", "last enqueued for", box=None)
    for row in rows:
        last = row["last_slot"]
        table.add_row(
            row["name"], row["schedule"], row["timezone"], _moment(last) if last else "never"
        )
    _console().print(table)


@schedules.command("run")
def run_schedule(
    name: Annotated[str, typer.Argument(help="module:function, or the function's name.")],
) -> None:
    """Enqueue a scheduled job now, beside its schedule."""
    id = _ask(_desk().run_now(name))
    typer.echo(f"job {id} is enqueued")


def _desk() -> Desk:
    from clearway.jobs.desk import Desk  # not above: it needs packages that `run` does not

    try:
        return Desk(Settings())
    except ClearwayError as error:
        raise typer.Exit(failure.show(error)) from None


def _ask(question: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(question)
    except ClearwayError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


def _print(rows: Sequence[Mapping[str, Any]], *, as_json: bool, empty: str) -> None:
    if as_json:
        _print_json(rows)
        return
    if not rows:
        typer.echo(empty)
        return
    table = Table(*_COLUMNS, box=None)
    for row in rows:
        table.add_row(
            str(row["id"]), row["name"], row["queue"], row["state"], _moment(row["at"]),
            str(row["attempts"]), str(row["crashes"]), row["error"] or "",
        )  # fmt: skip
    _console().print(table)


def _console() -> Console:
    # In a pipe nothing is cut off at 80 columns.
    console = Console(highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else Console(width=10_000, markup=False, emoji=False)


def _print_json(rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        values = {key: _json(key, value) for key, value in row.items()}
        typer.echo(json.dumps(values))


def _json(key: str, value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    return json.loads(value) if key == "arguments" and isinstance(value, str) else value


def _moment(value: datetime) -> str:
    return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
