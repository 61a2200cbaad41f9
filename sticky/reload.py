"""
The rolling reload: whose worker is still to be replaced, slot by slot, and who is coming up to replace one.

Runs in the primary. One slot at a time: the old worker retires when the new one is ready. A new version that does not
boot ends the reload, and every old worker goes on. A successor that was killed from outside while it booted (an
operator, the kernel out of memory) says nothing about the new version: the others have their turn, then its slot has
another; only after several in a row is the reload given up. It never starts, retires or ends a worker itself: it has a
successor started, and is told what became of it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from sticky.hashing import Slot
from sticky.worker_handle import WorkerHandle

KILLED_MAX: Final = 3  # successors in a row that were killed while they booted
GOES_ON_LINE: Final = "! slot %d: worker %d was killed while it booted: the reload goes on, and comes back to this slot"
RELOAD_FAILED_LINE: Final = "! reload given up: the workers that were serving go on"

logger = logging.getLogger("sticky")


class Reload:
    """What is left of it, if one goes on. `live` is the supervisor's: which worker serves which slot now."""

    def __init__(
        self,
        live: Mapping[Slot, WorkerHandle],
        *,
        start: Callable[[Slot], WorkerHandle | None],
        fill: Callable[[Slot], None],
        on_ended: Callable[[], None],
    ) -> None:
        """
        Args:
            start: start a worker beside the one that serves a slot; None where none is wanted any more. Raises OSError
                when it cannot be started.
            fill: start a worker in an empty slot now, not when its back-off is over.
            on_ended: called when nothing is left to be replaced, or the reload was given up.
        """
        self.generation = 1  # of the workers that are started now
        self._live = live
        self._start = start
        self._fill = fill
        self._on_ended = on_ended
        self._left: deque[Slot] = deque()
        self._successors: dict[Slot, WorkerHandle] = {}  # none of them is ready
        self._killed = 0  # successors, since the last that was ready
        self._failed: str | None = None  # why the last one was given up

    def replace_all(self, slots: int) -> None:
        """Replace the workers of this many slots by a new generation."""
        self.generation += 1
        logger.info("= reloading %d workers", slots)
        self.replace(Slot(number) for number in range(slots))

    def replace(self, slots: Iterable[Slot]) -> None:
        """Replace the workers of these slots, when those that are being replaced already have been."""
        self._failed, self._killed = None, 0
        for slot in slots:
            if not self.covers(slot):
                self._left.append(slot)
        self._next()

    def covers(self, slot: Slot) -> bool:
        """Return whether the slot's worker is to be replaced, or is being replaced."""
        return slot in self._left or slot in self._successors

    def has_successor(self, slot: Slot) -> bool:
        """Return whether a successor of the slot's worker was started and is not ready yet."""
        return slot in self._successors

    def _next(self) -> None:
        while self._left and not self._successors:
            slot = self._left.popleft()
            if slot not in self._live:  # it is being started anyway, or is to be later: then now
                self._fill(slot)
                continue
            try:
                successor = self._start(slot)
            except OSError as error:
                self._give_up(f"no process can be started: {error.strerror}")
                return
            if successor is not None:
                self._successors[slot] = successor
        if not self._left and not self._successors:
            self._on_ended()

    def ready(self, worker: WorkerHandle) -> None:
        """Learn that a worker is ready. The caller owes `go_on`."""
        if self._successors.pop(worker.slot, None) is not None:
            self._killed = 0

    def go_on(self, worker: WorkerHandle | None) -> None:
        """
        Replace the next one, now that this worker serves; and this one too, when it is of an older generation.

        Args:
            worker: the one that is ready; None where its slot is not wanted any more.
        """
        if worker is not None and worker.generation < self.generation:  # it began before the reload, or has gone by
            self._left.append(worker.slot)
        self._next()

    def boot_failed(self, worker: WorkerHandle, why: str, *, was_killed: bool = False) -> bool:
        """
        Learn that a worker ended before it was ready. If it was a successor, give the reload up, or go on: with what
        was asked for meanwhile, or with the other slots where it `was_killed` by somebody else than this process.

        Returns:
            whether its slot is looked after: its old worker serves, or another is being started.
        """
        slot = worker.slot
        if self._successors.get(slot) is not worker:
            return False
        del self._successors[slot]
        if worker.generation < self.generation:  # what it tried to be is not wanted any more
            self._left.appendleft(slot)
            self._next()
            return True
        if was_killed and self._killed + 1 < KILLED_MAX:
            self._killed += 1
            logger.warning(GOES_ON_LINE, slot, worker.pid)
            self._left.append(slot)
            self._next()
            return self._failed is None or slot in self._live
        self._give_up(why)
        return slot in self._live

    def _give_up(self, why: str) -> None:
        self._left.clear()
        self._failed = why
        logger.error(RELOAD_FAILED_LINE)
        self._on_ended()

    def stop(self) -> None:
        """Replace nobody any more."""
        self._left.clear()

    def describe(self) -> dict[str, Any]:
        """Return how it is doing: how many workers are still to be replaced, and why the last one was given up."""
        return {
            "generation": self.generation,
            "left": len(self._left) + len(self._successors),
            "failed": self._failed,
        }
