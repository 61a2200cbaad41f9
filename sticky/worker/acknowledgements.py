"""
Acknowledges handoffs: which connections this worker has adopted, and which of them the primary may forget.

Used in a worker, on its event loop. One `Ack` covers every handoff up to two numbers:

- *adopted*: sent in the turn of the loop in which `on_connection` returned. Reading begins in a later turn at the
  earliest, so a connection that is not acknowledged was not read either.
- *settled*: sent `SETTLE_TURNS` turns later. By then a request that had arrived with the connection is read and, by
  most applications, answered.

Until a connection is settled the primary keeps its copy of the descriptor, and no close by this worker reaches the
client. So those turns are few. Nothing is lost where the channel is full: both numbers are cumulative, and the next
heartbeat sends them.
"""

from __future__ import annotations

import asyncio
from typing import Final

from sticky.handoff.channel import Kind
from sticky.handoff.journal import ADOPTING, Mark
from sticky.worker.primary_link import PrimaryLink

# asyncio needs 4 turns from the descriptor to the first byte read, and an application a few more. This is a bet on
# the usual case: a request that is settled too early and then lost gets a closed connection in place of a 503.
SETTLE_TURNS: Final = 8


class Acknowledgements:
    """
    The numbers of this worker's handoffs.

    Invariant: acknowledged <= settled <= seen, and all of them only grow.
    """

    def __init__(self, link: PrimaryLink) -> None:
        self._link = link
        self.seen = 0
        """The last handoff that was adopted or rejected."""
        self._settled = 0
        self._acknowledged = (0, 0)  # as in the last `Ack`
        self._rejected: list[int] = []  # handoffs whose `Nack` is not sent yet
        self._adopting: list[Mark] = []  # connections that were adopted since the last `schedule_settling`

    def adopted(self, number: int, mark: Mark) -> None:
        """Note that a handoff was adopted. Call `acknowledge` in the same turn of the loop."""
        self._see(number)
        mark.begin(ADOPTING)
        self._adopting.append(mark)

    def reject(self, number: int) -> None:
        """Note that another worker has to get a handoff. Call `acknowledge` in the same turn of the loop."""
        self._see(number)
        self._rejected.append(number)

    def _see(self, number: int) -> None:
        self.seen = max(self.seen, number)  # a number that goes back is the primary's bug: it must not undo an Ack

    def acknowledge(self) -> bool:
        """
        Send what is not acknowledged yet: first what was rejected, then both numbers.

        Returns:
            False when the channel is full. Call this again later.
        """
        while self._rejected:  # before the Ack, which covers their numbers: else the primary would forget them
            if not self._link.send(Kind.NACK, self._rejected[0]):
                return False
            del self._rejected[0]
        numbers = (self.seen, self._settled)
        if self._acknowledged != numbers:
            if not self._link.send(Kind.ACK, *numbers):
                return False
            self._acknowledged = numbers
        return True

    def settle(self, number: int) -> bool:
        """Settle every handoff up to a number, and acknowledge that. Return False when the channel is full."""
        assert number <= self.seen, "only what was seen can be settled"
        self._settled = max(number, self._settled)
        return self.acknowledge()

    def settle_all(self) -> bool:
        """Settle every handoff that was seen. Return False when the channel is full."""
        return self.settle(self.seen)

    def schedule_settling(self) -> None:
        """Settle what was adopted in this turn of the loop, `SETTLE_TURNS` later."""
        if self.seen > self._settled or self._adopting:
            marks, self._adopting = self._adopting, []
            asyncio.get_running_loop().call_soon(self._settle_after, self.seen, marks, SETTLE_TURNS)

    def _settle_after(self, number: int, marks: list[Mark], turns: int) -> None:
        if turns > 1:
            asyncio.get_running_loop().call_soon(self._settle_after, number, marks, turns - 1)
            return
        for mark in marks:
            mark.end(ADOPTING)
        self.settle(number)
