"""
Announces what becomes of a worker: to the hooks of the cluster, and as events to the other workers.

Runs in the primary. The supervisor calls it at each change that it makes. It changes nothing itself.
"""

from __future__ import annotations

from typing import Any

from sticky.handoff.channel import Kind
from sticky.handoff.messages import REFUSED
from sticky.handoff.worker_handle import WorkerHandle
from sticky.supervision.crashes import Crashes
from sticky.supervision.hooks import ClusterHooks
from sticky.supervision.readiness import NodeReadiness
from sticky.supervision.workers import Workers


class Announcements:
    """What is announced of each worker."""

    def __init__(self, workers: Workers, hooks: ClusterHooks, crashes: Crashes, readiness: NodeReadiness) -> None:
        self._workers = workers
        self._hook = hooks.run
        self._crashes = crashes
        self._readiness = readiness

    def started(self, worker: WorkerHandle) -> None:
        """Announce a process that was started."""
        self._hook("fork", _identity(worker))

    def ready(self, worker: WorkerHandle) -> None:
        """Announce a worker that serves, and notify it of what the others know already."""
        self._hook("online", _identity(worker))
        self._workers.notify_all("online", _identity(worker), but=worker)
        for refusal in self._crashes.now_refused():
            self._workers.send(worker, Kind.EVENT, REFUSED, refusal)
        self._readiness.greet(worker)

    def lost(self, worker: WorkerHandle) -> None:
        """Announce that a worker's channel has ended: the others remove its members."""
        self._hook("disconnect", _identity(worker))
        self._workers.notify_all("exit", _identity(worker), but=worker)

    def ended(self, worker: WorkerHandle, code: int | None) -> None:
        """Announce that a process has ended, with its exit status; None where it is unknown."""
        self._hook("exit", {**_identity(worker), "status": code, "expected": worker.is_retired})


def _identity(worker: WorkerHandle) -> dict[str, Any]:
    return {"slot": worker.slot, "worker_id": worker.worker_id, "pid": worker.pid}
