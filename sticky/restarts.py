"""
When a slot whose worker was lost gets another: at once the first time, then after 1, 2, 4 … 30 s.

Runs in the primary. A worker that has lived for a while clears its slot's record. While no worker was ever ready,
`boots_max` failed boots in a row end the start. It never starts a worker or ends the server itself: it asks for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from sticky.hashing import Slot
from sticky.poller import Poller
from sticky.worker_handle import State, WorkerHandle

BACKOFF_S: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
STEADY_S: Final = 10.0  # a worker that lived so long clears its slot's record of failures

logger = logging.getLogger("sticky")


class Restarts:
    """The record of failures, by slot."""

    def __init__(
        self, poller: Poller, *, boots_max: int | None, fill: Callable[[Slot], None], give_up: Callable[[], None]
    ) -> None:
        """
        Args:
            boots_max: how many boots may fail in a row while no worker was ever ready; None: any number.
            fill: start a worker in a slot, if it is still empty.
            give_up: end the server, for no worker can boot.
        """
        self._poller = poller
        self._boots_max = boots_max
        self._fill = fill
        self._give_up = give_up
        self._ever_ready = False
        self._failures: dict[Slot, int] = {}
        self._boots_failed = 0  # in a row, while no worker was ever ready

    def ready(self, worker: WorkerHandle) -> bool:
        """
        Learn that a worker is ready. If it still is after `STEADY_S`, its slot's record is cleared.

        Returns:
            whether it is the first that ever was ready, in any slot.
        """
        is_first, self._ever_ready = not self._ever_ready, True
        self._poller.after(STEADY_S, lambda: self._steady(worker))
        return is_first

    def _steady(self, worker: WorkerHandle) -> None:
        if worker.state is State.READY:
            self._failures.pop(worker.slot, None)

    def now(self, slot: Slot) -> None:
        """Start another worker in a slot at once, and clear the slot's record."""
        self._failures.pop(slot, None)
        self._fill(slot)

    def boot_failed(self, slot: Slot) -> None:
        """Learn that a worker of a slot did not come up. Another is started later, or all is given up."""
        if not self._ever_ready:
            self._boots_failed += 1
            if self._boots_max is not None and self._boots_failed >= self._boots_max:
                logger.error("! no worker could boot, %d times in a row: giving up", self._boots_failed)
                self._give_up()
                return
        self.later(slot)

    def later(self, slot: Slot) -> None:
        """Have another worker started in a slot, the later the more often it has lost one."""
        failures = self._failures.get(slot, 0)
        self._failures[slot] = failures + 1
        delay_s = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
        if delay_s:
            logger.warning("= slot %d: another worker in %g s", slot, delay_s)
        self._poller.after(delay_s, lambda: self._fill(slot))
