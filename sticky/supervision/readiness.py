"""
Whether a load balancer should send new clients to this machine, and why not. The workers are notified of it.

Runs in the primary. A worker answers the balancer's probes, but only the primary knows that the server is about to
stop. So the primary notifies each worker that serves, and each that becomes ready later. The event is `READINESS`; a
worker of an older version drops it. It answers no probe, and it stops nothing.
"""

from __future__ import annotations

from typing import Any, Final

from sticky.handoff.channel import Kind
from sticky.handoff.messages import READINESS
from sticky.handoff.probes import NO_WORKER
from sticky.handoff.worker_handle import WorkerHandle
from sticky.supervision.workers import Workers

LAME_DUCK: Final = "the server stops soon (lame duck)"
STOPPING: Final = "the server is stopping"


class NodeReadiness:
    """What the workers know of the server's end. It only ever comes nearer."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._reason: str | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether the server stops, or will soon. Nothing that would outlast this should be begun."""
        return self._reason is not None

    def reasons(self) -> list[str]:
        """Return why no new client should come; nothing while they should."""
        return [*([] if self._workers.live else [NO_WORKER]), *([] if self._reason is None else [self._reason])]

    def set(self, reason: str) -> None:
        """Have every worker answer probes that no new client should come."""
        self._reason = reason
        self._workers.notify_all(READINESS, self._about())

    def greet(self, worker: WorkerHandle) -> None:
        """Notify a worker that has just become ready."""
        if self.is_stopping:
            self._workers.send(worker, Kind.EVENT, READINESS, self._about())

    def _about(self) -> dict[str, Any]:
        return {"reasons": [self._reason], "stopping": True}
