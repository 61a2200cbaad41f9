"""
Adopts the workers and sidecar processes of a server that has lost its keeper and its primary, or has them end first.

Runs in a primary that its keeper has started as the first one, before its loop: so it waits. It never starts anything.

**Theory of operation.** The processes stand in a file of the control directory (process_record.py). Each one looks for
the next primary, and connects to a socket there (orphan_report.py). What is adopted becomes a `Kept`, as if a keeper
had it: the rest is a takeover like any other (takeover.py).

| what a process is                                   | what happens                                              |
|-----------------------------------------------------|-----------------------------------------------------------|
| a worker or sidecar with the same terms             | it is adopted                                             |
| a worker with other settings, or of another version | it closes its clients with a reconnect code, and ends     |
| a sidecar of that kind                              | it ends by itself when the last such worker has ended     |
| one that does not connect within `CONNECT_S`        | it is killed                                              |

Nothing is started before each of them is adopted or has ended. So no room ever has two brokers.

**What proves that a process is one of ours.** The record names a pid and the start of that process, so a number that
the kernel has given away since is not taken for it. A pidfd is opened then, and holds the number from here on. The
process has to be the directory owner's, and the socket's other end has to be that very pid (SO_PEERCRED). A process
that another user started can therefore neither be adopted nor be killed by a line in the file.

**The time is bounded**: `CONNECT_S`, then the drain of refused workers, then two times `END_S`. Meanwhile the clients
of all workers are served as before.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Mapping
from typing import Final

import msgspec

from sticky.handoff.channel import Channel, ChannelClosed, Kind
from sticky.handoff.messages import from_worker
from sticky.handoff.orphan_report import ORPHAN_SOCKET, PACKET_MAX, VERSION, OrphanReport
from sticky.loop.log_lines import ORPHAN_KILLED, ORPHAN_REFUSED, ORPHANS_ADOPTED, ORPHANS_FOUND, log
from sticky.process.process_record import SIDECAR, WORKER, ProcessRecord, pid_in
from sticky.supervision.deposit import Kept

CONNECT_S: Final = 5.0  # for a process whose loop turns; it looks for a primary ten times a second
DRAIN_MAX_S: Final = 5.0  # for the clients of a worker that is not adopted: nothing is served meanwhile
END_S: Final = 5.0  # after that, for the worker to end, and then for the sidecars
BACKLOG: Final = 1024


class Orphans:
    """The processes of one control directory."""

    def __init__(self, directory: str, *, terms: str, sidecar_terms: Mapping[str, str], drain_s: float) -> None:
        """
        Args:
            terms: of the workers that this primary would start.
            sidecar_terms: of its sidecars, by their names as one word.
            drain_s: for the clients of a worker that is not adopted.
        """
        self._directory = directory
        self._terms = {WORKER: terms}
        self._sidecar_terms = sidecar_terms
        self._drain_s = min(drain_s, DRAIN_MAX_S)
        self._kept = Kept()
        self._pidfds: dict[int, tuple[str, int]] = {}  # of those that are neither adopted nor ended: name, pid
        self._reported: set[int] = set()  # pids
        self._adopted: set[str] = set()  # names
        self._refused = 0
        self._users: tuple[int, ...] = ()  # whose processes may be adopted or killed
        self._secret: bytes | None = None
        self._sockets: list[socket.socket] = []  # of refused workers, until they have ended

    def collect(self) -> Kept:
        """Return what was adopted, nothing where there is nothing. The caller owns the descriptors in it."""
        texts = ProcessRecord(self._directory).read()
        assert not self._pidfds, "the processes are collected once: a second time would find what was adopted"
        owner = os.stat(self._directory).st_uid  # whose processes they are, and who may write the record
        self._users = (owner,)
        for name, text in texts.items():
            pid = pid_in(name, text)
            with contextlib.suppress(OSError):
                if pid and os.stat(f"/proc/{pid}").st_uid in self._users:
                    self._pidfds[os.pidfd_open(pid)] = (name, pid)
        if not self._pidfds:
            return self._kept
        log(logging.WARNING, ORPHANS_FOUND, processes=len(self._pidfds))
        path = os.path.join(self._directory, ORPHAN_SOCKET)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        before = os.umask(0o177)
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listener.bind(path)
        finally:
            os.umask(before)
        os.chown(path, owner, -1, follow_symlinks=False)  # it may be a link of that user by now
        with listener:
            listener.listen(BACKLOG)
            self._wait(listener, time.monotonic() + CONNECT_S, until_reported=True)
            self._end_rest(listener)
        os.unlink(path)
        for sock in self._sockets:
            sock.close()
        for name, text in texts.items():
            # What operators have asked for counts as long as there is a worker that they have asked it of.
            if name in self._adopted or (self._secret is not None and not pid_in(name, text)):
                self._kept.texts[name] = text
        log(logging.WARNING, ORPHANS_ADOPTED, processes=len(self._adopted), refused=self._refused)
        return self._kept

    # Waiting

    def _wait(self, listener: socket.socket, until: float, *, until_reported: bool) -> None:
        """Wait until each process has ended, or has reported where that is enough."""
        while (left_s := until - time.monotonic()) > 0:
            waits = [fd for fd, (_, pid) in self._pidfds.items() if not until_reported or pid not in self._reported]
            if not waits:
                return
            poll = select.poll()
            for fd in [listener.fileno(), *self._pidfds]:
                poll.register(fd, select.POLLIN)
            for fd, _ in poll.poll(left_s * 1000):
                if fd == listener.fileno():
                    self._accept(listener)
                else:
                    self._forget(fd)

    def _forget(self, pidfd: int) -> None:
        """Note that a process has ended: its pidfd became readable, which proves it (pidfd_open(2))."""
        del self._pidfds[pidfd]
        os.close(pidfd)

    def _end_rest(self, listener: socket.socket) -> None:
        """Wait for those that are not adopted, and kill what does not end. Silent processes are killed at once."""
        self._kill(but=self._reported)
        if any(name.startswith(WORKER) for name, _ in self._pidfds.values()):
            self._wait(listener, time.monotonic() + self._drain_s + END_S, until_reported=False)
        else:
            self._wait(listener, time.monotonic() + END_S, until_reported=False)
        self._kill(but=set())
        self._wait(listener, time.monotonic() + END_S, until_reported=False)

    def _kill(self, *, but: set[int]) -> None:
        """Kill what is neither adopted nor ended, without those of `but`. By pidfd, so that no other process is hit."""
        for pidfd, (name, pid) in self._pidfds.items():
            if pid not in but:
                log(logging.ERROR, ORPHAN_KILLED, process=name, pid=pid)
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    # Their reports

    def _accept(self, listener: socket.socket) -> None:
        """
        Take one report. Whatever else connects is closed without an answer, and costs at most `CONNECT_S`: the socket
        is the directory owner's alone, so only that user could make this primary wait.
        """
        sock, _ = listener.accept()
        pid, uid = _peer_of(sock)
        found = [pidfd for pidfd, (_, each) in self._pidfds.items() if each == pid]
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        try:
            if uid not in self._users or not found or not poll.poll(CONNECT_S * 1000):
                raise ValueError("no process of this server")
            report = msgspec.msgpack.decode(sock.recv(PACKET_MAX), type=OrphanReport)
        except (OSError, ValueError, msgspec.MsgspecError):
            sock.close()
            return
        if pid in self._reported:  # it was refused, and looks for another primary
            sock.close()
            return
        self._reported.add(pid)
        self._judge(found[0], report, sock)

    def _judge(self, pidfd: int, report: OrphanReport, sock: socket.socket) -> None:
        """
        Adopt a process, or refuse it with a reason. All adopted workers have one secret: two would hash a key to two
        slots, and a client's connections would meet two workers.
        """
        name, pid = self._pidfds[pidfd]
        kind = WORKER if name.startswith(WORKER) else SIDECAR
        word = name.removeprefix(kind)
        terms = self._terms.get(kind) or self._sidecar_terms.get(word)
        reason = (
            f"it speaks version {report.version}"
            if report.version != VERSION
            else "it has other settings"
            if report.terms != terms or report.name != word
            else "it has another secret"
            if kind == WORKER and self._secret not in (None, report.secret)
            else None
        )
        if reason is not None:
            self._refuse(name, pid, reason, sock)
            return
        if kind == WORKER:
            self._kept.fds[f"channel:{word}"] = sock.detach()
            self._kept.fds[f"process:{word}"] = pidfd
            self._note_primary(report)
        else:
            self._kept.fds[f"alive:{word}"] = sock.detach()
            os.close(pidfd)
        del self._pidfds[pidfd]
        self._adopted.add(name)

    def _note_primary(self, report: OrphanReport) -> None:
        """Note what the earlier primary had drawn."""
        if self._secret is None:
            self._secret = report.secret
            self._kept.fds["secret"] = fd = os.memfd_create("secret", os.MFD_CLOEXEC)
            os.write(fd, report.secret)
            self._kept.texts["node"] = report.node

    def _refuse(self, name: str, pid: int, reason: str, sock: socket.socket) -> None:
        """Have a worker close its clients and end. A sidecar ends when no worker is left that needs it."""
        log(logging.WARNING, ORPHAN_REFUSED, process=name, pid=pid, reason=reason)
        self._refused += 1
        if name.startswith(WORKER):
            with contextlib.suppress(ChannelClosed):
                Channel(sock, from_worker).send(Kind.DRAIN, self._drain_s)
            self._sockets.append(sock)
        else:
            sock.close()


def _peer_of(sock: socket.socket) -> tuple[int, int]:
    """Return pid and uid of the process at the other end (SO_PEERCRED, unix(7))."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[0:4], "little"), int.from_bytes(credentials[4:8], "little")
