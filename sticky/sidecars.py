"""
Processes that the workers need beside them, such as a broker: started before the workers, stopped after them.

Runs in the primary. A child says that it serves by writing to the descriptor it was given; its end is seen when it is
reaped, and it is started again with a back-off. It has no channel and gets no connection.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sticky.poller import READ, Poller
from sticky.spawn import descriptor_of, spawn

BACKOFF_S: Final = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
STEADY_S: Final = 10.0
STOP_S: Final = 5.0  # between asking and KILL

logger = logging.getLogger("sticky")


@dataclass(frozen=True, slots=True)
class Child:
    """
    A process to be kept alive. In `argv`, `{ready_fd}` stands for the number of the descriptor to which it writes
    something, anything, once it serves. `stop_signal` asks it to end: one that must outlast the workers takes another
    than TERM, which a service manager may send to every process of ours at once.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM


class Children:
    """All children. `on_ready` is called once, when each has been ready; `on_stopped` when all are gone."""

    def __init__(
        self,
        poller: Poller,
        children: Sequence[Child],
        env: Mapping[str, str],
        *,
        on_ready: Callable[[], None],
        on_failed: Callable[[], None],
    ) -> None:
        self._poller = poller
        self._children = children
        self._env = env
        self._on_ready = on_ready
        self._on_failed = on_failed
        self._on_stopped: Callable[[], None] | None = None
        self._running: dict[int, Child] = {}
        self._ready: set[str] = set()  # that were ever ready
        self._failures: dict[str, int] = {}
        self._begun = False

    def start(self) -> None:
        """Start them all."""
        for child in self._children:
            self._start(child)
        self._check_ready()

    def _start(self, child: Child) -> None:
        if self._on_stopped is not None:
            return
        try:
            ours, theirs = socket.socketpair()
            try:
                fd = descriptor_of(theirs)
                argv = [word.replace("{ready_fd}", str(fd)) for word in child.argv]
                pid = spawn(argv, {**self._env, **child.env}, fd)
            except BaseException:
                ours.close()
                raise
            finally:
                theirs.close()
        except OSError as error:
            logger.error("! %s cannot be started: %s", child.name, error.strerror)
            self._again(child)
            return
        ours.setblocking(False)
        self._running[pid] = child
        self._poller.watch(ours.fileno(), READ, lambda events: self._heard(child, ours), on_failed=ours.close)

    def _heard(self, child: Child, ours: socket.socket) -> None:
        try:
            said = ours.recv(64)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        self._poller.forget(ours.fileno())
        ours.close()
        if said:
            logger.info("= %s is ready", child.name)
            self._ready.add(child.name)
            self._poller.after(STEADY_S, lambda: self._failures.pop(child.name, None))
            self._check_ready()

    def _check_ready(self) -> None:
        if not self._begun and len(self._ready) == len(self._children):
            self._begun = True
            self._on_ready()

    def reaped(self, pid: int, status: int) -> bool:
        """Learn that a process ended. Return whether it was one of these."""
        child = self._running.pop(pid, None)
        if child is None:
            return False
        if self._on_stopped is not None:
            if not self._running:
                self._on_stopped()
            return True
        logger.error("! %s (%d) ended: %s", child.name, pid, os.waitstatus_to_exitcode(status))
        self._again(child)
        return True

    def _again(self, child: Child) -> None:
        """Start a child another time, or give up where it never came up."""
        failures = self._failures.get(child.name, 0)
        self._failures[child.name] = failures + 1
        if child.name not in self._ready and failures >= 2:
            logger.error("! %s could not be started, %d times in a row: giving up", child.name, failures + 1)
            self._on_failed()
        else:
            self._poller.after(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)], lambda: self._start(child))

    def stop(self, on_stopped: Callable[[], None]) -> None:
        """Ask each to end, kill those that do not, and call back when none is left."""
        self._on_stopped = on_stopped
        for pid, child in self._running.items():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, child.stop_signal)  # not reaped yet: the number is still theirs
        if not self._running:
            on_stopped()
            return
        self._poller.after(STOP_S, self.kill)

    def kill(self) -> None:
        """Kill what is left."""
        for pid in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def describe(self) -> list[dict[str, object]]:
        """Return a snapshot."""
        return [{"name": child.name, "pid": pid} for pid, child in self._running.items()]
