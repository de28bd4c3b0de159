"""Run the demo: `python -m studio`, or `python -m studio --smoke`.

It brings a PostgreSQL of its own and the other services that it calls, so that it needs nothing
else. Ctrl-C stops everything.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import time

from clearway.dev.postgres import EmbeddedPostgres
from clearway.errors import ClearwayError
from studio.inputs import Inputs, make_inputs
from studio.migrate import migrate
from studio.others import Others
from studio.service import Service, ServiceFailed, environment, free_port, worker
from studio.smoke import smoke

_PORT = 8000
_INVOICE = {
    "number": "2026-001",
    "customer": "Zoë Krüger",
    "issued_on": "2026-11-22",
    "total": "236.70",
    "lines": [
        {"description": "portrait session", "quantity": "1.5", "unit_price": "120.00"},
        {"description": "print, 30 x 40 cm", "quantity": "3", "unit_price": "18.90"},
    ],
}


def main() -> int:
    """Run the demo until Ctrl-C, or once with `--smoke`; return the exit code."""
    arguments = _arguments()
    # A shell starts background jobs with SIGINT ignored, and `kill` sends SIGTERM.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        port = _port(arguments.port)
        _say("making the input (kept for the next time)")
        inputs = make_inputs()
        _say("starting PostgreSQL")
        with EmbeddedPostgres() as server:
            migrate(server.url)
            if arguments.smoke:
                return smoke(server.url, port, inputs)
            return _serve(server, port, inputs)
    except KeyboardInterrupt:
        _say("stopped")
        return 0
    except (ClearwayError, ServiceFailed) as error:
        print(error, file=sys.stderr)
        return 1


def _serve(server: EmbeddedPostgres, port: int, inputs: Inputs) -> int:
    with (
        Others() as others,
        Service(server.url, port, env=others.env) as service,
        worker(server.url, env=others.env) as working,
    ):
        _say(_guide(service.url, server, inputs, others))
        while service.code is None and working.code is None:
            time.sleep(0.2)
        ended = service if working.code is None else working
        print(f"`clearway {ended.name}` ended by itself, with {ended.code}", file=sys.stderr)
    return 1


def _guide(url: str, server: EmbeddedPostgres, inputs: Inputs, others: Others) -> str:
    photo = shlex.quote(f"files=@{inputs.photos[1]}")
    table = shlex.quote(f"file=@{inputs.payments}")
    login = shlex.quote('{"name": "demo", "password": "demo"}')
    invoice = shlex.quote(json.dumps(_INVOICE, ensure_ascii=False))
    without_password = f"postgresql://postgres@127.0.0.1:{server.port}/postgres"
    name = shlex.quote(environment(server.url)["CLEARWAY_SERVICE__NAME"])
    clearway = f"{shlex.quote(sys.executable)} -m clearway"
    psql = f"{shlex.quote(str(server.psql))} -h 127.0.0.1 -p {server.port} -U postgres"
    return f"""
The studio is open. Look at
  {url}/docs
  {url}/readyz
  {url}/invoices
  {url}/reports
  {others.url}/webhook    # what the studio has told others
  PGPASSFILE={server.password_file} {psql}

Try in another terminal
  curl -F {photo} {url}/images    # then {url}/images/1/thumbnails/medium
  curl -F {table} {url}/import
  curl --json {login} {url}/login
  curl --json {invoice} {url}/invoices
  curl -fo invoice.pdf --retry 9 --retry-all-errors {url}/invoices/1/pdf    # by the worker
  curl {url}/rates
  curl -X POST {url}/invoices/1/reminder    # a job that fails three times; then look at it:

  export DATABASE_URL={without_password} CLEARWAY_SERVICE__NAME={name}
  export PGPASSFILE={shlex.quote(str(server.password_file))}
  {clearway} jobs failed
  {clearway} jobs cron run nightly_report    # then {url}/reports

Ctrl-C stops service, worker and PostgreSQL, and throws the data away.
"""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="studio", description="The demo service of Clearway.")
    parser.add_argument("--smoke", action="store_true", help="drive everything once, then stop")
    parser.add_argument(
        "--port", type=int, help=f"TCP port; 0 for any (default: {_PORT}, or any if it is taken)"
    )
    return parser.parse_args()


def _port(wanted: int | None) -> int:
    """Return the port to use; one that was asked for is not silently replaced."""
    port = free_port(_PORT if wanted is None else wanted)
    if wanted and port != wanted:
        raise ServiceFailed(f"port {wanted} is taken: name another, or 0 for any")
    return port


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
