"""Light work in this process, after the response: bounded, isolated, and drained at shutdown."""

from clearway.background.tasks import Background

__all__ = ["Background"]
