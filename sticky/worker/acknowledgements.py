"""
Acknowledges handoffs: which connections this worker has adopted, and which of them the primary may forget.

Used in a worker, on its event loop. One `Ack` covers every handoff up to two numbers:

- *adopted*: sent in the turn of the loop in which `on_connection` returned. Reading begins in a later turn at the
  earliest, so a connection that is not acknowledged was not read either.
- *settled*: the primary closes its copy of the descriptor. Until then no close by this worker reaches the client; from
  then on the primary can do nothing for the client when this worker dies.

**When a connection is settled.** Its transport reports that the first byte was read (settlement.py).

- `SETTLE_S` after that report. A request that crashes its worker mostly does so at once, and for as long the primary
  can answer it with 503.
- At once when the connection has ended: its client waits for the close.
- `UNREAD_MAX_S` after the adoption in any case. A server that makes no reports thus costs the primary a descriptor for
  that time, and no longer. So does a client that stops in the middle of its TLS handshake. Only time in which the event
  loop turned counts: after a handler has blocked it, or the whole process was stopped, what came before is read first.
- At once for a connection of kind `raw`. The primary cannot see whether such a connection was read, and so cannot give
  it to another worker.

**Order.** The numbers are cumulative, so a connection waits for those before it. Of a connection that has ended the
close therefore reaches the client at most `UNREAD_MAX_S` after the adoption. When one ends, those before it that were
read are settled with it, though their `SETTLE_S` is not over: a prompt close is worth more than a 503 after a crash.

Nothing is lost where the channel is full: both numbers are cumulative, and the next heartbeat sends them. There is one
timer for all connections, and it runs only while some are not settled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from sticky.handoff.channel import Kind
from sticky.handoff.journal import Mark
from sticky.loop.timers import LoopTimers, Timers
from sticky.worker.primary_link import PrimaryLink
from sticky.worker.settlement import Settlement

SETTLE_S: Final = 0.01  # from the first byte: what a handler does at once is done by then
UNREAD_MAX_S: Final = 0.25  # from the adoption: a head that the primary has seen is read within a few turns of the loop
TICK_MAX_S: Final = 2 * SETTLE_S  # of the time from one check to the next: what is more, the loop was late by


class Acknowledgements:
    """
    The numbers of this worker's handoffs.

    Invariants: acknowledged <= settled <= seen, and all of them only grow. `_unsettled` has the adopted connections
    above `settled`, in the order of their numbers, and `_unread` counts those of them that are not read.
    """

    def __init__(self, link: PrimaryLink, timers: Timers | None = None) -> None:
        """
        Args:
            timers: the running event loop's unless given.
        """
        self._link = link
        self._timers = timers or LoopTimers()
        self.seen = 0
        """The last handoff that was adopted or rejected."""
        self._settled = 0
        self._acknowledged = (0, 0)  # as in the last `Ack`
        self._rejected: list[int] = []  # handoffs whose `Nack` is not sent yet
        self._unsettled: deque[tuple[int, Settlement]] = deque()
        self._unread = 0
        self._turned_s = 0.0  # for how long the loop turned, as far as the timer ran: the clock of what is unread
        self._checked_at = 0.0
        self._all_read = asyncio.Event()
        self._all_read.set()
        self._is_checking_later = False
        self._is_checking_soon = False

    # Handoffs

    def adopted(self, number: int, mark: Mark, *, is_raw: bool = False) -> Settlement:
        """
        Note that a handoff was adopted. Call `acknowledge` in the same turn of the loop. It is settled by itself.

        Args:
            mark: of the connection.
            is_raw: its kind is `raw`.

        Returns:
            What the connection's transport reports to.
        """
        self._see(number)
        if is_raw:
            settlement = Settlement(None, mark, due_at=0.0)
        else:
            settlement = Settlement(self, mark, self._turned_s + UNREAD_MAX_S)
            if not self._unread:
                self._all_read.clear()
            self._unread += 1
        self._unsettled.append((number, settlement))
        assert self._unread <= len(self._unsettled), "a connection that is not read is not settled either"
        if not is_raw:
            self._check_later()
        return settlement

    def reject(self, number: int, settlement: Settlement | None = None) -> None:
        """
        Note that another worker has to get a handoff. Call `acknowledge` in the same turn of the loop.

        Args:
            settlement: what `adopted` has returned for it, if it was called.
        """
        self._see(number)
        self._rejected.append(number)
        if settlement is not None:
            settlement.ended()

    def _see(self, number: int) -> None:
        self.seen = max(self.seen, number)  # a number that goes back is the primary's bug: it must not undo an Ack

    # Reports of the transports

    def first_byte_was_read(self, settlement: Settlement) -> None:
        settlement.due_at = self._timers.now() + SETTLE_S
        self._count_read()

    def connection_has_ended(self, settlement: Settlement) -> None:
        settlement.due_at = 0.0
        if settlement.is_unread:
            settlement.is_unread = False
            self._count_read()
        if not self._is_checking_soon:  # many that end in one turn of the loop are settled by one message
            self._is_checking_soon = True
            self._timers.after(0, self._check_ended)

    def _count_read(self) -> None:
        self._unread -= 1
        assert self._unread >= 0, "a connection is read once"
        if not self._unread:
            self._all_read.set()

    async def wait_until_read(self) -> None:
        """Wait until every connection that was adopted is read, has ended, or has had `UNREAD_MAX_S` for it."""
        await self._all_read.wait()

    # Settling

    def _check_later(self) -> None:
        """Have the timer run, as long as a connection is not settled."""
        if self._unsettled and not self._is_checking_later:
            self._is_checking_later = True
            self._checked_at = self._timers.now()
            self._timers.after(SETTLE_S, self._check)

    def _check(self) -> None:
        self._is_checking_later = False
        self._turned_s += min(self._timers.now() - self._checked_at, TICK_MAX_S)
        self.acknowledge()
        self._check_later()

    def _check_ended(self) -> None:
        self._is_checking_soon = False
        self._settle_due(None)
        self.acknowledge()

    def _settle_due(self, now: float | None) -> None:
        """Settle from the front what is due; with None all that is read, due or not."""
        while self._unsettled:
            settlement = self._unsettled[0][1]
            if settlement.is_unread:
                if settlement.due_at > self._turned_s:
                    return
            elif now is not None and settlement.due_at > now:
                return
            self._settle_first()

    def _settle_first(self) -> None:
        number, settlement = self._unsettled.popleft()
        if settlement.is_unread:
            self._count_read()
        settlement.settle()
        assert number <= self.seen, "only what was seen can be settled"
        self._settled = max(self._settled, number)

    def settle_all(self) -> bool:
        """Settle every handoff that was seen, read or not. Return False when the channel is full."""
        while self._unsettled:
            self._settle_first()
        assert not self._unread, "nothing is left of which a transport could report the first byte"
        self._settled = self.seen
        return self.acknowledge()

    def acknowledge(self) -> bool:
        """
        Settle what is due, and send what is not acknowledged yet: first what was rejected, then both numbers.

        Returns:
            False when the channel is full. Call this again later.
        """
        while self._rejected:  # before the Ack, which covers their numbers: else the primary would forget them
            if not self._link.send(Kind.NACK, self._rejected[0]):
                return False
            del self._rejected[0]
        self._settle_due(self._timers.now())
        if not self._unsettled:
            self._settled = self.seen  # the rejected ones after the last one that was adopted
        numbers = (self.seen, self._settled)
        if self._acknowledged != numbers:
            if not self._link.send(Kind.ACK, *numbers):
                return False
            assert self._acknowledged[1] <= self._settled <= self.seen, "the primary takes no number back"
            self._acknowledged = numbers
        return True
