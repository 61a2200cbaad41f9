"""
The table of worker processes, and the sending of messages to them.

Runs in the primary. Two views of the same handles: `by_pid` has every process that was started and is not reaped;
`live` has the one worker that serves each slot now. The supervisor alone changes both. The dispatcher, the message
relay, the watchdog and the others read them, and send through `send`.

It never starts a process, never makes a transition, and never reads a message.

Invariants, which `check` asserts:

- a worker in `live` is READY, and stands under its own slot;
- it is not reaped, except while the supervisor handles the last messages of one that just was.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from typing import Any

from sticky.handoff.channel import Kind
from sticky.handoff.worker_handle import WorkerHandle, WorkerState
from sticky.keys.hashing import Slot
from sticky.loop.poller import HANGUP, READ, WRITE, Poller
from sticky.supervision.environment import Environment

SERVING = (WorkerState.READY, WorkerState.DRAINING)
"""States in which a worker has clients and handles events."""


class Workers:
    """Every worker process of this machine."""

    def __init__(self, poller: Poller, environment: Environment) -> None:
        self.by_pid: dict[int, WorkerHandle] = {}
        self.live: dict[Slot, WorkerHandle] = {}
        self._poller = poller
        self._environment = environment

    def add(self, worker: WorkerHandle, on_events: Callable[[int], None], on_failed: Callable[[], None]) -> None:
        """
        Enter a worker that was started, and watch its channel. The caller must call `close_channel` when the channel
        ends and `remove` when the process is reaped.
        """
        assert worker.pid not in self.by_pid, "the kernel gives a pid again only after it was reaped"
        self.by_pid[worker.pid] = worker
        self._poller.watch(worker.channel.fileno(), READ, on_events, on_failed=on_failed)

    def remove(self, pid: int) -> WorkerHandle | None:
        """Take a process out that was reaped; return None where it was none of the workers."""
        return self.by_pid.pop(pid, None)

    def enter_service(self, worker: WorkerHandle) -> WorkerHandle | None:
        """Make a worker the live one of its slot. Return the one that was, which the caller must retire."""
        predecessor = self.live.get(worker.slot)
        self.live[worker.slot] = worker
        self.check()
        return predecessor

    def leave_service(self, worker: WorkerHandle) -> None:
        """Give a worker no connection any more. A successor that is live in its slot stays."""
        if self.live.get(worker.slot) is worker:
            del self.live[worker.slot]

    def is_live(self, worker: WorkerHandle) -> bool:
        """Return whether this worker serves its slot now."""
        return self.live.get(worker.slot) is worker

    def is_starting(self, slot: Slot) -> bool:
        """Return whether a worker of a slot was started and is not ready yet."""
        return any(each.slot == slot and each.state is WorkerState.STARTING for each in self.by_pid.values())

    def draining(self, slot: Slot) -> list[WorkerHandle]:
        """Return the workers that drain in a slot."""
        return [each for each in self.by_pid.values() if each.slot == slot and each.state is WorkerState.DRAINING]

    def is_dying(self) -> bool:
        """Return whether a worker's channel has ended and its process is not reaped: how it ended is not known yet."""
        return any(worker.state is WorkerState.GONE for worker in self.by_pid.values())

    def check(self) -> None:
        """Assert the first invariant of the head of this file."""
        for slot, worker in self.live.items():
            assert worker.slot == slot, f"worker {worker.worker_id} is live in slot {slot}"
            assert worker.state is WorkerState.READY, f"worker {worker.worker_id} is live and {worker.state.value}"

    def describe(self) -> list[dict[str, Any]]:
        """Return a snapshot of every worker, by slot."""
        now = self._poller.now()
        workers = sorted(self.by_pid.values(), key=lambda worker: (worker.slot, worker.pid))
        return [worker.describe(now) for worker in workers]

    # Messages

    def send(self, worker: WorkerHandle, kind: Kind, *fields: Any) -> None:
        """Send a message, now or when the channel has room again. A dead worker gets none, which is no error."""
        if not worker.send(kind, *fields):
            self.wants_write(worker, True)

    def send_fd(self, worker: WorkerHandle, kind: Kind, *fields: Any, fd: int) -> None:
        """As `send`, with a descriptor, which is owned from here on."""
        if not worker.send_fd(kind, *fields, fd=fd):
            self.wants_write(worker, True)

    def notify_all(self, event: str, about: dict[str, Any], *, but: WorkerHandle | None = None) -> None:
        """Send an event to every worker that serves, except one."""
        for worker in self.by_pid.values():
            if worker is not but and worker.state in SERVING:
                self.send(worker, Kind.EVENT, event, about)

    def wants_write(self, worker: WorkerHandle, wanted: bool) -> None:
        """Have the callback of `add` called when the worker's channel has room, or not any more."""
        worker.wants_write = wanted
        self.watch_channel(worker)

    def pause(self, worker: WorkerHandle, paused: bool) -> None:
        """Leave what the worker sends in its channel, or receive again."""
        worker.is_paused = paused
        self.watch_channel(worker)

    def watch_channel(self, worker: WorkerHandle) -> None:
        """Watch a worker's channel for what its state and the two wishes above call for."""
        if worker.state is WorkerState.GONE:
            return  # its channel is closed
        is_condemned = worker.state is WorkerState.CONDEMNED  # only its end counts
        mask = HANGUP if worker.is_paused or is_condemned else READ
        if worker.wants_write and not is_condemned:
            mask |= WRITE
        self._poller.change(worker.channel.fileno(), mask)

    def close_channel(self, worker: WorkerHandle) -> None:
        """Close a channel that has ended. Its worker is GONE."""
        assert worker.state is WorkerState.GONE, "else `watch_channel` would use a closed descriptor"
        self._poller.forget(worker.channel.fileno())
        worker.channel.close()

    # Signals

    def send_signal(self, worker: WorkerHandle, number: signal.Signals) -> None:
        """Signal a worker's process. Does nothing once it is reaped, when its pid may be another's."""
        if self.by_pid.get(worker.pid) is not worker:
            return
        worker.was_killed |= number is signal.SIGKILL
        with contextlib.suppress(ProcessLookupError):  # it has ended and is not reaped yet
            self._environment.send_signal(worker.pid, number)
