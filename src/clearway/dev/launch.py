"""Become another program that dies with its owner.

Run as a script, `python -I -S launch.py OWNER SIGNAL UID GID PROGRAM [ARGUMENT...]`, so that a
process with many threads never runs Python between fork and exec. UID -1 keeps the user.
"""

from __future__ import annotations

import ctypes  # here, not later: after the change of user /root/... cannot be read
import os
import sys

_PR_SET_PDEATHSIG = 1


def die_with_owner(owner: int, number: int) -> None:
    """Ask the kernel to signal this process when its parent dies; exit if it has died already.

    Only Linux can do that; elsewhere this does nothing.

    Args:
        owner: Process id of the parent as it was when this process was started.
        number: The signal to be sent.
    """
    if sys.platform != "linux":
        return
    # touchpoint: prctl-pdeathsig. Forgotten at a change of user, so it comes after that.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != owner:
        sys.exit(f"the owner, process {owner}, has died")


def _main(arguments: list[str]) -> None:
    owner, number, uid, gid = (int(argument) for argument in arguments[:4])
    program = arguments[4:]
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    die_with_owner(owner, number)
    os.execv(program[0], program)  # noqa: S606 - the caller's own program, no shell


if __name__ == "__main__":
    _main(sys.argv[1:])
