"""
The keeper's view of one primary: its process, its end of the link, and the lines that wait for room.

Runs in the keeper. It decides nothing: keeper.py does.
"""

from __future__ import annotations

import os
import signal
import socket
from collections import deque

from sticky.keeper.lines import NO_PRIMARY, LinkClosed, receive, send

SILENT_S = 15.0  # the primary's loop turns within milliseconds; a hook of the user may block it for some seconds
BOOT_S = 60.0  # for a primary's first sign of life
OUTBOX_MAX = 65_536  # lines; a primary that reads none of so many is silent as well, and is killed


class PrimaryProcess:
    """One primary. It owns its end of the link."""

    def __init__(self, pid: int, sock: socket.socket, *, now: float) -> None:
        self.pid = pid
        self.sock = sock
        self.started_at = now
        self.alive_at: float | None = None  # the last sign of life
        self.ready_at: float | None = None
        self.is_reaped = False
        self.pidfd: int | None = None  # of one that is no child of this process
        self.is_lost = False  # the link has ended
        self.is_prepared = False  # a successor that waits for START
        self.unfit = ""  # why a successor cannot take over
        self.lost_at: float | None = None  # when that was seen
        self._outbox: deque[tuple[str, int | None]] = deque()

    @classmethod
    def from_arguments(cls, pid: str, link: str, *, now: float) -> PrimaryProcess | None:
        """Return the primary that these arguments of the keeper name; None for `NO_PRIMARY`."""
        if (pid, link) == NO_PRIMARY:
            return None
        sock = socket.socket(fileno=int(link))
        sock.set_inheritable(False)
        return cls(int(pid), sock, now=now)

    def send(self, line: str, fd: int | None = None) -> None:
        """Send a line, behind those that wait. `fd` must stay open until the line is sent or the link is lost."""
        if not self.is_lost and len(self._outbox) < OUTBOX_MAX:
            self._outbox.append((line, fd))
            self.flush()

    def flush(self) -> bool:
        """Send what waits. Return whether nothing waits any more."""
        while self._outbox and not self.is_lost:
            try:
                if not send(self.sock, *self._outbox[0]):
                    return False
            except LinkClosed:
                self.is_lost = True
                break
            self._outbox.popleft()
        return True

    def receive(self) -> tuple[str, int | None] | None:
        """Return the next line; None when none has come. Sets `is_lost` when none will come any more."""
        try:
            return receive(self.sock)
        except LinkClosed:
            self.is_lost = True
            return None

    @property
    def waits(self) -> bool:
        """Whether lines wait for room."""
        return bool(self._outbox) and not self.is_lost

    def silent_s(self, now: float) -> float:
        """Return how long there was no sign of life, if that is too long; else 0."""
        since, bound_s = (self.started_at, BOOT_S) if self.alive_at is None else (self.alive_at, SILENT_S)
        return now - since if now - since > bound_s else 0.0

    def forgive(self, stood_still_s: float) -> None:
        """Do not count a time in which the keeper itself did not run as silence."""
        self.started_at += stood_still_s
        if self.alive_at is not None:
            self.alive_at += stood_still_s

    def kill(self) -> None:
        """End the process at once, unless it is reaped."""
        if not self.is_reaped:
            try:
                if self.pidfd is None:
                    os.kill(self.pid, signal.SIGKILL)
                else:
                    signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            except ProcessLookupError:
                return
