"""
What the primary needs of the operating system, as two small interfaces.

Runs in the primary. Its parts start, signal and reap processes through `Environment` alone, and send to a worker
through `WorkerChannel` alone. The clock and the readiness of descriptors are the poller's (poller.py). A test replaces
both by values in memory (tests/support/fake_environment.py), so that it reaches every state without a process.

`OperatingSystem` is the real one. It decides nothing and keeps no list of what it has started.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from sticky.handoff import journal
from sticky.handoff.channel import CHANNEL_FD, Channel, WorkerChannel
from sticky.handoff.messages import from_worker
from sticky.supervision.spawn import descriptor_of, spawn

READY_FD: Final = "{ready_fd}"
"""Stands in a sidecar's command for the number of the descriptor to which it writes when it serves."""


class Environment(Protocol):
    """Starts, signals and reaps processes. The caller owns what is returned."""

    def start_worker(self, argv: Sequence[str], env: Mapping[str, str]) -> tuple[int, WorkerChannel]:
        """
        Start a worker. Return its pid and the primary's end of its channel.

        Raises:
            OSError: it cannot be started; no descriptor is left behind.
        """

    def start_sidecar(self, argv: Sequence[str], env: Mapping[str, str]) -> tuple[int, socket.socket]:
        """
        Start a sidecar process. Return its pid and a non-blocking socket that is readable once it has written to
        `READY_FD`, or has closed it.

        Raises:
            OSError: it cannot be started; no descriptor is left behind.
        """

    def create_journal(self) -> int | None:
        """
        Return the descriptor of a memory file in which a worker notes its requests in flight (journal.py); None where
        that is not possible. The caller owns it.
        """

    def send_signal(self, pid: int, number: signal.Signals) -> None:
        """
        Signal a process that the caller has not reaped yet, so that the pid cannot be another's.

        Raises:
            ProcessLookupError: it is gone already.
        """

    def reap(self) -> tuple[int, int] | None:
        """Return pid and wait status of one process that has ended, None when none has. Never waits."""


class OperatingSystem:
    """The `Environment` of a real primary."""

    def start_worker(self, argv: Sequence[str], env: Mapping[str, str]) -> tuple[int, WorkerChannel]:
        channel, theirs = Channel.pair(from_worker)
        try:
            fd = descriptor_of(theirs)
            return spawn(argv, {**env, CHANNEL_FD: str(fd)}, fd), channel
        except BaseException:
            channel.close()
            raise
        finally:
            theirs.close()

    def start_sidecar(self, argv: Sequence[str], env: Mapping[str, str]) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair()
        try:
            fd = descriptor_of(theirs)
            pid = spawn([word.replace(READY_FD, str(fd)) for word in argv], env, fd)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        return pid, ours

    def create_journal(self) -> int | None:
        return journal.create()

    def send_signal(self, pid: int, number: signal.Signals) -> None:
        os.kill(pid, number)

    def reap(self) -> tuple[int, int] | None:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        return (pid, status) if pid else None
