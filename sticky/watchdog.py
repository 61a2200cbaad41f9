"""
Watches over workers: who does not come up, whose event loop does not turn, who has lived long enough, who does not end.

Runs in the primary, a few times in every `hung_s`. Who is silent is asked for its stacks (SIGUSR2), then killed; so is
who does not end in its time. What the primary itself missed, stopped or frozen for a while, is nobody's silence. Who
is old, by the bounds it drew, is to be replaced as in a reload. It never moves a worker's state and never starts one:
whom it found is told to the supervisor.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from sticky.hashing import Slot
from sticky.poller import Poller
from sticky.settings import ClusterSettings
from sticky.worker_handle import State, WorkerHandle

WATCH_SHARE: Final = 0.25  # of `hung_s`: how often is looked
DUMP_S: Final = 0.5  # for writing the stacks of a hung worker

SILENT_LINE: Final = "! slot %d: worker %d was silent for %.1f s: its stacks follow"
AGE_LINE: Final = "= slot %d: worker %d is to be replaced: %s"

logger = logging.getLogger("sticky")


class Watch:
    """Looks at all workers. `workers` and `live` are the supervisor's: by pid until they are reaped, and by slot."""

    def __init__(
        self,
        poller: Poller,
        workers: Mapping[int, WorkerHandle],
        live: Mapping[Slot, WorkerHandle],
        *,
        settings: ClusterSettings,
        counters: dict[str, int],
        on_silent: Callable[[WorkerHandle], None],
        may_replace: Callable[[Slot], bool],
        replace: Callable[[Slot], None],
    ) -> None:
        """
        Args:
            on_silent: move a worker that hangs to HUNG; after that it is killed.
            may_replace: return False where a slot's worker is being replaced already, or all of them are to end.
            replace: replace the worker of a slot, as in a reload.
        """
        self._poller = poller
        self._workers = workers
        self._live = live
        self._settings = settings
        self._counters = counters
        self._on_silent = on_silent
        self._may_replace = may_replace
        self._replace = replace
        self._due = 0.0  # when it is to look again

    def start(self) -> None:
        """Begin to look, and go on for ever."""
        delay_s = self._settings.hung_s * WATCH_SHARE
        self._due = self._poller.now() + delay_s
        self._poller.after(delay_s, self._look)

    def _look(self) -> None:
        self._poller.guard(self._look_at_all)
        self.start()

    def _look_at_all(self) -> None:
        now = self._poller.now()
        late_s = now - self._due
        if late_s > self._settings.hung_s * WATCH_SHARE:
            # This process stood still, and the workers may have as well: that time is nobody's.
            for worker in self._workers.values():
                worker.heard_at = min(worker.heard_at + late_s, now)
                worker.booting_since = min(worker.booting_since + late_s, now)
        for worker in list(self._workers.values()):
            self._poller.guard(partial(self._look_for_silence, worker, now))
            self._poller.guard(partial(self._look_for_age, worker, now))

    def _look_for_silence(self, worker: WorkerHandle, now: float) -> None:
        starting = worker.state is State.STARTING
        silent_s = now - (worker.booting_since if starting else worker.heard_at)
        bound_s = self._settings.boot_s if starting else self._settings.hung_s
        is_ending = worker.state in (State.HUNG, State.CONDEMNED, State.GONE)
        may_be_silent = worker.slot == self._settings.inspected or is_ending
        if may_be_silent or silent_s < bound_s:
            return
        if worker.is_held:  # it may have said that it lives
            worker.heard_at = now
            return
        self._counters["hung"] += 1
        logger.error(SILENT_LINE, worker.slot, worker.pid, silent_s)
        self._on_silent(worker)
        if not starting:  # before that it may not know the signal, and would die of it unheard
            worker.send_signal(signal.SIGUSR2)
        self.kill_later(worker, DUMP_S)

    def _look_for_age(self, worker: WorkerHandle, now: float) -> None:
        if worker.ready_at is None or self._live.get(worker.slot) is not worker or not self._may_replace(worker.slot):
            return
        why = worker.lifetime.ended(pid=worker.pid, age_s=now - worker.ready_at, adopted=worker.adopted)
        if why is not None:
            logger.info(AGE_LINE, worker.slot, worker.pid, why)
            self._counters["lived_out"] += 1
            self._replace(worker.slot)

    def kill_later(self, worker: WorkerHandle, delay_s: float) -> None:
        """Kill a worker, unless it has ended within `delay_s` seconds."""

        def kill() -> None:
            if self._workers.get(worker.pid) is worker:  # and not another, of the same number
                logger.warning("x slot %d: worker %d is killed", worker.slot, worker.pid)
                worker.send_signal(signal.SIGKILL)

        self._poller.after(delay_s, kill)
