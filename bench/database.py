"""Ask what a database behind FastAPI costs and stands, against the usual recipe and its peers.

The recipe is an `async_sessionmaker` over an engine with `pool_pre_ping=True`, and a dependency
that commits after its `yield`. Everything runs against a PostgreSQL of this bench's own, in this
process and on uvloop.

    python -m bench.database [--only trips,cpu,pieces,waits,goodput,backends,recovery] [--rounds N]
"""

from __future__ import annotations

import argparse
import asyncio
import logging

import asyncpg

from bench.database_cost import show_cpu, show_trips
from bench.database_faults import show_backends, show_recovery
from bench.database_load import show_goodput, show_waits
from bench.database_pieces import show_pieces
from bench.database_sides import DDL
from bench.rounds import machine
from clearway.dev.postgres import EmbeddedPostgres

ROUNDS = {
    "trips": 1,
    "cpu": 11,
    "pieces": 5,
    "waits": 3,
    "goodput": 2,
    "backends": 2,
    "recovery": 2,
}
_SHOW = {
    "trips": show_trips,
    "cpu": show_cpu,
    "pieces": show_pieces,
    "waits": show_waits,
    "goodput": show_goodput,
    "backends": show_backends,
}


async def _make_table(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(DDL)
    await connection.close()


def main() -> None:
    """Print one table a question."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(ROUNDS), help="questions, with commas")
    parser.add_argument("--rounds", type=int, help="rounds of each question")
    options = parser.parse_args()
    # What the sides say about requests that fail is what the tables count.
    logging.disable(logging.CRITICAL)
    print(machine())
    with EmbeddedPostgres(settings={"max_connections": "200"}) as server:
        asyncio.run(_make_table(server.url))
        for name in options.only.split(","):
            rounds = options.rounds or ROUNDS[name]
            print(f"\n{name}: {rounds} rounds")
            if name == "recovery":
                show_recovery(server, rounds)
            else:
                _SHOW[name](server.url, rounds)


if __name__ == "__main__":
    main()
