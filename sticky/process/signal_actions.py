"""
What each signal has the primary do.

Runs in the primary, between two callbacks of its loop (signals.py). With a keeper the signals come as lines from there.

| signal    | what happens                                                          |
|-----------|-----------------------------------------------------------------------|
| TERM, INT | lame duck, then stop accepting, drain every worker, end; another one  |
|           | ends the lame duck, and one after that ends at once                   |
| QUIT      | end at once                                                           |
| HUP       | reload: each worker is replaced when its successor is ready           |
| TTIN/TTOU | one worker more, one fewer                                            |
| USR1      | open the log files again (the `reopen_logs` hook)                     |
| USR2      | upgrade: a primary with the code of today takes over (with a keeper)  |
| CHLD      | a process ended: a worker, a sidecar, or as PID 1 any other           |
"""

from __future__ import annotations

import signal
from typing import Final, Protocol

from sticky.process.primary_state import PrimaryState

SIGNALS: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCHLD,
)
TERMINAL: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
"""Those that a terminal sends to its whole foreground group, so to the keeper as well."""


class Signalled(Protocol):
    """What signals need of the primary."""

    @property
    def state(self) -> PrimaryState: ...

    @property
    def wanted(self) -> int:
        """How many workers there should be."""

    # As commands have it (commands.py). What a signal asks for in vain is in the log: a signal has no answer.

    def stop(self) -> None:
        """Begin the lame duck or the drain; during the lame duck, end that and drain."""

    def stop_now(self, status: int) -> None:
        """End at once, with this exit status."""

    def reload(self) -> bool:
        """Replace every worker."""

    def upgrade(self) -> bool:
        """Have a primary with the code of today take over."""

    def scale(self, workers: int) -> None:
        """Have so many slots, at least one."""

    def reopen_logs(self) -> None:
        """Call the hook: the files of logs are the application's or the command's."""


def act(primary: Signalled, number: signal.Signals) -> None:
    """Do what the table at the head of this file says. SIGCHLD is not for this: the primary reaps."""
    if number in (signal.SIGTERM, signal.SIGINT):
        if primary.state is PrimaryState.STOPPING:
            primary.stop_now(128 + number)
        else:
            primary.stop()
    elif number is signal.SIGQUIT:
        primary.stop_now(128 + number)
    elif number is signal.SIGHUP:
        primary.reload()
    elif number is signal.SIGTTIN:
        primary.scale(primary.wanted + 1)
    elif number is signal.SIGTTOU:
        primary.scale(primary.wanted - 1)
    elif number is signal.SIGUSR1:
        primary.reopen_logs()
    elif number is signal.SIGUSR2:
        primary.upgrade()
