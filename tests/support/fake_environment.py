"""
The operating system as the primary's parts see it, without a process: `FakeEnvironment`, and channels in memory.

    environment = FakeEnvironment()
    ...                                          # a launcher starts a worker
    process = environment.last                   # what it started
    process.channel.inbox.append(messages.Ready())
    poller.make_ready(process.channel.fileno(), READABLE)
    assert process.channel.kinds() == [Kind.BOOT]

A process does nothing by itself. `kill` and `exit` note how one ended; the test then tells the primary with `reap`, as
SIGCHLD would. SIGKILL from the primary ends a process at once, as it does in the kernel; other signals are only noted.
"""

from __future__ import annotations

import errno
import itertools
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from sticky.handoff.channel import ChannelClosed, Kind, Received, Unreadable, WorkerChannel
from sticky.handoff.fork_link import ForkFailed
from sticky.handoff.messages import Message
from sticky.supervision.environment import TemplateLink

_descriptors = itertools.count(10_000)  # of channels: numbers that no open file has


class FakeChannel:
    """The primary's end of a channel. The worker's end is `sent` and `inbox`."""

    def __init__(self) -> None:
        self.sent: list[tuple[Kind, tuple[Any, ...]]] = []
        self.inbox: list[Message | Received | Unreadable] = []
        self.is_full = False
        self.has_ended = False  # the worker has closed its end, or is dead
        self.is_closed = False  # the primary has closed its own
        self._fd = next(_descriptors)

    def send(self, kind: Kind, *fields: Any, fd: int | None = None, carried: bytes = b"") -> bool:
        assert not self.is_closed, "nothing is sent on a closed channel"
        if self.has_ended:
            raise ChannelClosed
        if self.is_full:
            return False
        self.sent.append((kind, fields))
        return True

    def receive(self) -> list[Received | Unreadable]:
        assert not self.is_closed, "nothing is received from a closed channel"
        if self.has_ended and not self.inbox:
            raise ChannelClosed
        found, self.inbox = self.inbox, []
        return [each if isinstance(each, (Received, Unreadable)) else Received(each) for each in found]

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        self.is_closed = True

    def kinds(self) -> list[Kind]:
        """Return the kinds of all messages that were sent to the worker."""
        return [kind for kind, _ in self.sent]

    def last(self, kind: Kind) -> tuple[Any, ...]:
        """Return the fields of the last message of a kind."""
        return next(fields for each, fields in reversed(self.sent) if each is kind)


class FakeProcess:
    """A process that the primary believes to have started."""

    def __init__(self, pid: int, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self.pid = pid
        self.argv = list(argv)
        self.env = dict(env)
        self.channel = FakeChannel()  # of a worker
        self.ready: socket.socket | None = None  # of a sidecar: the end to which it writes
        self.signals: list[signal.Signals] = []
        self.status: int | None = None  # how it ended, as waitpid says it
        self.is_reaped = False

    def exit(self, code: int = 0) -> None:
        """End by itself. Its channel ends as well."""
        self._end(code << 8)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End by a signal from outside."""
        self._end(int(number))

    def _end(self, status: int) -> None:
        if self.status is None:
            self.status = status
            self.channel.has_ended = True
            if self.ready is not None:
                self.ready.close()


class FakeTemplateLink:
    """The link to a template, in memory. What `fork_worker` does is in `FakeEnvironment`."""

    def __init__(self) -> None:
        self.is_up = False  # it has said that it is ready
        self.has_ended = False
        self.is_closed = False
        self.refuses: str | None = None  # why the next fork fails
        self._fd = next(_descriptors)

    def is_ready(self) -> bool:
        if self.has_ended:
            raise ChannelClosed
        return self.is_up

    def ask(self, env: Mapping[str, str], end: int) -> tuple[int, int]:
        raise AssertionError("FakeEnvironment.fork_worker has no process to ask")

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        assert not self.is_closed, "a link is closed once"
        self.is_closed = True


class FakeEnvironment:
    """`sticky.supervision.environment.Environment` in memory."""

    def __init__(self) -> None:
        self.processes: list[FakeProcess] = []
        self.fails: list[BaseException] = []  # raised by the next starts, one each
        self.journal: int | None = None  # what the next worker gets
        self._sockets: list[socket.socket] = []  # the primary's ends, of sidecars
        self._pids = itertools.count(501)
        self.links: list[FakeTemplateLink] = []  # of the templates that were started

    @property
    def last(self) -> FakeProcess:
        return self.processes[-1]

    def process(self, pid: int) -> FakeProcess:
        return next(each for each in self.processes if each.pid == pid)

    def start_worker(self, argv: Sequence[str], env: Mapping[str, str]) -> tuple[int, WorkerChannel]:
        process = self._start(argv, env)
        return process.pid, process.channel

    def start_sidecar(self, argv: Sequence[str], env: Mapping[str, str]) -> tuple[int, socket.socket]:
        process = self._start(argv, env)
        ours, process.ready = socket.socketpair()
        ours.setblocking(False)
        self._sockets.append(ours)
        return process.pid, ours

    def start_template(self, argv: Sequence[str], env: Mapping[str, str]) -> tuple[int, FakeTemplateLink]:
        self.links.append(FakeTemplateLink())
        return self._start(argv, env).pid, self.links[-1]

    def fork_worker(self, template: TemplateLink, env: Mapping[str, str]) -> tuple[int, int, WorkerChannel]:
        assert isinstance(template, FakeTemplateLink), "it is of this environment"
        assert not template.is_closed, "a template that was ended is not asked"
        if template.has_ended:
            raise ChannelClosed
        if template.refuses is not None:
            raise ForkFailed(template.refuses)
        process = self._start(["forked"], env)
        return process.pid, next(_descriptors), process.channel

    def create_journal(self) -> int | None:
        return self.journal

    def _start(self, argv: Sequence[str], env: Mapping[str, str]) -> FakeProcess:
        if self.fails:
            raise self.fails.pop(0)
        process = FakeProcess(next(self._pids), argv, env)
        self.processes.append(process)
        return process

    def send_signal(self, pid: int, number: signal.Signals) -> None:
        process = self.process(pid)
        assert not process.is_reaped, "a pid that was reaped may be another process's"
        if process.status is not None:
            raise ProcessLookupError(pid)
        process.signals.append(number)
        if number is signal.SIGKILL:
            process.kill()

    def reap(self) -> tuple[int, int] | None:
        for process in self.processes:
            if process.status is not None and not process.is_reaped:
                process.is_reaped = True
                return process.pid, process.status
        return None

    def open_pidfd(self, pid: int) -> int | None:
        return None

    def adopt_channel(self, fd: int) -> WorkerChannel:
        raise AssertionError("no earlier primary has left a channel")

    def adopt(self, pid: int, pidfd: int | None) -> bool:
        return False

    def pidfd_of(self, pid: int) -> int | None:
        return None

    def disown(self, pid: int) -> None:
        assert self.processes, "only a process that was started ends"

    def close(self) -> None:
        """Close the sockets of sidecars that still run."""
        for sock in [*self._sockets, *(each.ready for each in self.processes if each.ready is not None)]:
            sock.close()


def no_such_program(name: str = "worker") -> OSError:
    """Return what spawning a program raises that is not there."""
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
