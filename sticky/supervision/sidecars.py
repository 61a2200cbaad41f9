"""
Keeps the processes alive that workers need beside them, such as a broker: started before the workers, stopped after.

Runs in the primary. A sidecar reports that it serves by writing to the descriptor that it inherits. Its end is seen
when it is reaped, and it is started again with a back-off. It has no channel, and gets no connection and no message.

The descriptor is a *liveness socket* as well: the primary and its keeper hold the other end as long as they live. So a
sidecar that sees its end knows that both are gone. A primary that takes over from a dead one finds the end and the pid
of each sidecar at the keeper, and goes on with the same processes.

**Phases of all of them together** (`TRANSITIONS`):

    STARTING ──all ready──▶ RUNNING ──stop──▶ STOPPING ──all ended──▶ STOPPED
        │                     │                  ▲
        └──── stop or kill ───┴──kill──▶ KILLED ──stop

**An upgrade** replaces each sidecar that has a `succession`: a successor is started beside the process that runs, and
takes over from it by itself. It counts once it reports that it serves; the other one has ended by then. If it ends
before, the other one goes on. Where both have ended, another is started as after any end.

`on_ready` is called once, on the first transition; `on_stopped` once, on the last. Nothing is started in the phases
KILLED, STOPPING and STOPPED. When a sidecar ends in RUNNING, the phase stays: workers reconnect to its successor.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sticky.errors import SettingsError
from sticky.handoff.orphan_report import terms_of
from sticky.handoff.worker_handle import describe_end
from sticky.loop import log_lines
from sticky.loop.log_lines import log
from sticky.loop.poller import READ, Poller
from sticky.supervision.adopted_processes import AdoptedProcesses
from sticky.supervision.deposit import Deposit, Kept
from sticky.supervision.environment import Environment

BACKOFF_S: Final = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
STEADY_S: Final = 10.0  # ready for so long: its failures are forgotten
STOP_S: Final = 5.0  # between its stop signal and KILL
STARTS_MAX: Final = 3  # in a row that fail, of a sidecar that was never ready: the server is given up


@dataclass(frozen=True, slots=True)
class Sidecar:
    """
    A process to be kept alive.

    In `argv`, `{ready_fd}` stands for the number of the descriptor to which the process writes any byte once it serves.
    `{name}` and `{terms}` stand for its name as one word, and a digest of `argv`. A process that has outlived its
    primary reports both to the next one (orphan_report.py).
    `stop_signal` asks it to end. One that must outlast the workers takes another signal than TERM, which a service
    manager may send to every process of ours at once.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM
    succession: tuple[str, ...] = ()
    """Further arguments, with which another process takes over from the one that runs. None: no upgrade replaces it."""

    @property
    def word(self) -> str:
        """Its name as one word."""
        return self.name.replace(" ", "+")

    @property
    def terms(self) -> str:
        """A digest of the command."""
        return terms_of(self.argv)


class SidecarPhase(enum.Enum):
    """Where all sidecars together are."""

    STARTING = "starting"
    RUNNING = "running"
    KILLED = "killed"  # the server ends at once: each was killed, and workers may still be there
    STOPPING = "stopping"
    STOPPED = "stopped"


class SidecarEvent(enum.Enum):
    """What moves them on."""

    ALL_READY = "all ready"
    KILL = "kill"
    STOP = "stop"
    ALL_ENDED = "all ended"


TRANSITIONS: Final[dict[tuple[SidecarPhase, SidecarEvent], SidecarPhase]] = {
    (SidecarPhase.STARTING, SidecarEvent.ALL_READY): SidecarPhase.RUNNING,
    (SidecarPhase.STARTING, SidecarEvent.STOP): SidecarPhase.STOPPING,
    (SidecarPhase.STARTING, SidecarEvent.KILL): SidecarPhase.KILLED,
    (SidecarPhase.RUNNING, SidecarEvent.STOP): SidecarPhase.STOPPING,
    (SidecarPhase.RUNNING, SidecarEvent.KILL): SidecarPhase.KILLED,
    (SidecarPhase.KILLED, SidecarEvent.STOP): SidecarPhase.STOPPING,
    (SidecarPhase.STOPPING, SidecarEvent.ALL_ENDED): SidecarPhase.STOPPED,
}

NAME: Final = "{name}"
TERMS: Final = "{terms}"
NEXT: Final = ".next"  # behind the name under which a successor is kept until it is ready
READY: Final = "ready"  # in the text that is kept of a sidecar, after its pid

_ENDING: Final = (SidecarPhase.KILLED, SidecarPhase.STOPPING, SidecarPhase.STOPPED)


class Sidecars:
    """All sidecar processes of this machine."""

    def __init__(
        self,
        poller: Poller,
        environment: Environment,
        processes: AdoptedProcesses,
        sidecars: Sequence[Sidecar],
        env: Mapping[str, str],
        *,
        deposit: Deposit,
        on_ready: Callable[[], None],
        on_failed: Callable[[], None],
        on_stopped: Callable[[], None],
    ) -> None:
        """
        Args:
            processes: those that an earlier primary has started.
            env: the environment of each, below its own `env`.
            deposit: where they are kept for the next primary.
            on_ready: called once, when each has been ready.
            on_failed: called when one could not be started `STARTS_MAX` times in a row.
            on_stopped: called once after `stop`, when none is left.

        Raises:
            SettingsError: two of them have the same name, by which failures are counted.
        """
        if len({each.name for each in sidecars}) < len(sidecars):
            raise SettingsError("sidecars", "two sidecar processes have the same name")
        self.phase = SidecarPhase.STARTING
        self._poller = poller
        self._environment = environment
        self._sidecars = sidecars
        self._env = env
        self._processes = processes
        self._deposit = deposit
        self._alive: dict[int, socket.socket] = {}  # our ends of the liveness sockets, by pid
        self._on_ready = on_ready
        self._on_failed = on_failed
        self._on_stopped = on_stopped
        self._running: dict[int, Sidecar] = {}  # by pid, until they are reaped
        self._successors: set[int] = set()  # pids, of those that are not ready yet
        self._replaced: set[int] = set()  # pids, of those whose successor is ready
        self._ready: set[str] = set()  # names of those that were ready at least once
        self._failures: dict[str, int] = {}  # in a row, by name

    def _transition(self, event: SidecarEvent) -> None:
        after = TRANSITIONS.get((self.phase, event))
        if after is None:
            raise AssertionError(f"sidecars: event {event.name} is illegal in phase {self.phase.name}")
        log(logging.DEBUG, log_lines.STATE, of="sidecars", before=self.phase.value, after=after.value)
        self.phase = after

    def start(self, kept: Kept) -> None:
        """
        Start them all, but for those that an earlier primary has started. Without any, `on_ready` is called at once.

        Args:
            kept: what the earlier primary has left. What belongs to sidecars is taken out.
        """
        for sidecar in self._sidecars:
            is_there = [self._adopt(sidecar, kept), self._adopt(sidecar, kept, is_successor=True)]
            if not any(is_there):
                self._start(sidecar)
        self._check_ready()

    def _adopt(self, sidecar: Sidecar, kept: Kept, *, is_successor: bool = False) -> bool:
        """Go on with the process that an earlier primary has started. Return False where there is none."""
        word = f"{sidecar.word}{NEXT if is_successor else ''}"
        fd, text = kept.take(f"alive:{word}"), kept.texts.get(f"sidecar:{word}", "")
        if fd is None:
            return False
        pid, _, state = text.partition(" ")
        alive = socket.socket(fileno=fd)
        if not pid.isdecimal() or not self._processes.adopt(int(pid), None):
            alive.close()
            return False
        if state == READY:  # else the byte that says so is still in the socket
            self._ready.add(sidecar.name)
        self._add(int(pid), sidecar, alive, is_successor=is_successor)
        log(logging.INFO, log_lines.SIDECAR_ADOPTED, name=sidecar.name, pid=int(pid))
        return True

    def _start(self, sidecar: Sidecar) -> None:
        if self.phase in _ENDING:
            return
        if not self._spawn(sidecar, sidecar.argv):
            self._restart(sidecar)

    def _spawn(self, sidecar: Sidecar, argv: Sequence[str], *, is_successor: bool = False) -> bool:
        words = [each.replace(NAME, sidecar.word).replace(TERMS, sidecar.terms) for each in argv]
        try:
            pid, ready = self._environment.start_sidecar(words, {**self._env, **sidecar.env})
        except OSError as error:
            log(logging.ERROR, log_lines.SIDECAR_NOT_STARTED, name=sidecar.name, reason=error.strerror)
            return False
        self._add(pid, sidecar, ready, is_successor=is_successor)
        return True

    def replace(self) -> None:
        """Start a successor of each process that can have one, as in an upgrade."""
        if self.phase is not SidecarPhase.RUNNING:
            return
        for pid, sidecar in list(self._running.items()):
            has_successor = self._incumbent(sidecar) != pid
            if sidecar.succession and not has_successor and pid not in self._successors:
                self._spawn(sidecar, (*sidecar.argv, *sidecar.succession), is_successor=True)

    def _incumbent(self, sidecar: Sidecar, but: int = 0) -> int | None:
        """Return the process that serves as a sidecar, or will soon; None where there is none but `but`."""
        found = [pid for pid, each in self._running.items() if each is sidecar and pid not in (*self._replaced, but)]
        return found[-1] if found else None  # a successor comes after the one that it replaces

    def _add(self, pid: int, sidecar: Sidecar, alive: socket.socket, *, is_successor: bool) -> None:
        """Enter a process that runs. It is kept for the next primary from here on, ready or not."""
        alive.setblocking(False)
        self._running[pid] = sidecar
        self._alive[pid] = alive
        if is_successor:
            self._successors.add(pid)
        self._keep(pid, sidecar)
        self._poller.watch(
            alive.fileno(),
            READ,
            lambda events: self._on_readable(pid, sidecar, alive),
            on_failed=lambda: self._poller.forget(alive.fileno()),
        )

    def _kept_as(self, pid: int, sidecar: Sidecar) -> str:
        return f"{sidecar.word}{NEXT if pid in self._successors else ''}"

    def _keep(self, pid: int, sidecar: Sidecar) -> None:
        self._deposit.put(f"alive:{self._kept_as(pid, sidecar)}", self._alive[pid].fileno())
        self._note(pid, sidecar)

    def _note(self, pid: int, sidecar: Sidecar) -> None:
        state = f" {READY}" if sidecar.name in self._ready and pid not in self._successors else ""
        self._deposit.set(f"sidecar:{self._kept_as(pid, sidecar)}", f"{pid}{state}")

    def _on_readable(self, pid: int, sidecar: Sidecar, alive: socket.socket) -> None:
        try:
            data = alive.recv(64)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._poller.forget(alive.fileno())  # it stays open: its end would say that primary and keeper are gone
        if not data:  # it has ended: `reaped` follows
            return
        log(logging.INFO, log_lines.SIDECAR_READY, name=sidecar.name, pid=pid)
        if pid in self._successors:
            self._succeed(pid, sidecar)
        self._ready.add(sidecar.name)
        self._note(pid, sidecar)
        self._poller.after(STEADY_S, lambda: self._on_steady(pid, sidecar))
        self._check_ready()

    def _succeed(self, pid: int, sidecar: Sidecar) -> None:
        """Keep a successor in place of the process before it, which ends."""
        as_successor = self._kept_as(pid, sidecar)
        before = self._incumbent(sidecar, but=pid)
        if before is not None:
            self._replaced.add(before)
        self._successors.discard(pid)
        self._keep(pid, sidecar)
        self._deposit.drop(f"alive:{as_successor}")
        self._deposit.drop(f"sidecar:{as_successor}")

    def _close(self, pid: int, sidecar: Sidecar) -> None:
        alive = self._alive.pop(pid)
        if pid not in self._replaced:  # else its name is its successor's
            self._deposit.drop(f"alive:{self._kept_as(pid, sidecar)}")
            self._deposit.drop(f"sidecar:{self._kept_as(pid, sidecar)}")
        self._poller.forget(alive.fileno())
        alive.close()

    def _on_steady(self, pid: int, sidecar: Sidecar) -> None:
        if self._running.get(pid) is sidecar:  # and not a successor, which may fail as fast as those before
            self._failures.pop(sidecar.name, None)

    def _check_ready(self) -> None:
        assert len(self._ready) <= len(self._sidecars), "names are unique, and each is ready once"
        if self.phase is SidecarPhase.STARTING and len(self._ready) == len(self._sidecars):
            self._transition(SidecarEvent.ALL_READY)
            self._on_ready()

    def reaped(self, pid: int, status: int | None) -> bool:
        """Learn that a process ended. Return whether it was one of these. `status` is None where it is unknown."""
        sidecar = self._running.pop(pid, None)
        if sidecar is None:
            return False
        self._close(pid, sidecar)
        was_successor, was_replaced = pid in self._successors, pid in self._replaced
        self._successors.discard(pid)
        self._replaced.discard(pid)
        if self.phase is SidecarPhase.STOPPING:
            self._check_stopped()
        if self.phase in _ENDING or was_replaced:
            return True
        incumbent = self._incumbent(sidecar)
        if incumbent in self._successors:
            return True  # it takes over, or ends as well
        reason = describe_end(None if status is None else os.waitstatus_to_exitcode(status))
        event = log_lines.SIDECAR_NOT_REPLACED if was_successor else log_lines.SIDECAR_EXITED
        log(logging.ERROR, event, name=sidecar.name, pid=pid, reason=reason)
        if incumbent is None:
            self._restart(sidecar)
        return True

    def _restart(self, sidecar: Sidecar) -> None:
        """Start a sidecar another time, or give up where it never was ready."""
        failures = self._failures.get(sidecar.name, 0)
        self._failures[sidecar.name] = failures + 1
        if sidecar.name not in self._ready and failures + 1 >= STARTS_MAX:
            reason = f"{sidecar.name} could not be started"
            log(logging.ERROR, log_lines.SERVER_GIVES_UP, reason=reason, starts_failed=failures + 1)
            self._on_failed()
        else:
            self._poller.after(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)], lambda: self._start(sidecar))

    def stop(self) -> None:
        """Ask each to end, and kill after `STOP_S` those that do not. Calling it again changes nothing."""
        if self.phase in (SidecarPhase.STOPPING, SidecarPhase.STOPPED):
            return
        self._transition(SidecarEvent.STOP)
        for pid, sidecar in self._running.items():
            self._send_signal(pid, sidecar.stop_signal)
        self._poller.after(STOP_S, self._kill_all)
        self._check_stopped()

    def _check_stopped(self) -> None:
        if not self._running:
            self._transition(SidecarEvent.ALL_ENDED)
            self._on_stopped()

    def kill(self) -> None:
        """Kill each at once. The caller must call `stop` when no worker is left, so that `on_stopped` follows."""
        if self.phase not in _ENDING:
            self._transition(SidecarEvent.KILL)
        self._kill_all()

    def _kill_all(self) -> None:
        for pid in self._running:
            self._send_signal(pid, signal.SIGKILL)

    def _send_signal(self, pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ended and is not reaped yet
            self._environment.send_signal(pid, number)

    def describe(self) -> list[dict[str, object]]:
        """Return a snapshot of those that serve, or will soon. Of two that follow each other it has one at most."""
        hidden = self._successors | self._replaced
        return [{"name": each.name, "pid": pid} for pid, each in self._running.items() if pid not in hidden]
