"""
Turns the process of a command into the keeper, and a child of it into the first primary.

Runs in the command, before it becomes the keeper: all that needs a larger library is done here. The first primary is
forked, for it needs what the command has loaded already. Each later one is executed anew, and has the code that is
installed then.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sticky.keeper.directory import ControlDirectory
from sticky.keeper.lines import DIRECTORY, KEEPER_FD, NO_PRIMARY
from sticky.supervision.spawn import TERMINAL_SIGNALS

PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h; the flag survives execve(2)
PROGRAM: Final = str(Path(__file__).with_name("keeper.py"))


def become_keeper(argv: Sequence[str], *, directory: str, lock: int) -> None:
    """
    Execute the keeper in this process, and return in a child of it, which has to be the first primary.

    Standard streams and inheritable descriptors stay. The child finds its link with `KeeperLink.from_environment`.
    Where a primary lives that has lost its keeper, there is no child, and this never returns.

    Args:
        argv: the command of each later primary, which finds its link in the same way.
        directory: the control directory. The keeper removes it when the server has stopped.
        lock: the descriptor of a lock that the keeper holds as long as it lives. The child closes it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    first = NO_PRIMARY
    if not ControlDirectory(directory).primary_lives():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
        pid = os.fork()
        if not pid:
            for number in TERMINAL_SIGNALS:  # as in spawn.py: they reach the keeper, which passes them on
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(lock)  # else it would be held after the keeper's end
            ours.close()
            _be_primary(theirs.detach(), directory)
            return
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        ours.set_inheritable(True)
        first = (str(pid), str(ours.detach()))
    # Where it fails, the children of a dead primary become those of process 1, and the keeper does not learn their end.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.set_inheritable(lock, True)
    keeper = [sys.executable, "-I", "-S", "-E", PROGRAM, directory, str(lock), *first]
    os.execv(sys.executable, [*keeper, *argv])  # noqa: S606 - no shell


def _be_primary(link: int, directory: str) -> None:
    """Make this process look like one that the keeper has started."""
    os.environ |= {KEEPER_FD: str(link), DIRECTORY: directory}
    if os.environ.get("WATCHDOG_PID") == str(os.getppid()):
        del os.environ["WATCHDOG_PID"]  # it is about the keeper
    if not sys.flags.safe_path:
        del sys.path[0]  # later primaries are started with -P: what is imported from now on is no file of the user's
