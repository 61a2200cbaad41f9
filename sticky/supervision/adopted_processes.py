"""
The processes that an earlier primary has started, and that are no children of this one: how their end is learned.

Runs in the primary. The keeper inherits the children of a dead primary, reaps them, and reports how each has ended.
Where their parent is another process (a keeper that was killed had been their parent), nothing reports it. So the pidfd
of each is watched, and `REAPED_S` after it has shown the end, the end counts with an unknown status.

It starts, signals and reaps nothing. The environment owns the pidfds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sticky.loop.poller import READ, Poller
from sticky.supervision.environment import Environment

REAPED_S: Final = 0.2  # for the keeper's report


class AdoptedProcesses:
    """The adopted processes that run."""

    def __init__(self, poller: Poller, environment: Environment, on_ended: Callable[[int, int | None], None]) -> None:
        """
        Args:
            on_ended: called with the pid of a process whose end was not reported, and None for its wait status. It
                calls `reaped`.
        """
        self._poller = poller
        self._environment = environment
        self._on_ended = on_ended

    def adopt(self, pid: int, pidfd: int | None) -> bool:
        """
        Watch a process for its end. You must call `reaped` when its end is known from elsewhere.

        Args:
            pidfd: of the process, given up by the caller; None to open one.

        Returns:
            False when there is no such process.
        """
        if not self._environment.adopt(pid, pidfd):
            return False
        watched = self._environment.pidfd_of(pid)
        if watched is not None:
            self._poller.watch(watched, READ, lambda events: self._ended(pid, watched), on_failed=lambda: None)
        return True

    def _ended(self, pid: int, pidfd: int) -> None:
        self._poller.forget(pidfd)
        self._poller.after(REAPED_S, lambda: self._report(pid, pidfd))

    def _report(self, pid: int, pidfd: int) -> None:
        if self._environment.pidfd_of(pid) == pidfd:  # else its end was reported meanwhile
            self._on_ended(pid, None)

    def reaped(self, pid: int) -> None:
        """Note that the end of a process is known, whether it was adopted or not."""
        pidfd = self._environment.pidfd_of(pid)
        if pidfd is not None:
            self._poller.forget(pidfd)
            self._environment.disown(pid)
