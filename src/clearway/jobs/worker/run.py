"""Run a worker until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from clearway.jobs.worker.carrier import Carrier, CarrierFailed
from clearway.jobs.worker.manifest import Manifest
from clearway.jobs.worker.worker import Worker

_log = logging.getLogger("clearway.jobs")

_STOPPING = (signal.SIGTERM, signal.SIGINT)


async def work(command: Sequence[str]) -> int:
    """Run jobs until SIGTERM or SIGINT; return the exit code.

    Args:
        command: Starts the process with the application; see `Carrier`.
    """
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in _STOPPING:
        loop.add_signal_handler(number, stopped.set)  # touchpoint: worker-stop
    carrier = Carrier(command)
    starting = asyncio.create_task(carrier.start())
    stop = asyncio.create_task(stopped.wait())
    await asyncio.wait({starting, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        return 0
    try:
        manifest = starting.result()
    except CarrierFailed:
        return 1  # its own process has said why
    async with _logs(manifest):
        worker = Worker(command, manifest)
        for number in _STOPPING:
            loop.add_signal_handler(number, worker.stop)  # touchpoint: worker-stop
        if stopped.is_set():  # it came when the application was just up
            worker.stop()
        await worker.run(carrier)
    return 0


@asynccontextmanager
async def _logs(manifest: Manifest) -> AsyncIterator[None]:
    """Write into the application's stream, as it does; else plainly to stderr."""
    if manifest.logs is None:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        yield
        return
    from clearway.logs import Logs  # not above: it needs packages of its own

    logs = Logs(manifest.service, manifest.logs.model_copy(update={"take_over": "on"}))
    await logs.open()
    try:
        _log.info("worker open", extra={"jobs": len(manifest.terms)})
        yield
        _log.info("worker closed")
    finally:
        await logs.close()
