"""
The connections that the primary has handed to this worker, counted from adoption to end.

Runs in the worker, below everything that serves a connection. Whatever serves one, and however it ends, `ended` is
called once: then the primary hears of it, and the key of the connection is live no more. Only with exact counts does a
drain end as soon as the last connection has, and can a client that is away go home. It reads no byte and owns no
socket.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from realtime.transport.peer import Peer
from sticky.keys.hashing import Key


class Primary(Protocol):
    """The primary, as connections concern it. `sticky.Worker` is the worker's end of it."""

    def closed(self, *, peer_address: str) -> None:
        """Report that one adopted connection has ended, by the other end of its socket."""


class Keys(Protocol):
    """The keys that have live connections here: `sticky.keys.live_keys.LiveKeys`."""

    def leave(self, key: Key | None) -> None:
        """Have a key live here in one connection less. None stands for a connection that has no key."""


class ConnectionOwner(Protocol):
    """What hears of the end of a connection."""

    def ended(self, peer: Peer) -> None:
        """Learn that the connection of this peer has ended. Its socket is closed, or is another process's."""


class AdoptedConnections:
    """
    All adopted connections of a worker. It is the `ConnectionOwner` of each.

    Attributes:
        open: how many have begun and not ended.
    """

    def __init__(self, primary: Primary, keys: Keys) -> None:
        self._primary = primary
        self._keys = keys
        self.open = 0
        self._none = asyncio.Event()
        self._none.set()

    def begin(self) -> None:
        """Count a connection. Whatever comes of it, `ended` must follow."""
        self.open += 1
        self._none.clear()

    def ended(self, peer: Peer) -> None:
        """See `ConnectionOwner`."""
        assert self.open > 0, "a connection ends once"
        self.open -= 1
        peer.settlement.ended()
        self._keys.leave(peer.key)
        self._primary.closed(peer_address=peer.peer_address)
        if not self.open:
            self._none.set()

    async def wait_for_none(self) -> None:
        """Return when no connection is open."""
        await self._none.wait()


class NoOwner:
    """A `ConnectionOwner` that counts nothing: for sockets that no primary has handed over, as in tests."""

    def ended(self, peer: Peer) -> None:
        """Nothing has to be known of it."""
