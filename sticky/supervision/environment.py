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
from sticky.handoff.channel import CHANNEL_FD, RELAYED_MAX, Channel, WorkerChannel
from sticky.handoff.fork_link import TEMPLATE_FD, ForkLink
from sticky.handoff.messages import from_worker
from sticky.supervision.spawn import descriptor_of, spawn

READY_FD: Final = "{ready_fd}"
"""Stands in a sidecar's command for the number of the descriptor to which it writes when it serves."""


class TemplateLink(Protocol):
    """The primary's end of the link to a template. `ForkLink` is the real one, with the full contract."""

    def is_ready(self) -> bool:
        """Return whether it has said that it can be asked. Raises ChannelClosed when it is gone."""

    def ask(self, env: Mapping[str, str], end: int) -> tuple[int, int]:
        """Have a worker forked. Return its pid and a pidfd. Raises ForkFailed, ChannelClosed."""

    def fileno(self) -> int: ...

    def close(self) -> None: ...


class Environment(Protocol):
    """Starts, signals and reaps processes. The caller owns what is returned."""

    def start_worker(self, argv: Sequence[str], env: Mapping[str, str]) -> tuple[int, WorkerChannel]:
        """
        Start a worker. Return its pid and the primary's end of its channel.

        Raises:
            OSError: it cannot be started; no descriptor is left behind.
        """

    def start_template(self, argv: Sequence[str], env: Mapping[str, str]) -> tuple[int, TemplateLink]:
        """
        Start a template. Return its pid and the primary's end of its link.

        Raises:
            OSError: it cannot be started; no descriptor is left behind.
        """

    def fork_worker(self, template: TemplateLink, env: Mapping[str, str]) -> tuple[int, int, WorkerChannel]:
        """
        Have a worker forked of a template. Return its pid, a pidfd, and the primary's end of its channel.

        Raises:
            ForkFailed: there is no worker.
            ChannelClosed: likewise, and the template is gone.
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

    def open_pidfd(self, pid: int) -> int | None:
        """Return a pidfd of a process that is not reaped; None when there is none. The caller owns it."""

    def adopt_channel(self, fd: int) -> WorkerChannel:
        """Return the primary's end of a channel that an earlier primary has made. It owns the descriptor."""

    def adopt(self, pid: int, pidfd: int | None) -> bool:
        """
        Take over a process that an earlier primary has started, and that is no child of this one.

        The caller must call `disown` when it has ended, and watch `pidfd_of` for that.

        Args:
            pidfd: of the process, which is owned here from now on; None to open one.

        Returns:
            False when there is no such process.
        """

    def pidfd_of(self, pid: int) -> int | None:
        """Return the pidfd of an adopted process, which is readable when it has ended; None for every other process."""

    def disown(self, pid: int) -> None:
        """Close the pidfd of a process that has ended. Does nothing for one that was not adopted."""


class OperatingSystem:
    """The `Environment` of a real primary."""

    def __init__(self) -> None:
        self._adopted: dict[int, int] = {}  # pidfds, by pid

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

    def start_template(self, argv: Sequence[str], env: Mapping[str, str]) -> tuple[int, TemplateLink]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        link = ForkLink(ours)
        try:
            fd = descriptor_of(theirs)
            return spawn(argv, {**env, TEMPLATE_FD: str(fd)}, fd), link
        except BaseException:
            link.close()
            raise
        finally:
            theirs.close()

    def fork_worker(self, template: TemplateLink, env: Mapping[str, str]) -> tuple[int, int, WorkerChannel]:
        channel, theirs = Channel.pair(from_worker)
        try:
            pid, pidfd = template.ask(env, theirs.fileno())
        except BaseException:
            channel.close()
            raise
        finally:
            theirs.close()
        return pid, pidfd, channel

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
        pidfd = self._adopted.get(pid)
        if pidfd is None:
            os.kill(pid, number)
        else:  # its parent may have reaped it, so that the number is another's
            signal.pidfd_send_signal(pidfd, number)

    def reap(self) -> tuple[int, int] | None:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        return (pid, status) if pid else None

    def open_pidfd(self, pid: int) -> int | None:
        try:
            return os.pidfd_open(pid)
        except OSError:
            return None

    def adopt_channel(self, fd: int) -> WorkerChannel:
        return Channel(socket.socket(fileno=fd), from_worker, limit=RELAYED_MAX)

    def adopt(self, pid: int, pidfd: int | None) -> bool:
        assert pid not in self._adopted, "a process is adopted once"
        pidfd = self.open_pidfd(pid) if pidfd is None else pidfd
        if pidfd is not None:
            self._adopted[pid] = pidfd
        return pidfd is not None

    def pidfd_of(self, pid: int) -> int | None:
        return self._adopted.get(pid)

    def disown(self, pid: int) -> None:
        pidfd = self._adopted.pop(pid, None)
        if pidfd is not None:
            os.close(pidfd)
