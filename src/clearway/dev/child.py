"""Start a process that dies with its owner, whichever way the owner goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO

from clearway.dev import launch


def spawn(
    command: Sequence[str],
    *,
    death_signal: signal.Signals = signal.SIGTERM,
    user: tuple[int, int] | None = None,
    env: Mapping[str, str] | None = None,
    output: IO[bytes] | None = None,
    new_session: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a program that gets a signal when this process dies, kill -9 included.

    Args:
        command: Absolute path of the program, then its arguments.
        death_signal: Sent by the kernel to the program at this process's death (Linux only).
        user: User and group id to run as; None keeps this process's own.
        env: The whole environment; None inherits.
        output: Takes stdout and stderr; None inherits both.
        new_session: Take it out of the terminal's reach: Ctrl-C goes to this process only.

    Raises:
        OSError: The program's launcher cannot be started.
    """
    uid, gid = user or (-1, -1)
    launcher = [sys.executable, "-I", "-S", str(Path(launch.__file__).resolve())]
    ids = [str(number) for number in (os.getpid(), int(death_signal), uid, gid)]
    started: SimpleQueue[subprocess.Popen[bytes] | OSError] = SimpleQueue()

    def keep() -> None:
        try:
            process = subprocess.Popen(  # noqa: S603 - the caller's own program, no shell
                [*launcher, *ids, *command],
                stdin=subprocess.DEVNULL if new_session else None,
                stdout=output,
                stderr=output,
                env=env,
                start_new_session=new_session,
            )
        except OSError as error:
            started.put(error)
            return
        started.put(process)
        process.wait()

    # The kernel takes the parent to be the thread that started the child: a server started by
    # a pool's thread would end with that thread. This one lives exactly as long as the child.
    Thread(target=keep, name="clearway-keeper", daemon=True).start()
    result = started.get()
    if isinstance(result, OSError):
        raise result
    return result
