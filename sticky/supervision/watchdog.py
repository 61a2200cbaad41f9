"""
Finds workers that do not boot in time, that hang, or that have lived long enough; kills those that do not end.

Runs in the primary, `CHECKS_PER_BOUND` times in every `hung_s`, or in every `MOVING_HUNG_S`. It never makes a
transition and never starts a worker: it calls `WatchdogActions`, and the supervisor acts.

- A worker without a heartbeat for `hung_s`, or not ready after `boot_s`, is reported as hung. It gets SIGUSR2, on which
  faulthandler writes its stacks to the log, and SIGKILL after `DUMP_S`.
- For a worker to which connections move now, the bound is `MOVING_HUNG_S`: their clients are served by no worker until
  it answers or is dead.
- A worker past one of its bounds (lifetime.py) is replaced as in a reload.
- Time in which the primary itself stood still (SIGSTOP, a frozen container) counts for no worker: the workers may have
  stood still as well, and their heartbeats may still lie in their channels.
"""

from __future__ import annotations

import logging
import signal
from functools import partial
from typing import Final, Protocol

from sticky.handoff.worker_handle import WorkerHandle, WorkerState
from sticky.keys.hashing import Slot
from sticky.loop.log_lines import WORKER_HUNG, WORKER_KILLED, WORKER_PAST_LIFETIME, log
from sticky.loop.poller import Poller
from sticky.settings import ClusterSettings
from sticky.supervision.workers import Workers

CHECKS_PER_BOUND: Final = 4  # a hang is found at most a quarter of the bound late
MOVING_HUNG_S: Final = 2.0  # for a worker that receives connections; two heartbeats where these are slower
DUMP_S: Final = 0.5  # for faulthandler to write the stacks of all threads

_ENDING: Final = (WorkerState.HUNG, WorkerState.CONDEMNED, WorkerState.GONE)


class WatchdogActions(Protocol):
    """What the watchdog has done for it. The supervisor does it."""

    def worker_hung(self, worker: WorkerHandle) -> None:
        """Give this worker no connection any more. The watchdog kills it next."""

    def may_replace(self, slot: Slot) -> bool:
        """Return False where a slot's worker is being replaced already, or the server ends."""

    def replace(self, slot: Slot) -> None:
        """Replace the worker of a slot, as in a reload."""


class Watchdog:
    """Checks all workers. `start` begins; it then runs as long as the poller does."""

    def __init__(
        self,
        poller: Poller,
        workers: Workers,
        actions: WatchdogActions,
        *,
        settings: ClusterSettings,
        counters: dict[str, int],
    ) -> None:
        self._poller = poller
        self._workers = workers
        self._actions = actions
        self._settings = settings
        self._counters = counters
        self._moving_hung_s = min(max(MOVING_HUNG_S, 2 * settings.heartbeat_s), settings.hung_s)
        self._interval_s = (self._moving_hung_s if settings.migrates else settings.hung_s) / CHECKS_PER_BOUND
        self._due_at = 0.0  # the time of the next check

    def start(self) -> None:
        """Schedule the next check, and with it all that follow."""
        self._due_at = self._poller.now() + self._interval_s
        self._poller.after(self._interval_s, self._run)

    def _run(self) -> None:
        self._poller.guard(self._check_all)
        self.start()

    def _check_all(self) -> None:
        now = self._poller.now()
        self._forgive(now)
        for worker in list(self._workers.by_pid.values()):
            self._poller.guard(partial(self._check_silence, worker, now))
            self._poller.guard(partial(self._check_lifetime, worker, now))

    def _forgive(self, now: float) -> None:
        """Move every worker's deadlines on by the time in which this process itself stood still."""
        late_s = now - self._due_at
        if late_s > self._interval_s:
            for worker in self._workers.by_pid.values():
                worker.last_beat_at = min(worker.last_beat_at + late_s, now)
                worker.booting_since = min(worker.booting_since + late_s, now)

    def _check_silence(self, worker: WorkerHandle, now: float) -> None:
        is_starting = worker.state is WorkerState.STARTING
        silent_s = now - (worker.booting_since if is_starting else worker.last_beat_at)
        bound_s = self._settings.boot_s if is_starting else self._hung_s(worker, now)
        if worker.state in _ENDING or worker.slot == self._settings.inspected or silent_s < bound_s:
            return
        if worker.is_paused:  # its heartbeats may lie in its channel, which is not received from
            worker.last_beat_at = now
            return
        self._counters["hung"] += 1
        reason = f"not ready after {silent_s:.1f} s" if is_starting else f"no heartbeat for {silent_s:.1f} s"
        log(logging.ERROR, WORKER_HUNG, slot=worker.slot, pid=worker.pid, reason=reason)
        self._actions.worker_hung(worker)
        assert worker.state in _ENDING, "else each check would report it again"
        if not is_starting:  # a worker that boots has no handler for the signal yet, and would die of it without a dump
            self._workers.send_signal(worker, signal.SIGUSR2)
        self.kill_later(worker, DUMP_S, None)

    def _hung_s(self, worker: WorkerHandle, now: float) -> float:
        """Return for how long a worker that serves may be silent."""
        return self._moving_hung_s if now < worker.receives_until else self._settings.hung_s

    def _check_lifetime(self, worker: WorkerHandle, now: float) -> None:
        if worker.ready_at is None or not self._workers.is_live(worker) or not self._actions.may_replace(worker.slot):
            return
        reason = worker.lifetime.ended(pid=worker.pid, age_s=now - worker.ready_at, adopted=worker.adopted)
        if reason is not None:
            log(logging.INFO, WORKER_PAST_LIFETIME, slot=worker.slot, pid=worker.pid, reason=reason)
            self._counters["lived_out"] += 1
            self._actions.replace(worker.slot)

    def kill_later(self, worker: WorkerHandle, delay_s: float, reason: str | None) -> None:
        """
        Kill a worker, unless its process is reaped within `delay_s` seconds.

        Args:
            reason: for the log; None where an earlier line about this worker announces the kill.
        """

        assert delay_s > 0, "a worker has some time to end by itself"

        def kill() -> None:
            if self._workers.by_pid.get(worker.pid) is worker:  # and not another process with the same pid
                if reason is not None:
                    log(logging.WARNING, WORKER_KILLED, slot=worker.slot, pid=worker.pid, reason=reason)
                self._workers.send_signal(worker, signal.SIGKILL)

        self._poller.after(delay_s, kill)
