"""
An adopted connection: a socket, and what the primary found out about its client.

Used in a worker. The worker's end makes one of each handoff and gives it to the application's server, which owns the
socket from then on. It is data and decides nothing.
"""

from __future__ import annotations

import socket
import sys

from msgspec import Struct

from sticky.handoff.journal import NO_MARK, Mark
from sticky.handoff.messages import Handoff
from sticky.keys.hashing import Key, StickyId
from sticky.worker.settlement import NO_SETTLEMENT, Settlement


class Adopted(Struct, frozen=True):
    """
    One connection. You own `sock`, and must call `Worker.closed` when the connection has ended.

    Call `first_byte_read` as soon as you have read from it. Without that the primary keeps its copy of the descriptor
    for a moment longer than it has to. A close reaches the client only after that moment (acknowledgements.py).
    """

    sock: socket.socket
    address: str
    """The client address: of the client's machine, after PROXY protocol and trusted proxies."""
    client_port: int
    """The client's port; 0 where a proxy's header gave the address."""
    scheme: str
    """`http` or `https`."""
    kind: str
    """`http`, `tls` or `raw`."""
    method: str
    """Of the first request, like `path` and `upgrade`. They are empty unless `kind` is `http`."""
    path: str
    upgrade: bool
    """The first request is the handshake of a WebSocket."""
    sticky_id: StickyId | None
    """The sticky id that routed the connection."""
    new_sticky_id: StickyId | None
    """A sticky id that leads back here. Set it as a cookie in the first response."""
    reason: str
    """Why the connection came to this slot."""
    peer_address: str
    """The other end of the socket, or of its PROXY header: the client itself or a proxy."""
    received: bytes = b""
    """Bytes of the request that another worker has read. They come before those in the socket."""
    mark: Mark = NO_MARK
    """Notes in the journal that a request of this connection is in flight."""
    key: Key | None = None
    """What was hashed. It counts as live here until `Worker.closed` or `LiveKeys.leave`."""
    settlement: Settlement = NO_SETTLEMENT
    """Reports to the primary that the connection was read, or has ended."""
    is_relayed: bool = False
    """Another worker relays the client's bytes, for TLS ends there. The socket is a Unix socket."""

    def first_byte_read(self) -> None:
        """Report that the first byte was read. It does no harm to call this at each read."""
        self.settlement.first_byte_read()


def adopted_of(
    message: Handoff,
    sock: socket.socket,
    received: bytes,
    *,
    mark: Mark,
    key: Key | None,
    settlement: Settlement = NO_SETTLEMENT,
) -> Adopted:
    """
    Return the connection that a handoff brings.

    Args:
        received: bytes that another worker has read of it.
        mark: by which the primary knows, after a crash, that something of it was in flight.
        key: that counts as live here.
        settlement: by which the primary learns that the connection was read.
    """
    address, peer_address = message.address, message.peer_address
    return Adopted(
        sock,
        address,
        message.client_port,
        sys.intern(message.scheme),
        message.kind,
        message.method,
        message.path,
        message.upgrade,
        None if message.sticky_id is None else StickyId(message.sticky_id),
        None if message.new_sticky_id is None else StickyId(message.new_sticky_id),
        message.reason,
        address if peer_address == address else peer_address,  # one text for both: the connection keeps it
        received,
        mark,
        key,
        settlement,
        message.is_relayed,
    )
