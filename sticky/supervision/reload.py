"""
The rolling reload: which slots still get a new worker, and which successor boots now.

Runs in the primary. One slot at a time: the old worker is retired when the new one is ready. It never starts, retires
or ends a worker itself: it calls `ReloadActions`, and the supervisor reports what became of the successor.

**Theory of operation.** `_left` is a queue of slots. `_successors` has at most one worker, which was started to replace
a live one and is not ready yet. `_next` starts the next successor when there is none. What can become of a successor:

| it                                             | then                                                           |
|------------------------------------------------|----------------------------------------------------------------|
| is ready                                       | it takes the slot, the old one drains, the next slot follows   |
| reports that it cannot boot, or just ends      | the reload is given up; every old worker goes on               |
| was killed from outside while it booted        | the other slots follow, then its slot is tried again           |
| so for the third time in a row (`KILLED_MAX`)  | the reload is given up                                         |
| ended, and a newer reload was requested before | its slot is tried again with the newest code                   |

A kill from outside (an operator, the kernel out of memory) says nothing about the new version, hence the third row.
A slot without a live worker needs no successor: it is filled at once, and the new worker has the new generation.
A worker that became ready with an older generation is replaced again: it started before the reload was requested.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from sticky.handoff.worker_handle import WorkerHandle
from sticky.keys.hashing import Slot
from sticky.loop.log_lines import RELOAD_CONTINUES, RELOAD_GIVEN_UP, RELOAD_STARTED, log
from sticky.supervision.workers import Workers

KILLED_MAX: Final = 3  # successors in a row that were killed while they booted
GIVEN_UP_REASON: Final = "the successor did not boot (see the line before), the old workers keep serving"


class ReloadActions(Protocol):
    """What a reload has done for it. The supervisor does it."""

    def start_successor(self, slot: Slot) -> WorkerHandle | None:
        """
        Start a worker beside the live one of a slot; return None where the slot is not wanted any more.

        Raises:
            OSError: it cannot be started.
        """

    def fill_now(self, slot: Slot) -> None:
        """Start a worker in an empty slot now, not when its back-off is over."""

    def reload_ended(self) -> None:
        """Learn that nothing is left to be replaced, or that the reload was given up."""


class CodeSource(Protocol):
    """Where successors have their code from: the launcher."""

    def renew(self, then: Callable[[], None]) -> None:
        """Have workers start with the code that is installed now, and call back when they can be started."""


class Reload:
    """What is left of a reload, if one is in progress."""

    def __init__(self, workers: Workers, actions: ReloadActions, code: CodeSource) -> None:
        self.generation = 1  # of the workers that are started now
        self._workers = workers
        self._actions = actions
        self._code = code
        self._left: deque[Slot] = deque()
        self._successors: dict[Slot, WorkerHandle] = {}  # none of them is ready
        self._killed = 0  # successors, since the last that was ready
        self._failed: str | None = None  # why the last one was given up

    def replace_all(self, slots: int) -> None:
        """Replace the workers of this many slots by a new generation."""
        self.generation += 1
        log(logging.INFO, RELOAD_STARTED, workers=slots, generation=self.generation)
        self._add(Slot(number) for number in range(slots))
        self._code.renew(self._next)

    def replace(self, slots: Iterable[Slot]) -> None:
        """Replace the workers of these slots, after those that are being replaced already."""
        self._add(slots)
        self._next()

    def _add(self, slots: Iterable[Slot]) -> None:
        self._failed, self._killed = None, 0
        for slot in slots:
            if not self.covers(slot):
                self._left.append(slot)

    def covers(self, slot: Slot) -> bool:
        """Return whether the slot's worker is to be replaced, or is being replaced."""
        return slot in self._left or slot in self._successors

    def has_successor(self, slot: Slot) -> bool:
        """Return whether a successor of the slot's worker was started and is not ready yet."""
        return slot in self._successors

    def _next(self) -> None:
        while self._left and not self._successors:
            slot = self._left.popleft()
            if slot not in self._workers.live:  # it boots already, or its back-off runs: start it now
                self._actions.fill_now(slot)
                continue
            try:
                successor = self._actions.start_successor(slot)
            except OSError as error:
                self._give_up(slot, f"no process can be started: {error.strerror}")
                return
            if successor is not None:
                self._successors[slot] = successor
        assert len(self._successors) <= 1, "one slot at a time, so that capacity never falls by more than one worker"
        if not self._left and not self._successors:
            self._actions.reload_ended()

    def successor_ready(self, worker: WorkerHandle) -> None:
        """Note that a worker is ready. The caller must call `proceed` once it serves its slot."""
        if self._successors.pop(worker.slot, None) is not None:
            self._killed = 0

    def proceed(self, worker: WorkerHandle | None) -> None:
        """
        Replace the next worker, now that this one serves; and this one as well, when it is of an older generation.

        Args:
            worker: the one that became ready; None where its slot is not wanted any more.
        """
        if worker is not None and worker.generation < self.generation:  # it booted before the reload was requested
            self._left.append(worker.slot)
        self._next()

    def boot_failed(self, worker: WorkerHandle, reason: str, *, was_killed: bool = False) -> bool:
        """
        Note that a worker ended before it was ready, and act on it if it was the successor: see the head of this file.

        Args:
            was_killed: whether a signal ended it that did not come from this process.

        Returns:
            whether the slot needs nothing more: its old worker serves, or another is being started.
        """
        slot = worker.slot
        if self._successors.get(slot) is not worker:
            return False
        del self._successors[slot]
        if worker.generation < self.generation:  # the code that it tried to run is not wanted any more
            self._left.appendleft(slot)
            self._next()
            return True
        if was_killed and self._killed + 1 < KILLED_MAX:
            self._killed += 1
            reason = "the successor was killed while it booted, and its slot is tried again"
            log(logging.WARNING, RELOAD_CONTINUES, slot=slot, pid=worker.pid, reason=reason)
            self._left.append(slot)
            self._next()
            return self._failed is None or slot in self._workers.live
        self._give_up(slot, reason)
        return slot in self._workers.live

    def _give_up(self, slot: Slot, reason: str) -> None:
        self._left.clear()
        self._failed = reason
        log(logging.ERROR, RELOAD_GIVEN_UP, slot=slot, reason=GIVEN_UP_REASON)
        self._actions.reload_ended()

    def stop(self) -> None:
        """Replace no further worker: the server ends. A successor that boots is the supervisor's to kill."""
        self._left.clear()

    def describe(self) -> dict[str, Any]:
        """Return a snapshot: how many workers are still to be replaced, and why the last reload was given up."""
        return {
            "generation": self.generation,
            "left": len(self._left) + len(self._successors),
            "failed": self._failed,
        }
