"""
Finds the clients whose requests crash workers, and decides on their connections.

Runs in the primary: the shell around `Blame`, which has the rules. The supervisor reports how each worker ended. The
dispatcher calls `check` for each handoff, while any key is refused or suspected. Most refusals are a 503 by the
primary. A TLS client or a WebSocket would not understand that, so a worker gets the connection and refuses it in its
protocol.

It never touches a connection: the dispatcher refuses it or holds it back.
"""

from __future__ import annotations

import logging
from typing import Any, Final, Protocol

from sticky.handoff import journal
from sticky.handoff.blame import CRASHES, REFUSED_LINE, REFUSED_S, WITHIN_S, Blame, describe_key, is_crash, key_of
from sticky.handoff.dispatcher import HoldBack
from sticky.handoff.messages import REFUSED
from sticky.handoff.pending_handoff import PendingHandoff
from sticky.handoff.worker_handle import WorkerHandle
from sticky.heads.first_bytes import Refusal
from sticky.keys.affinity import Affinity
from sticky.keys.hashing import Hashing
from sticky.loop.poller import Poller

HOLDS_MAX: Final = 20  # of one handoff, each of `HOLD_S`: after a second the end of a worker is certainly known

logger = logging.getLogger("sticky")


class ServingWorkers(Protocol):
    """The workers of this machine: the supervisor."""

    def notify_all(self, event: str, about: dict[str, Any]) -> None:
        """Send an event to every worker that serves."""

    def is_dying(self) -> bool:
        """Return whether a worker has ended and its exit status is not known yet."""


class Crashes:
    """The suspected and the refused keys. It is the dispatcher's `Suspicion`."""

    def __init__(
        self,
        poller: Poller,
        affinity: Affinity,
        hashing: Hashing,
        *,
        workers: ServingWorkers,
        counters: dict[str, int],
    ) -> None:
        self.is_active = False
        self._poller = poller
        self._affinity = affinity
        self._hashing = hashing
        self._workers = workers
        self._counters = counters
        self._blame = Blame()

    def ended(self, worker: WorkerHandle, code: int) -> None:
        """Note how a worker that served has ended. Call this before its handoffs go to other workers."""
        if worker.journal is None or not is_crash(code, was_retired=worker.is_retired, was_killed=worker.was_killed):
            return
        self._counters["crashed"] += 1
        found = self._blame.crashed(journal.in_flight(worker.journal), self._poller.now())
        self.is_active = self._blame.is_active(self._poller.now())
        assert self.is_active or not found, "a key that was just refused is refused now"
        for key in found:
            self._counters["keys_refused"] += 1
            self._workers.notify_all(REFUSED, {"key": key, "for_s": REFUSED_S})
            logger.error(REFUSED_LINE, describe_key(key, self._hashing), REFUSED_S, CRASHES, WITHIN_S)

    def now_refused(self) -> list[dict[str, Any]]:
        """Return the `REFUSED` events that a worker has missed which becomes ready now."""
        now = self._poller.now()
        return [{"key": key, "for_s": until - now} for key, until in self._blame.refused.items() if until > now]

    def check(self, handoff: PendingHandoff) -> Refusal | HoldBack | None:
        """Decide on a handoff: refuse it, hold it back, or let it go on (None)."""
        now = self._poller.now()
        self.is_active = self._blame.is_active(now)
        key = key_of(self._affinity, handoff.address, handoff.sticky_id)
        if self._blame.refuses(key, now):
            return self._refuse(handoff, self._blame.refused[key] - now)
        return HoldBack.HOLD if self._blame.suspects(key) and self._may_hold(handoff) else None

    def _refuse(self, handoff: PendingHandoff, left_s: float) -> Refusal | None:
        assert left_s > 0, "a key whose time is over is not refused"
        if handoff.reason == REFUSED:
            return None  # a worker has to refuse it, and this is another attempt to find one
        if handoff.upgrade or handoff.kind == "tls":
            self._counters["refused_crasher"] += 1
            handoff.reason = REFUSED
            return None
        return Refusal(503, f"requests of this client have crashed the server: it is refused for {left_s:.0f} s")

    def _may_hold(self, handoff: PendingHandoff) -> bool:
        """
        Return whether to hold back a handoff of a suspect, which one more crash gets refused.

        Its last request may have caused that crash already, for a client sees the end of its worker before the primary.
        It is held once in any case, and again as long as a worker has ended for an unknown reason.
        """
        if handoff.times_held >= HOLDS_MAX:
            return False
        return not handoff.times_held or self._workers.is_dying()
