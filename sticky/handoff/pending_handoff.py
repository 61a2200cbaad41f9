"""
A pending handoff: one connection with everything that routes it, until its worker has settled it.

Used in the primary. The acceptor makes one (identity.py), and the dispatcher brings it to a worker (dispatcher.py). The
worker's handle keeps it as long as the primary keeps its copy of the descriptor. It is data with two questions to the
socket. It decides nothing and sends nothing.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Final

from sticky.keys.addresses import Network
from sticky.keys.hashing import Key, StickyId

TCP_INFO_NOTSENT: Final = 144  # offset of tcpi_notsent_bytes, 32 bits, in struct tcp_info of linux/tcp.h
TCP_INFO_SENT: Final = 200  # offset of tcpi_bytes_sent, 64 bits (Linux 4.19)

_TLS_HANDSHAKE: Final = b"\x16"  # the first byte of a ClientHello's record (RFC 8446, section 5.1)


@dataclass(slots=True, eq=False)
class PendingHandoff:
    """
    One connection on its way to a worker. Two of them are never equal: each stands for a descriptor.

    The primary owns `sock` until the worker has settled the connection, or until the primary refuses or closes it.
    """

    sock: socket.socket
    peer_address: str
    """The other end of the socket, or of its PROXY header: the client itself or a proxy."""
    address: str
    """The client address, after trusted proxies."""
    client_port: int
    """The client's port. 0 where `address` comes from a proxy's header, for the port of that hop is unknown."""
    scheme: str = "http"
    kind: str = "http"
    """`http`, `tls` or `raw`: what the first bytes are."""
    method: str = ""
    path: str = ""
    upgrade: bool = False
    sticky_id: StickyId | None = None
    wants_sticky_id: bool = False
    """The request has no sticky id, and the worker should give it one."""
    new_sticky_id: StickyId | None = None
    key: Key | None = None
    """What is hashed to a slot. None: any worker will do."""
    away: bool = False
    """The slot to which it goes is not its key's home."""
    reason: str = ""
    """Why it goes to that slot, for the worker and its application."""
    received: bytes = b""
    """Bytes of the request that a worker has read already. They travel with the descriptor."""
    is_relayed: bool = False
    """The client's own connection is TLS, which ends in another worker; that one relays the bytes to this socket."""
    network: Network | None = None
    """What it is counted under in `Addresses`."""
    number: int = 0
    """Its number in the channel of its worker, from 1. 0 before the first attempt."""
    attempts: int = 0
    sent_before: int | None = 0
    """Bytes that had been sent to the client before this attempt: responses to earlier requests."""
    expires_at: float = 0.0
    times_held: int = 0
    """How often the dispatcher has held it back as a suspect."""

    def header(self) -> tuple[object, ...]:
        """Return the fields of `messages.Handoff`, in their order."""
        assert self.number > 0, "the worker acknowledges by this number"
        assert self.key is not None or not self.away, "only a key has a home from which it can be away"
        return (
            self.number,
            self.address,
            self.client_port,
            self.scheme,
            self.kind,
            self.method,
            self.path,
            self.upgrade,
            self.sticky_id,
            self.new_sticky_id,
            self.reason,
            self.peer_address,
            self.away,
            self.is_relayed,
        )

    def is_untouched(self) -> bool:
        """Return whether a worker can still read the request from its first byte, from the socket or `received`."""
        if self.kind == "raw" or self.received:
            return True
        try:
            begin = self.sock.recv(32, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return False
        return begin.startswith(self.method.encode()) if self.kind == "http" else begin[:1] == _TLS_HANDSHAKE

    def is_unanswered(self) -> bool:
        """Return whether it is certain that its worker sent nothing. For a Unix socket it never is."""
        return self.sent_before is not None and bytes_sent(self.sock) == self.sent_before


def bytes_sent(sock: socket.socket) -> int | None:
    """Return how many bytes were ever written to a connection, retransmissions included; None where it is unknown."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SENT + 8)
    except OSError:
        return None
    if len(info) < TCP_INFO_SENT + 8:
        return None
    not_yet, sent = (
        struct.unpack_from("@I", info, TCP_INFO_NOTSENT)[0],
        struct.unpack_from("@Q", info, TCP_INFO_SENT)[0],
    )
    return int(not_yet + sent)
