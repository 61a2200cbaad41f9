"""
Starts a process that shares nothing with the primary but one descriptor.

Runs in the primary, and in the keeper, for which it imports little. Processes are executed anew, never forked of the
primary: a reload gets new code, no lock and no descriptor is inherited, and the primary never imports the application.
Signals of the terminal (Ctrl-C, Ctrl-\\, hang-up) reach the whole foreground group. A started process ignores them from
its first instruction on: the primary acts on them, and its workers learn of that through their channels.

It never waits for the process, and keeps no record of it.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping, Sequence

TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
_DEFAULT = (signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE, signal.SIGUSR1, signal.SIGUSR2)


def spawn(argv: Sequence[str], env: Mapping[str, str], inherited: int) -> int:
    """
    Start `argv` and return its process id. The caller must reap it.

    Args:
        inherited: the descriptor that the process gets, under the same number. The caller still owns its own.

    Raises:
        OSError: the program cannot be started.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)  # blocked ones wait; ignored ones would be lost
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in TERMINAL_SIGNALS}
    try:
        os.set_inheritable(inherited, True)
        return os.posix_spawnp(argv[0], list(argv), dict(env), setsigmask=(), setsigdef=_DEFAULT)
    finally:
        os.set_inheritable(inherited, False)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def descriptor_of(end: socket.socket) -> int:
    """Return the number under which `end` is inherited; low numbers belong to the standard streams."""
    fd = end.fileno()
    assert fd > 2, "the standard streams are open"
    return fd
