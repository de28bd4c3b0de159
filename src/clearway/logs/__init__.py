"""The log room: structlog's API and stdlib's `logging` in one stream that nobody waits for."""

from clearway.logs.access import AccessLine
from clearway.logs.books import WriterSnapshot
from clearway.logs.setup import Logs, get_logger
from clearway.logs.writer import Writer

__all__ = ["AccessLine", "Logs", "Writer", "WriterSnapshot", "get_logger"]
