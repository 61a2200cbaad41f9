"""
The primary's end of its link to the keeper: what is kept there, and what comes from there.

Runs in the primary. It has a table of all that this primary has left with the keeper, so that a new keeper can get it
again. Nothing here waits, but for the first messages at the start: what the keeper does not take yet waits in a queue.

A primary without a keeper (`Cluster.run`) has a `KeeperLink()`, which keeps its table and sends nothing.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from sticky.keeper.lines import (
    AGAIN,
    FIRST,
    KEEPER_SOCKET,
    LinkClosed,
    receive,
    send,
)
from sticky.lifetime import resident_bytes
from sticky.loop.log_lines import log
from sticky.loop.poller import READ, WRITE, Poller, Timer
from sticky.process.keeper_start import PREPARE, START_S, lock, receive_deposit, socket_from_environment
from sticky.process.process_record import ProcessRecord
from sticky.supervision.deposit import Kept

ALIVE_S: Final = 1.0  # between two signs of life; the keeper waits fifteen times as long
RELINK_S: Final = 0.25  # between two attempts to find another keeper
LAST_S: Final = 1.0  # for the keeper to have room for the last line
RETRY_S: Final = 0.02  # a link full of descriptors in flight (ETOOMANYREFS) gets no event from epoll
QUEUE_MAX: Final = 16_384  # lines that wait; a keeper that reads none of so many is taken for lost

KEEPER_LOST: Final = "keeper lost"
KEEPER_FOUND: Final = "keeper found"
KEEPER_LOST_REASON: Final = "this primary serves on without it; start the server again to have a keeper"

OnSignal = Callable[[signal.Signals], None]
OnReaped = Callable[[int, int], None]


class KeeperLink:
    """What the keeper keeps for this primary. It is the `Deposit` of the supervisor."""

    def __init__(
        self,
        sock: socket.socket | None = None,
        kept: Kept | None = None,
        *,
        mode: str = FIRST,
        directory: str = "",
    ) -> None:
        """
        Args:
            sock: the link; None for a primary without a keeper.
            kept: what an earlier primary has left.
            mode: how this primary was started, as in lines.py.
            directory: the control directory, which the keeper removes at the end.
        """
        self.directory = directory
        self.kept = Kept() if kept is None else kept
        self.is_successor = False
        """Whether this process must call `take_over`: a primary serves beside it."""
        self.is_takeover = mode == AGAIN
        """Whether an earlier primary has served: this one goes on with what it has left."""
        self.is_upgrade = False
        """Whether the earlier primary has left everything on purpose, to this one."""
        self._sock = sock
        self._is_used = sock is not None
        self._lock = -1
        self._fds: dict[str, int] = {}  # what is kept; the descriptors are their owners'
        self._texts: dict[str, str] = {}
        self._memory: dict[str, int] = {}  # descriptors that are owned here: memory files
        self._queue: deque[tuple[str, int | None]] = deque()  # the descriptors in it are copies, owned here
        self._poller: Poller | None = None
        self._alive_timer: Timer | None = None
        self._on_signal: OnSignal = lambda number: None
        self._on_reaped: OnReaped = lambda pid, status: None
        self._on_lost: Callable[[], object] = lambda: None
        self._on_release: Callable[[], object] = lambda: None
        self.upgrade_failed: str | None = None
        """Why the last upgrade was given up."""
        self._on_linked: Callable[[], object] = lambda: None
        self._is_closed = False
        self._record = ProcessRecord(directory)
        self._is_recording = False  # a text has changed, and it is not written yet

    @classmethod
    def from_environment(cls) -> KeeperLink | None:
        """
        Take the link over that the keeper has made for this process, and wait for what it keeps.

        Returns:
            None when no keeper started this process.

        Raises:
            SettingsError: the keeper is gone or sends nothing, or another primary lives.
        """
        found = socket_from_environment()
        if found is None:
            return None
        link = cls(found[0], directory=found[1])
        link._begin(START_S)
        return link

    def _begin(self, wait_s: float | None) -> None:
        assert self._sock is not None, "the link was just made"
        mode = receive_deposit(self._sock, self.kept, wait_s)
        self.is_successor, self.is_takeover = mode == PREPARE, mode == AGAIN
        if not self.is_successor:
            self._lock = lock(self.directory)

    def take_over(self) -> None:
        """
        As a successor that has loaded all its code: wait until the primary has left everything, and take that.

        Raises:
            SettingsError: the keeper is gone.
        """
        assert self.is_successor, "another primary has its deposit from the beginning"
        self._send("PREPARED")
        self._begin(None)
        self.is_upgrade = True

    def unfit(self, reason: str) -> None:
        """As a successor that cannot take over: report why. This process must end next."""
        self._send(f"UNFIT {reason}")

    # What is kept

    @property
    def is_used(self) -> bool:
        """Whether there is, or was, a keeper at all."""
        return self._is_used

    @property
    def is_linked(self) -> bool:
        """Whether there is a keeper now."""
        return self._sock is not None

    @property
    def pid(self) -> int | None:
        """The keeper's process id."""
        return None if self._sock is None else _peer_pid(self._sock)

    def describe(self) -> dict[str, int] | None:
        """Return a snapshot: the keeper's pid and its memory in bytes; None without a keeper."""
        pid = self.pid
        return None if pid is None else {"pid": pid, "resident_bytes": resident_bytes(pid), "kept": len(self._fds)}

    def put(self, name: str, fd: int) -> None:
        """Keep a copy of a descriptor. The caller must `drop` the name before it closes its own."""
        self._fds[name] = fd
        self._send(f"PUT {name}", fd)

    def put_bytes(self, name: str, data: bytes) -> int:
        """Keep some bytes, in a memory file that is owned here. Return its descriptor."""
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        before = self._memory.pop(name, None)
        self._memory[name] = fd
        self.put(name, fd)
        if before is not None:
            os.close(before)
        return fd

    def take_bytes(self, name: str) -> bytes | None:
        """Return the bytes that an earlier primary has kept, None where there are none. Keep them again."""
        fd = self.kept.take(name)
        if fd is None:
            return None
        try:
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)

    def set(self, name: str, text: str) -> None:
        """Keep a text, which has no line end."""
        assert "\n" not in text, "a line has one line"
        assert " " not in name, "a name is one word"
        self._texts[name] = text
        self._note(name)
        self._send(f"SET {name} {text}")

    def drop(self, name: str) -> None:
        """Keep nothing more under a name."""
        self._fds.pop(name, None)
        if self._texts.pop(name, None) is not None:
            self._note(name)
        self._send(f"DROP {name}")

    def _note(self, name: str) -> None:
        """Have the record of processes written anew, once for all that changes in this turn of the loop."""
        if self._record.has(name) and not self._is_recording:
            self._is_recording = True
            if self._poller is not None:
                self._poller.after(0, self._write_record)

    def _write_record(self) -> None:
        self._is_recording = False
        if not self._is_closed:
            self._record.write(self._texts)

    def drop_rest(self) -> None:
        """Close and drop what an earlier primary has left and this one has not taken. Call this once all is taken."""
        for name in [*self.kept.fds, *self.kept.texts]:
            if name not in self._fds and name not in self._texts:
                self.drop(name)
        self.close_rest()

    def close_rest(self) -> None:
        """Close what was not taken, for a start that fails. The keeper keeps all of it."""
        for fd in self.kept.fds.values():
            os.close(fd)
        self.kept.fds.clear()

    # What is sent beside it

    def ready(self) -> None:
        """Report that the server serves."""
        self._send("READY")

    def notify(self, text: str) -> None:
        """Have the keeper send this to the service manager."""
        self._send(f"NOTIFY {text}")

    def become(self) -> None:
        """Have the keeper become the user of this process, for good."""
        ids = " ".join(str(each) for each in (os.getuid(), os.getgid(), *os.getgroups()))
        self._send(f"BECOME {ids}")

    def upgrade(self) -> bool:
        """Have a successor started with the code of today. Return False without a keeper."""
        self.upgrade_failed = None
        self._send("UPGRADE")
        return self.is_linked

    def released(self) -> None:
        """Report that everything is left with the keeper, once all of it is sent. This process must end next."""
        until = time.monotonic() + LAST_S
        while self._queue and time.monotonic() < until:
            time.sleep(RETRY_S)
            self._flush()
        os.close(self._lock)  # it is the successor's from now on
        self._lock = -1
        self._send("RELEASED")

    def stopping(self) -> None:
        """Report that the server stops: a primary that is started from now on has to stop as well."""
        self._send("STOPPING")

    def stopped(self, status: int) -> None:
        """Report that the server has stopped, and wait a moment where the link is full. This process must end next."""
        self._close_queue()  # nothing is kept any more: only this line counts
        if self._sock is not None:
            poll = select.poll()
            poll.register(self._sock, select.POLLOUT)
            poll.poll(LAST_S * 1000)
        self._send(f"STOPPED {status}")

    def _send(self, line: str, fd: int | None = None) -> None:
        if self._sock is None:
            return
        try:
            if not self._queue and send(self._sock, line, fd):
                return
        except LinkClosed:
            self._lose()
            return
        if len(self._queue) >= QUEUE_MAX:
            self._lose()
            return
        self._queue.append((line, None if fd is None else os.dup(fd)))
        self._watch()

    # The loop

    def watch(
        self,
        poller: Poller,
        *,
        on_signal: OnSignal,
        on_reaped: OnReaped,
        on_lost: Callable[[], object],
        on_linked: Callable[[], object],
        on_release: Callable[[], object],
    ) -> None:
        """
        Begin to read the link, and to send signs of life.

        Args:
            on_signal: called with each signal that the server got.
            on_reaped: called with pid and wait status of a child of an earlier primary that has ended.
            on_lost: called when the keeper is gone: signals come to this process from then on.
            on_linked: called when another keeper was found, and everything was left with it.
            on_release: called when a successor is prepared: leave everything, and call `released`.
        """
        self._poller, self._on_signal, self._on_reaped = poller, on_signal, on_reaped
        self._on_lost, self._on_linked, self._on_release = on_lost, on_linked, on_release
        self._write_record()
        if self._sock is None:
            if self._is_used:  # it was lost during the start
                self._on_lost()
                poller.after(RELINK_S, self._relink)
            return
        poller.watch(self._sock.fileno(), READ, self._on_events, on_failed=lambda: None)
        self._watch()
        self._alive()

    def _alive(self) -> None:
        if self._alive_timer is not None:
            self._alive_timer.cancel()
        if self._sock is not None and self._poller is not None:
            self._alive_timer = self._poller.after(ALIVE_S, self._alive)
            if not self._queue:
                self._send("ALIVE")

    def _watch(self) -> None:
        if self._poller is not None and self._sock is not None:
            self._poller.change(self._sock.fileno(), READ | WRITE if self._queue else READ)

    def _on_events(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        while self._sock is not None:
            try:
                received = receive(self._sock)
            except LinkClosed:
                self._lose()
                return
            if received is None:
                return
            self._on_line(*received)

    def _on_line(self, line: str, fd: int | None) -> None:
        """Do what a line of the keeper says. One that is unknown, of a later version, does nothing."""
        assert self._poller is not None, "lines are read once the loop runs"
        word, *words = line.split()
        if word == "SIGNAL":
            self._poller.guard(partial(self._on_signal, signal.Signals[words[0]]))
        elif word == "RELEASE":
            self._poller.guard(self._on_release)
        elif word == "UPGRADE-FAILED":
            self.upgrade_failed = line.partition(" ")[2]
        elif word == "REAPED":
            self._poller.guard(partial(self._on_reaped, int(words[0]), int(words[1])))
        if fd is not None:
            os.close(fd)

    def _flush(self) -> None:
        try:
            while self._sock is not None and self._queue:
                line, fd = self._queue[0]
                if not send(self._sock, line, fd):
                    break
                self._queue.popleft()
                if fd is not None:
                    os.close(fd)
        except LinkClosed:
            self._lose()
            return
        if self._queue and self._poller is not None and self._sock is not None:
            # Not watched meanwhile: a link that is full of descriptors in flight is reported as writable all the time.
            self._poller.change(self._sock.fileno(), READ)
            self._poller.after(RETRY_S, self._watch)
        else:
            self._watch()

    def _lose(self) -> None:
        """Give the link up. What is in the table stays, for the next keeper."""
        if self._sock is None:
            return
        if self._poller is not None:
            self._poller.forget(self._sock.fileno())
        self._sock.close()
        self._sock = None
        self._close_queue()
        log(logging.ERROR, KEEPER_LOST, reason=KEEPER_LOST_REASON)
        self._on_lost()
        if self._poller is not None and self.directory:
            self._poller.after(RELINK_S, self._relink)

    def _relink(self) -> None:
        """Look for another keeper in the control directory, and leave everything with it."""
        assert self._poller is not None, "a keeper that is lost before the loop runs is not looked for"
        if self._is_closed:
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.setblocking(False)
        try:
            sock.connect(os.path.join(self.directory, KEEPER_SOCKET))
        except OSError:
            sock.close()
            self._poller.after(RELINK_S, self._relink)
            return
        self._sock = sock
        self._poller.watch(sock.fileno(), READ, self._on_events, on_failed=lambda: None)
        for name, text in self._texts.items():
            self._send(f"SET {name} {text}")
        for name, fd in self._fds.items():
            self._send(f"PUT {name}", fd)
        log(logging.WARNING, KEEPER_FOUND, pid=self.pid)
        self._alive()
        self._on_linked()

    def _close_queue(self) -> None:
        for _, fd in self._queue:
            if fd is not None:
                os.close(fd)
        self._queue.clear()

    def close(self) -> None:
        """Close the link and the memory files. What the keeper keeps, it keeps."""
        self._is_closed = True
        self.close_rest()
        self._close_queue()
        for fd in self._memory.values():
            os.close(fd)
        self._memory.clear()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        if self._sock is not None:
            if self._poller is not None:
                self._poller.forget(self._sock.fileno())
            self._sock.close()
            self._sock = None


def _peer_pid(sock: socket.socket) -> int:
    """Return the process that made the other end of a pair (SO_PEERCRED, unix(7))."""
    return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], "little")
