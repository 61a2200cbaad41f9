"""
Adopted connections: which part serves each, and how all of them end.

Runs in the worker. The primary has parsed the first request, so its path decides without a second look: a WebSocket of
ours goes to our transport, everything else to the ASGI host. Where TLS ends in the worker, and for a later request of
a kept-alive connection, the path is not known here: the ASGI host then hands over (transport/hosted.py). The gateway
reads nothing and speaks no protocol.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from realtime.log_lines import log
from realtime.process.drain import Closable, close_evenly
from realtime.protocol.base import Endpoints, Streams
from realtime.settings import Settings
from realtime.transport.adopted import AdoptedConnections
from realtime.transport.asgi_host import ASGIHost, HostedConnection
from realtime.transport.base import ClientSession
from realtime.transport.hosted_parsers import hosted_protocol
from realtime.transport.peer import Peer
from realtime.transport.refused import RefusedConnection
from realtime.transport.websocket import WebSocketTransport
from realtime.transport.websocket_endpoint import OpenSocket, WebSocketEndpoint
from sticky import Adopted

logger = logging.getLogger("realtime.gateway")


class TLSContexts(Protocol):
    """What gives each handshake its TLS context: `transport.certificates.Certificates`."""

    def context(self) -> ssl.SSLContext | None: ...


class Gateway:
    """All connections of this worker."""

    def __init__(
        self,
        endpoint: WebSocketEndpoint,
        host: ASGIHost,
        connections: AdoptedConnections,
        *,
        endpoints: Endpoints,
        tls: TLSContexts | None = None,
        handshake_s: float = Settings.handshake_s,
        streams: Streams | None = None,
    ) -> None:
        """
        Args:
            endpoint: serves our own WebSockets.
            host: serves all other requests.
            connections: counts them. It is the owner that `endpoint` and `host` have.
            endpoints: where our protocol is served, and how it ends a connection.
            tls: for connections that begin with a TLS handshake; asked again for each of them.
            handshake_s: how long that may take.
            streams: our clients that have no WebSocket; they are `host`'s connections as well.
        """
        self._tls = tls
        self._handshake_s = handshake_s
        self._endpoint = endpoint
        self._endpoints = endpoints
        self._streams = streams
        self._host = host
        self._connections = connections
        self._tasks: set[asyncio.Task[None]] = set()

    def adopt(self, adopted: Adopted) -> None:
        """Take over a connection. Its first byte is read in a later turn of the loop."""
        peer = _peer(adopted)
        ours = adopted.upgrade and adopted.path in self._endpoints.websocket_paths
        make = partial(WebSocketTransport, self._endpoint) if ours else partial(hosted_protocol, self._host)
        self._begin(adopted, peer, lambda: make(peer, adopted.received))

    def refuse(self, adopted: Adopted) -> None:
        """Take over a connection only to say, in its own protocol, that it cannot be served now."""
        limits, admission = self._endpoint.limits, self._endpoint.admission
        if adopted.path not in self._endpoints.websocket_paths:
            # It is the application's own WebSocket, and only the application knows which pages it admits.
            admission = replace(admission, allowed_origins=("*",), subprotocols=())
        peer = _peer(adopted)
        self._begin(
            adopted,
            peer,
            lambda: RefusedConnection(
                peer, adopted.received, admission, head_bytes=limits.head_bytes, owner=self._connections
            ),
        )

    def _begin(self, adopted: Adopted, peer: Peer, make: Callable[[], asyncio.BaseProtocol]) -> None:
        self._connections.begin()
        task = asyncio.get_running_loop().create_task(self._connect(adopted, peer, make))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, adopted: Adopted, peer: Peer, make: Callable[[], asyncio.BaseProtocol]) -> None:
        """Give the socket to its protocol. Where that fails, no protocol hears of the end, so it is reported here."""
        tls = self._tls.context() if self._tls is not None and adopted.kind == "tls" else None
        patience_s = None if tls is None else self._handshake_s
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                make, adopted.sock, ssl=tls, ssl_handshake_timeout=patience_s
            )
            if tls is not None:
                adopted.first_byte_read()  # by the handshake: the transports see only what comes after it
        except OSError as error:  # also ssl.SSLError, and a handshake that took too long
            log(logger, logging.INFO, "x connection not adopted", **peer.log_fields, reason=error)
            adopted.sock.close()
            self._connections.ended(peer)

    async def attach(self, transport: WebSocketTransport, session: ClientSession, sock: socket.socket) -> None:
        """Serve a connection that came from another worker. Never raises: a peer that is gone is lost at once."""
        self._connections.begin()
        await transport.attach(session, sock)

    async def drain(self, deadline_s: float, *, is_stop: bool = False) -> None:
        """
        Bring every client elsewhere: WebSockets and streams get a reconnect code, evenly up to the deadline, so that
        the other workers are not stormed. Requests in flight end, and so do handshakes. What is left is cut and named.

        Args:
            deadline_s: how long that may take, a moment for the last closing handshakes not included.
            is_stop: the whole server ends: see `close_evenly`.
        """
        self._host.drain()
        await close_evenly(self, deadline_s, is_stop=is_stop)
        if self._connections.open:
            left = self._host.abort_all()
            for connection in list(self._endpoint.connections):
                connection.abort()
            log(logger, logging.WARNING, "x drain deadline", cut=left)
            await asyncio.sleep(0)

    async def wait_until_none(self) -> None:
        """Return when no connection is left."""
        await self._connections.wait_for_none()

    def closables(self) -> Iterator[Closable]:
        """
        Give every connection whose client returns when it is closed: WebSockets, streams, and responses that are
        streams of events. Handshakes are not among them, nor requests that end by themselves.
        """
        code, reason = self._endpoints.shutdown.code, self._endpoints.shutdown.reason
        for connection in self._endpoint.connections:
            if connection.is_open:
                yield Closable(_still_open(connection), partial(connection.close, code, reason))
        for hosted in self._host.websockets():
            yield Closable(_still_open(hosted), hosted.shutdown)
        for transport in self._host.event_streams(but=self._endpoints.http_paths):
            yield Closable(lambda: True, transport.close)  # harmless when it closes already
        for session in self._streams.open if self._streams is not None else ():
            yield Closable(lambda: True, partial(session.end, code, reason))  # harmless as well

    def statistics(self) -> dict[str, Any]:
        """Return a snapshot."""
        found = Counter(self._endpoint.statistics())
        if self._streams is not None:
            found.update(self._streams.statistics())  # which adds: a slow stream counts as a slow connection
        found.update(slow=self._host.slow)
        return {"open": self._connections.open, **found, **self._host.statistics()}


def _still_open(connection: OpenSocket | HostedConnection) -> Callable[[], bool]:
    return lambda: connection.is_open


def _peer(adopted: Adopted) -> Peer:
    return Peer(
        adopted.address,
        adopted.client_port,
        adopted.scheme,
        sticky_id=adopted.sticky_id,
        new_sticky_id=adopted.new_sticky_id,
        peer_address=adopted.peer_address,
        mark=adopted.mark,
        key=adopted.key,
        is_relayed=adopted.is_relayed,
        settlement=adopted.settlement,
    )
