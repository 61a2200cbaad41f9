"""
Learns of crashes, and refuses the connections of those who cause them.

Runs in the primary: the shell around `Blame`. The supervisor tells it how each worker ended. The dispatcher asks about
each connection that has to go somewhere, while anybody is refused or suspected at all. A refusal is a 503; where that
would tell the client nothing, over TLS and to a WebSocket, a worker is given the connection to refuse it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from sticky import journal
from sticky.affinity import Affinity
from sticky.blame import CRASHES, REFUSED_LINE, REFUSED_S, WITHIN_S, Blame, is_crash, key_of, named
from sticky.handoff import PendingHandoff
from sticky.hashing import Hashing
from sticky.messages import REFUSED
from sticky.poller import Poller
from sticky.worker_handle import WorkerHandle

HOLD_S: Final = 0.05  # for how long a suspect is held back, to hear whether its worker has crashed
HOLDS_MAX: Final = 20  # of one connection, while that is not known
HELD_BACK_MAX: Final = 1_024  # connections; those above it go on at once

logger = logging.getLogger("sticky")


class Crashes:
    """Who is refused, and why. Is the dispatcher's `Suspicion`."""

    def __init__(
        self,
        poller: Poller,
        affinity: Affinity,
        hashing: Hashing,
        *,
        counters: dict[str, int],
        refuse: Callable[[PendingHandoff, int, str, str], None],
        place: Callable[[PendingHandoff], None],
        tell: Callable[[str, dict[str, Any]], None],
        is_dying: Callable[[], bool],
    ) -> None:
        """
        Args:
            refuse: answers a connection, and closes it: as `Dispatcher.refuse`.
            place: brings a parcel to its worker, after it was held back.
            tell: tells every worker that serves of an event.
            is_dying: whether a worker has ended of which it is not known yet how.
        """
        self.is_active = False
        self._poller = poller
        self._affinity = affinity
        self._hashing = hashing
        self._counters = counters
        self._refuse = refuse
        self._place = place
        self._tell = tell
        self._is_dying = is_dying
        self._blame = Blame()
        self._held_back = 0

    def ended(self, worker: WorkerHandle, code: int) -> None:
        """Learn how a worker that served has ended, before what it left behind goes to others."""
        if worker.journal is None or not is_crash(code, was_told=worker.is_retired, was_killed=worker.was_killed):
            return
        self._counters["crashed"] += 1
        found = self._blame.crashed(journal.in_flight(worker.journal), self._poller.now())
        self.is_active = self._blame.is_active(self._poller.now())
        for key in found:
            self._counters["keys_refused"] += 1
            self._tell(REFUSED, {"key": key, "for_s": REFUSED_S})
            logger.error(REFUSED_LINE, named(key, self._hashing), REFUSED_S, CRASHES, WITHIN_S)

    def now_refused(self) -> list[dict[str, Any]]:
        """Return the events that a worker which comes now has missed."""
        now = self._poller.now()
        return [{"key": key, "for_s": until - now} for key, until in self._blame.refused.items() if until > now]

    def stops(self, handoff: PendingHandoff) -> bool:
        """Refuse a parcel, or hold it back. Return False, and do nothing, where it may go on."""
        now = self._poller.now()
        self.is_active = self._blame.is_active(now)
        key = key_of(self._affinity, handoff.address, handoff.sticky_id)
        if self._blame.refuses(key, now):
            return self._stop(handoff, self._blame.refused[key] - now)
        return self._blame.suspects(key) and self._hold_back(handoff)

    def _stop(self, handoff: PendingHandoff, left_s: float) -> bool:
        if handoff.reason == REFUSED:
            return False  # a worker is to say so, and it is looked for another time
        if handoff.upgrade or handoff.kind == "tls":
            self._counters["refused_crasher"] += 1
            handoff.reason = REFUSED
            return False
        problem = f"requests of this client have crashed the server: it is refused for {left_s:.0f} s"
        self._refuse(handoff, 503, problem, "refused_crasher")
        return True

    def _hold_back(self, handoff: PendingHandoff) -> bool:
        """
        Have a client wait that one more crash gets refused: it may be that its last request was that one, for a client
        sees the end of its worker before we do.
        """
        if self._held_back >= HELD_BACK_MAX or handoff.holds >= HOLDS_MAX or (handoff.holds and not self._is_dying()):
            return False
        handoff.holds += 1
        self._held_back += 1

        def go_on() -> None:
            self._held_back -= 1
            self._place(handoff)

        self._poller.after(HOLD_S, go_on)
        return True
