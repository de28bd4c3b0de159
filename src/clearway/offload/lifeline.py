"""What binds a child process of ours to its parent's life."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType


def die_with(lifeline: int, parent: int) -> None:
    """Let the kernel kill this process group when the parent is gone, kill -9 included.

    PR_SET_PDEATHSIG would kill only this process and not what it has started, and it would do
    so when the *thread* that started it ends. A busy C call does not hold up this signal.

    Args:
        lifeline: A socket whose other end only the parent holds.
        parent: Process id of the parent.
    """
    try:
        import fcntl

        # touchpoint: worker-lifeline - SIGKILL for our own group when the lifeline ends
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgid(0))
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
    except (ImportError, AttributeError, OSError):
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os._exit(0)


def _watch(parent: int) -> None:
    """Do the same by asking, where the kernel cannot be told (macOS)."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(os.getpgid(0), signal.SIGKILL)


def leave_stopping_to_the_parent() -> None:
    """Do nothing at SIGINT and SIGTERM: systemd signals the whole group at once."""

    def ignore(number: int, frame: FrameType | None) -> None:
        """Do nothing. Unlike SIG_IGN, a handler is not inherited by programs it starts."""

    # touchpoint: worker-signals - SIGINT and SIGTERM do nothing in a worker process
    signal.signal(signal.SIGINT, ignore)
    signal.signal(signal.SIGTERM, ignore)
