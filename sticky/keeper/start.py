"""
Turns the process of a command into the keeper.

Runs in the command, before it becomes the keeper: all that needs a larger library is done here. It never returns.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h; the flag survives execve(2)
PROGRAM: Final = str(Path(__file__).with_name("keeper.py"))


def become_keeper(argv: Sequence[str], *, directory: str, lock: int) -> NoReturn:
    """
    Execute the keeper in this process. Standard streams and inheritable descriptors stay.

    Args:
        argv: the command of a primary, which finds its link with `KeeperLink.from_environment`.
        directory: the control directory. The keeper removes it when the server has stopped.
        lock: the descriptor of a lock that the keeper holds as long as it lives.
    """
    # Where it fails, the children of a dead primary become those of process 1, and the keeper does not learn their end.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os.set_inheritable(lock, True)
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-E", PROGRAM, directory, str(lock), *argv])  # noqa: S606 - no shell
