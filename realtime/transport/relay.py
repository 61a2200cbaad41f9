"""
A TLS connection that ends in this worker, and whose requests another worker serves from now on.

Runs in the worker that has the TLS connection. The primary cannot see a session's id inside of TLS, so the connection
may have come to another worker than that of the session. It cannot move, for its keys are here. So this worker makes a
pair of sockets. The primary gives one of them to the session's worker, as a connection between two requests. What
comes by TLS is written to the other one, and what the session's worker writes there goes to the client.

    client ══ TLS ══ ClientSide ── WorkerSide ══ pair of sockets ══ the session's worker

The session's worker serves that socket like any other connection. It gives it to a third worker, or back to this one,
where a later request belongs there. So one relay stands before a connection at most, however often it goes on.

A relay reads no request. It holds no more bytes than the write buffers of both transports: when one is full, the other
is not read. It ends when either side ends, and in a drain like a WebSocket: what it carries may be in the middle of a
request, which the client sends again.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final, cast

from msgspec.structs import replace

from realtime.transport.asgi_host import ASGIHost
from realtime.transport.patience import Patience
from realtime.transport.peer import Peer
from sticky.keys.hashing import Key


def relay(host: ASGIHost, transport: asyncio.Transport, peer: Peer, port: int, received: bytes) -> bool:
    """
    Have a relay serve a TLS connection from here on, and the worker that its next request belongs to.

    Args:
        transport: of the TLS connection. It gets another protocol, which reports the connection's end to the host.
        peer: the client.
        port: of the other end of the connection.
        received: everything from the beginning of that request on that was read.

    Returns:
        False when the primary cannot take the connection now, or there is no free descriptor. Then nothing has changed.
    """
    try:
        near, far = socket.socketpair()
    except OSError:  # out of descriptors
        return False
    with far:
        if not host.worker.give_back(far.fileno(), peer.peer_address, port, received, is_relayed=True):
            near.close()
            return False
    near.setblocking(False)
    client = ClientSide(host, transport, peer, near)
    transport.set_protocol(client)
    host.relayed += 1
    return True


class ClientSide(asyncio.Protocol):
    """
    The client's half of a relay. Is a `HostedConnection`.

    Attributes:
        scope: what the log shows of a connection that is cut.
    """

    is_websocket: Final = True  # to a drain: it is closed evenly, and its client returns

    def __init__(self, host: ASGIHost, transport: asyncio.Transport, peer: Peer, near: socket.socket) -> None:
        """
        Args:
            near: this worker's end of the pair.
        """
        self.transport: asyncio.Transport = transport
        self.scope = {"type": "relay", "client": (peer.address, peer.client_port)}
        self._host = host
        host.keys.leave(peer.key)  # the session's worker has the key now
        self._peer = replace(peer, key=None)
        self._worker = WorkerSide(self)
        self._patience = Patience(host.limits.outbound_s, transport.abort)
        cast("set[Any]", host.state.connections).add(self)
        transport.pause_reading()  # until the other side is there; it closes itself when the client has gone meanwhile
        self._connecting = asyncio.get_running_loop().create_task(self._connect(near))

    async def _connect(self, near: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: self._worker, sock=near)
        except OSError:
            near.close()
            self.transport.abort()

    @property
    def key(self) -> Key | None:
        """None: the client's key is with the worker that serves it."""
        return None

    @property
    def is_open(self) -> bool:
        """Whether the client can still be served."""
        return not self.transport.is_closing()

    def shutdown(self) -> None:
        """Close both sides, what was written before leaves first."""
        if not self.transport.is_closing():
            self.transport.close()
            self._patience.begin(self.transport)

    # Called by the transport of the TLS connection

    def data_received(self, data: bytes) -> None:
        self._worker.write(data)

    def pause_writing(self) -> None:
        self._worker.pause_reading(True)

    def resume_writing(self) -> None:
        self._worker.pause_reading(False)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end of the connection, and end the other side."""
        self._patience.end()
        self._worker.end()
        cast("set[Any]", self._host.state.connections).discard(self)
        self._host.owner.ended(self._peer)


class WorkerSide(asyncio.Protocol):
    """The half of a relay that the session's worker is behind."""

    def __init__(self, client: ClientSide) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._early = b""  # what came by TLS before this side was there: little, for the client is not read from

    def write(self, data: bytes) -> None:
        """Bring bytes of the client to the session's worker."""
        if self._transport is None:
            self._early += data
        else:
            self._transport.write(data)

    def pause_reading(self, is_paused: bool) -> None:
        """Stop reading what the session's worker writes, or go on."""
        if self._transport is not None and not self._transport.is_closing():
            (self._transport.pause_reading if is_paused else self._transport.resume_reading)()

    def end(self) -> None:
        """Close this side: the client is gone, and the session's worker learns of it."""
        if self._transport is not None:
            self._transport.close()

    # Called by the transport of the pair

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._client.transport.is_closing():
            self._transport.close()
            return
        self.write(self._early)
        self._early = b""
        self._client.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self._client.transport.write(data)

    def pause_writing(self) -> None:
        if self._client.is_open:
            self._client.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._client.is_open:
            self._client.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the client's connection: the session's worker has ended it, or has died."""
        self._client.shutdown()
