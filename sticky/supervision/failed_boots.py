"""
What follows when a worker does not boot: the reason is logged once, and its slot is tried again, or the server ends.

Runs in the primary. `Restarts` has the record and the delays, and `Reload` knows whether the worker was a successor in
a reload. It starts no worker and stops no server itself: it calls `BootActions`.
"""

from __future__ import annotations

import logging
from typing import Protocol

from sticky.handoff.messages import EXIT_BOOT
from sticky.handoff.worker_handle import WorkerHandle, describe_end
from sticky.keys.hashing import Slot
from sticky.loop.log_lines import SERVER_GIVES_UP, WORKER_CANNOT_BOOT, log
from sticky.supervision.reload import Reload
from sticky.supervision.restarts import Restarts


class BootActions(Protocol):
    """What a failed boot has done for it. The supervisor does it."""

    def restart(self, slot: Slot) -> None:
        """Start another worker in a slot, the later the more often it has failed."""

    def stop(self, status: int) -> None:
        """End the server with a status."""


class FailedBoots:
    """The boots that have failed, and the last reason that was logged."""

    def __init__(self, restarts: Restarts, reload: Reload, actions: BootActions, *, counters: dict[str, int]) -> None:
        self._restarts = restarts
        self._reload = reload
        self._actions = actions
        self._counters = counters
        self._logged: str | None = None

    def booted(self) -> None:
        """Note that a worker is ready: the next failure is logged, whatever its reason."""
        self._logged = None

    def failed(self, worker: WorkerHandle, code: int | None) -> None:
        """Handle the end of a worker that was never ready. `code` is its exit status, None where unknown."""
        assert worker.ready_at is None, "a worker that was ready is lost, which is no failed boot"
        self._counters["boots_failed"] += 1
        was_killed = code is not None and code < 0 and worker.boot_error is None and not worker.was_killed
        text = worker.boot_error or f"it ended before it was ready ({describe_end(code)})"
        if text != self._logged:  # once, however many workers fail in the same way
            self._logged = text
            log(logging.ERROR, WORKER_CANNOT_BOOT, slot=worker.slot, pid=worker.pid, detail=text.rstrip())
        if not self._reload.boot_failed(worker, text, was_killed=was_killed):
            self.retry(worker.slot)

    def retry(self, slot: Slot) -> None:
        """Start another worker after one that did not boot, or end the server where none ever could."""
        if self._restarts.record_failed_boot():
            self._actions.restart(slot)
        else:
            failed = self._restarts.boots_failed
            log(logging.ERROR, SERVER_GIVES_UP, reason="no worker could boot", boots_failed=failed)
            self._actions.stop(EXIT_BOOT)
