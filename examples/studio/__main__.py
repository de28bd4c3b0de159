"""Run the demo: `python -m studio`, or `python -m studio --smoke`.

It brings a PostgreSQL of its own, so that it needs nothing else. Ctrl-C stops everything.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys

from clearway.dev.postgres import EmbeddedPostgres
from clearway.errors import ClearwayError
from studio.inputs import Inputs, make_inputs
from studio.migrate import migrate
from studio.service import Service, ServiceFailed, free_port
from studio.smoke import smoke

_PORT = 8000


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
    with Service(server.url, port) as service:
        _say(_guide(service.url, server, inputs))
        code = service.wait()
    print(f"the service ended by itself, with {code}", file=sys.stderr)
    return 1


def _guide(url: str, server: EmbeddedPostgres, inputs: Inputs) -> str:
    photo = shlex.quote(f"files=@{inputs.photos[1]}")
    table = shlex.quote(f"file=@{inputs.payments}")
    login = shlex.quote('{"name": "demo", "password": "demo"}')
    psql = f"{shlex.quote(str(server.psql))} -h 127.0.0.1 -p {server.port} -U postgres"
    return f"""
The studio is open. Look at
  {url}/docs
  {url}/readyz
  {url}/invoices
  PGPASSFILE={server.password_file} {psql}

Try in another terminal
  curl -F {photo} {url}/images    # then {url}/images/1/thumbnails/medium
  curl -F {table} {url}/import
  curl --json {login} {url}/login

Ctrl-C stops the service and its PostgreSQL, and throws the data away.
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
