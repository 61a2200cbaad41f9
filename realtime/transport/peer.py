"""
The client at the other end of an adopted connection, and the cookie that brings it back.

Runs in the worker. Plain data out of the handoff, made by the gateway and read by both kinds of transport.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from sticky.handoff.journal import NO_MARK, Mark
from sticky.keys.hashing import Key
from sticky.worker.settlement import NO_SETTLEMENT, Settlement


class Peer(Struct, frozen=True):
    """A client as the primary recognised it: after PROXY protocol and trusted proxies."""

    address: str
    client_port: int = 0
    scheme: str = "http"
    sticky_id: str | None = None
    """The session that led here."""
    new_sticky_id: str | None = None
    """A session that the client has to be given as a cookie, in the first answer."""
    peer_address: str = ""
    """At the other end of the socket, or in its PROXY header: the client's own, or a proxy's."""
    mark: Mark = NO_MARK
    """By which the primary knows, after a crash, that something of this connection was in flight."""
    key: Key | None = None
    """What brings the client to its worker, counted as live here. The code that ends the connection calls `leave`."""
    is_relayed: bool = False
    """TLS of this client ends in another worker, which relays the bytes: the socket here is not the client's own."""
    settlement: Settlement = NO_SETTLEMENT
    """To which the transport reports that the first byte was read, and that the connection has ended."""

    @property
    def log_fields(self) -> dict[str, Any]:
        """The client, as fields of a log line, before it has a session."""
        fields: dict[str, Any] = {"address": self.address} if self.address else {}
        return {**fields, "client_port": self.client_port} if self.client_port else fields

    def __str__(self) -> str:
        return (
            f"{self.address}:{self.client_port}" if self.client_port else self.address or "a client without an address"
        )


def session_cookie(name: str, session: str, scheme: str) -> str:
    """
    Return the value of `Set-Cookie` for a session.

    It ends with the browser's session, and no script can read it. `Lax`: a link from elsewhere still leads to the same
    worker, a request forged elsewhere carries nothing.
    """
    secure = "; Secure" if scheme == "https" else ""
    return f"{name}={session}; Path=/; HttpOnly; SameSite=Lax{secure}"
