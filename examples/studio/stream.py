"""Read what a service logs: the other end of its stdout."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from threading import Thread
from typing import IO


class LogStream:
    """A pipe for a child's stdout, read by a thread until the last writer is gone."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self.input: IO[bytes] = os.fdopen(self._write, "wb")
        self.lines: list[bytes] = []
        self._reader = Thread(target=self._collect, name="studio-log-reader", daemon=True)
        self._reader.start()

    def finish(self, within: float) -> bool:
        """Wait until every writer has ended; say whether they did.

        Args:
            within: Seconds.
        """
        self.input.close()
        self._reader.join(within)
        return not self._reader.is_alive()

    def events(self, name: str | None = None) -> Iterator[Mapping[str, object]]:
        """Return the lines that are JSON, or those of one event."""
        for line in self.lines:
            if line.startswith(b"{"):
                event = json.loads(line)
                if name is None or event["event"] == name:
                    yield event

    def _collect(self) -> None:
        with os.fdopen(self._read, "rb") as pipe:
            self.lines.extend(pipe)
