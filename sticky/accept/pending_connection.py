"""
A pending connection: accepted, and not routed, because its head is not complete. It is data and decides nothing.

Used in the primary, by the acceptor. In an upgrade the primary leaves its pending connections to its successor.
"""

from __future__ import annotations

import socket

from sticky.keys.addresses import Network
from sticky.loop.poller import Timer


class PendingConnection:
    """A connection that is accepted and not routed: its head is not complete. The acceptor owns `sock`."""

    __slots__ = ("expects_proxy", "network", "peer_address", "port", "seen", "sock", "timer")

    def __init__(self, sock: socket.socket, peer_address: str, port: int, *, expects_proxy: bool) -> None:
        self.sock = sock
        self.peer_address = peer_address
        self.port = port
        self.expects_proxy = expects_proxy  # a PROXY header comes first
        self.network: Network | None = None  # what it is counted under
        self.seen = 0  # bytes that were inspected, and were not enough
        self.timer: Timer | None = None
