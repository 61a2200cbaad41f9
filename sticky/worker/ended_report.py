"""
Reports to the primary how many connections of each peer address have ended in this worker, or moved to it.

Used in a worker, on its event loop. The primary limits the connections of each address (addresses.py), so it has to
know of the ends. They are reported together, `ENDED_S` after the first of them. What finds no room in the channel is
reported with the next end, or with the next heartbeat.
"""

from __future__ import annotations

import itertools
from typing import Final

from sticky.handoff.channel import Kind
from sticky.loop.timers import LoopTimers, Timers
from sticky.worker.primary_link import PrimaryLink

ENDED_S: Final = 0.05  # from the end of a connection to its report, so that a storm of ends makes few messages
ENDED_MAX: Final = 512  # addresses in each half of one report: at most 128 characters each, which fits in a packet


class EndedReport:
    """The ends that are not reported yet. Bounded by the addresses that had connections here."""

    def __init__(self, link: PrimaryLink, timers: Timers | None = None) -> None:
        """
        Args:
            timers: the running event loop's unless given.
        """
        self._link = link
        self._timers = timers or LoopTimers()
        self._counts: dict[str, int] = {}
        self._arrived: dict[str, int] = {}
        self._is_scheduled = False

    def add_arrived(self, peer_address: str) -> None:
        """Count a connection that came from another worker. It is reported before its end."""
        self._arrived[peer_address] = self._arrived.get(peer_address, 0) + 1

    def add(self, peer_address: str) -> None:
        """Count the end of one connection. The empty address is one that the caller does not know."""
        self._counts[peer_address] = self._counts.get(peer_address, 0) + 1

    def schedule(self) -> None:
        """Send a report soon, if none is scheduled. Call this on the event loop, after `add`."""
        if not self._is_scheduled and not self._link.is_lost:
            self._is_scheduled = True
            self._timers.after(ENDED_S, self.send)

    def retry(self) -> None:
        """Send what an earlier report had no room for."""
        if (self._counts or self._arrived) and not self._is_scheduled:
            self.send()

    def send(self) -> None:
        """Send everything now, as far as the channel has room."""
        self._is_scheduled = False
        while self._counts or self._arrived:
            arrived = dict(itertools.islice(self._arrived.items(), ENDED_MAX))
            ended = {} if len(arrived) == ENDED_MAX else dict(itertools.islice(self._counts.items(), ENDED_MAX))
            if not self._link.send(Kind.ENDED, ended, arrived):
                return
            for peer_address in ended:
                del self._counts[peer_address]
            for peer_address in arrived:
                del self._arrived[peer_address]
