"""
Reports to a new primary what only this worker knows: what it has seen of the handoffs, and what it has open.

Used in a worker, on its event loop. The primary may die and be followed by another, which gets the same channel from
the keeper. The worker does not notice, until the new primary asks. What finds no room in the channel is sent at the
next heartbeat.

The open connections are counted by peer address here, because the primary limits them by address (addresses.py).
"""

from __future__ import annotations

from collections import deque
from typing import Any

from sticky.handoff.channel import Kind
from sticky.worker.acknowledgements import Acknowledgements
from sticky.worker.ended_report import ENDED_MAX
from sticky.worker.primary_link import PrimaryLink


class IdentityReport:
    """The answer that is not sent yet, and the open connections by peer address."""

    def __init__(self, link: PrimaryLink, acknowledgements: Acknowledgements) -> None:
        self._link = link
        self._acknowledgements = acknowledgements
        self._held: dict[str, int] = {}
        self._knows_addresses = True  # of all connections that end
        self._parts: deque[tuple[Kind, tuple[Any, ...]]] = deque()

    def opened(self, peer_address: str) -> None:
        """Count a connection that was adopted."""
        self._held[peer_address] = self._held.get(peer_address, 0) + 1

    def closed(self, peer_address: str) -> None:
        """Count a connection no longer. The empty address: the caller does not know it, so no count is right."""
        left = self._held.get(peer_address, 0) - 1
        if left > 0:
            self._held[peer_address] = left
        else:
            self._held.pop(peer_address, None)
        if not peer_address:
            self._knows_addresses = False
            self._held.clear()

    def answer(self, *, adopted: int, connections: int, is_draining: bool) -> None:
        """Answer a new primary: first the counts by address, then the numbers, which complete the answer."""
        held = list(self._held.items()) if self._knows_addresses else [("", connections)]
        parts = [dict(held[begin : begin + ENDED_MAX]) for begin in range(0, len(held), ENDED_MAX)]
        self._parts = deque((Kind.HELD, (part,)) for part in parts)
        self._parts.append((Kind.IDENTITY, (adopted, connections, is_draining)))
        self.send()

    def send(self) -> None:
        """Send what waits, as far as the channel has room."""
        while self._parts:
            # A rejected handoff is reported before the number that covers it: the new primary has no copy of it.
            if not self._acknowledgements.acknowledge():
                return
            kind, fields = self._parts[0]
            if kind is Kind.IDENTITY:
                fields = (self._acknowledgements.seen, *fields)
            if not self._link.send(kind, *fields):
                return
            self._parts.popleft()
