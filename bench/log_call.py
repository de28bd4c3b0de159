"""What one log call with six fields costs, against structlog's usual recipe and its fastest.

Run `python bench/log_call.py [rounds]`. Both write to /dev/null; rounds are interleaved.
"""

from __future__ import annotations

import logging
import os
import statistics
import sys
import time
from collections.abc import Callable

import orjson
import structlog

from clearway.logs import Logs, get_logger
from clearway.settings import LogSettings, ServiceSettings

CALLS = 10_000


def usual() -> Callable[[], None]:
    """Configure structlog the way most guides do: through `logging`, rendered by json."""
    handler = logging.StreamHandler(open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - stays
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )

    def undo() -> None:
        logging.getLogger().removeHandler(handler)
        handler.stream.close()
        structlog.reset_defaults()

    return undo


def fastest() -> Callable[[], None]:
    """Configure structlog as its documentation advises for speed."""
    file = open(os.devnull, "wb")  # noqa: SIM115 - stays open for the round
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=orjson.dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.BytesLoggerFactory(file),
        cache_logger_on_first_use=True,
    )

    def undo() -> None:
        file.close()
        structlog.reset_defaults()

    return undo


def ours() -> Callable[[], None]:
    """Take over as the service does."""
    null = os.open(os.devnull, os.O_WRONLY)
    saved = os.dup(1)
    os.dup2(null, 1)
    logs = Logs(ServiceSettings(), LogSettings(take_over="on", format="json"))
    logs.configure()

    def undo() -> None:
        logs.restore()
        os.dup2(saved, 1)
        os.close(saved)
        os.close(null)

    return undo


def microseconds(configure: Callable[[], Callable[[], None]]) -> float:
    """Return the CPU time of one call in microseconds."""
    undo = configure()
    try:
        log = get_logger("bench")
        began = time.process_time()
        for _ in range(CALLS):
            log.info(
                "invoice created", invoice_id=7, customer="acme", amount=12.5, paid=True,
                currency="EUR", note=None,
            )  # fmt: skip
        return (time.process_time() - began) / CALLS * 1e6
    finally:
        undo()


def main(rounds: int) -> None:
    """Measure and print the table."""
    costs: dict[str, list[float]] = {"usual recipe": [], "structlog's fastest": [], "clearway": []}
    for _ in range(rounds):
        for name, configure in zip(costs, (usual, fastest, ours), strict=True):
            costs[name].append(microseconds(configure))
    for name, each in costs.items():
        ratios = [cost / own for cost, own in zip(each, costs["clearway"], strict=True)]
        print(
            f"{name:20} {statistics.median(each):6.2f} us a call"
            f"  ({min(each):.2f} to {max(each):.2f})"
            f"  {statistics.median(ratios):5.1f}x  ({min(ratios):.1f} to {max(ratios):.1f})"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
