"""
One hosted connection: HTTP, request by request, until it becomes a WebSocket.

Runs in the worker, between a socket and uvicorn's protocol classes, of which there are two: over httptools, and over
h11 where that is asked for. Where its requests can be of different clients, each is looked at before the parser sees
it: the next one only when the last was answered. One that belongs to another worker goes there, with the connection.

Only the handshake of a WebSocket ends HTTP here. Both parsers know of upgrades in general, and httptools drops the body
of a request that offers any. So what an offer is, and which one is taken up, is decided by `sticky.heads.first_bytes`
alone.

Theory of operation
-------------------
The primary has routed the first request of a connection. On whom the later ones depend is decided by `_requests`:

    None              all requests are of one client, and none has a query id: bytes go straight to the parser
    a `Requests`      each head is read first (`sticky.worker.requests`), and only one request at a time is parsed. A
                      head gives its route, and the route says: parse it, refuse it, or give the connection back.

**Giving back.** Only between two requests, with the last answer out of this process: then the connection has no state
but bytes, and the primary brings both to the worker that the next request belongs to. While the channel is full it is
tried again (`LEAVE_TRIES`); in the end the request is served here, under its own address and session (`_keep`). Where
TLS ends here, the connection has more state than bytes. It stays, and a pair of sockets goes in its place (relay.py).

**Ending HTTP.** A handshake waits until every request before it is answered (`_ending`). Bytes behind it are kept, for
they are frames. Then the socket gets another protocol, and this object is done (`_handed_on`).

**Draining.** `_is_last` makes the answer under way the connection's last; uvicorn then adds `Connection: close`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from realtime.log_lines import log
from realtime.transport.acknowledged import acknowledged_bytes, limit_unsent
from realtime.transport.asgi_host import ASGIHost
from realtime.transport.client_log import SLOW_CLIENT
from realtime.transport.guarded import Guarded
from realtime.transport.hosted_websocket import HostedWebSocket
from realtime.transport.peer import Peer
from realtime.transport.plain_requests import are_plain
from realtime.transport.refused import ANSWER
from realtime.transport.relay import relay
from realtime.transport.websocket import WebSocketTransport
from sticky.heads.first_bytes import Head, Refusal, handshake_fault
from sticky.keys.hashing import Key
from sticky.worker.requests import BodyState, Part, Requests

VISITS_HERE: Final = 8  # first visits that a pooled connection brings to one worker before another has its turn
LEAVE_TRIES: Final = 250  # to give a connection back, while its last answer leaves or the channel is full
LEAVE_PAUSE_S: Final = 0.02
BEHIND_MAX: Final = 65_536  # bytes behind a handshake that is not answered yet: no client has a reason to send any

logger = logging.getLogger("realtime.asgi")


class Hosted(Guarded):
    """
    What a hosted connection does with either parser. The other base of a class with this one is uvicorn's.

    Attributes:
        mark: by which the primary knows that a request of this connection is in flight, should the worker crash.
    """

    is_websocket = False
    connections: set[Any]
    app: Any
    client: Any

    def __init__(self, host: ASGIHost, peer: Peer, received: bytes) -> None:
        """
        Args:
            host: what the connections of this worker share.
            peer: the client of the first request. A later request of another client replaces it.
            received: bytes that were taken from the descriptor already.
        """
        self.limits = host.limits
        super().__init__(config=host.config, server_state=host.state, app_state={})
        self.app = host.from_here(peer, self)
        self._host = host
        self._peer = peer
        self._port = peer.client_port if peer.address == peer.peer_address else 0  # of the other end of the socket
        self._received = received
        self._handed_on = False
        self._differ = host.routes.differ(peer.peer_address)  # its requests can be of different clients
        self._is_routed = self._differ or host.reads_query_ids  # request by request
        self._requests = Requests(host.limits.head) if self._differ or host.hosts.is_limited else None
        self._is_plain = self._is_routed and self._requests is None  # so far: no request could belong elsewhere
        self._is_misdirected = False  # the request that is parsed
        self._is_pooled = host.routes.pools(peer.peer_address)
        self._is_first = True  # the primary has looked at that one
        self._is_begun = True  # a request has begun to arrive; the first one was seen by the primary
        self._is_last = host.is_draining  # the answer under way is the last one here
        self._visits = 0  # of clients without a session
        self._leaving = False
        self._is_kept = False  # the next request belongs elsewhere, and is served here all the same
        self._tries = 0
        self._ending: Callable[[bytes], None] | None = None  # how HTTP ends here, once what came before is answered
        self._behind = b""  # what came after that
        self.mark = peer.mark

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with what was received before."""
        super().connection_made(transport)
        self.client = (self._peer.address, self._peer.client_port)
        if self._received:  # inside connection_made: later, what the socket brings would come first
            received, self._received = self._received, b""
            self.data_received(received)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end, unless another protocol has the socket: then that one does."""
        super().connection_lost(exc)
        self.mark.end()
        if not self._handed_on:
            self._host.owner.ended(self._peer)

    def cut(self) -> None:
        """Close now; what was not sent is lost."""
        if self.transport is not None:
            self.transport.abort()

    def note_slow(self, waiting: int) -> None:
        """Count and log a client that is cut off."""
        self._host.slow += 1
        log(logger, logging.WARNING, SLOW_CLIENT, **self._peer.log_fields, waiting_bytes=waiting)

    def acknowledged_bytes(self) -> int:
        """See `Transport.acknowledged_bytes`."""
        return acknowledged_bytes(self.transport)

    def limit_unsent(self, is_limited: bool) -> None:
        """See `Transport.limit_unsent`."""
        limit_unsent(self.transport, is_limited)

    @property
    def key(self) -> Key | None:
        """The key of the client whose request is under way; None between two requests."""
        return self._peer.key if self._is_begun or self._is_answering else None

    def shutdown(self) -> None:
        """Close when nothing is under way; else let the request that is be the last."""
        if not self._is_begun and not self._is_answering and not self.transport.is_closing():
            self.transport.close()
            return
        self._is_last = True
        self._limit_cycle()
        if self._is_answering and getattr(self.cycle, "is_gone", False):
            self.peer_is_gone()

    def peer_is_gone(self) -> None:
        """End the connection where a drain waits for it: no client would read an answer that may never come."""
        if self._is_last and not self.transport.is_closing():
            self.transport.close()

    # Requests, one by one

    def data_received(self, data: bytes) -> None:
        """Read what the socket brought. From here until the answer begins, the request is in flight."""
        assert not self._handed_on, "a socket has one protocol at a time"
        if not self._is_begun:
            self._is_begun = True
            if self._host.routes.refused and self._refuse(self.mark.key):
                return
        self._peer.settlement.first_byte_read()
        self.mark.begin()
        self.before_reading(data)
        self._read(data)
        if not self._handed_on:
            self.after_reading()

    @property
    def waits_for_head(self) -> bool:
        """See `Guarded`. The parser gets a head only when it is whole."""
        return self._requests is not None and self._requests.is_in_head

    def _read(self, data: bytes) -> None:
        """Give bytes to what reads them: request by request, or all at once."""
        if self._is_plain:
            if are_plain(data):
                self._is_first = False
            else:
                self._is_plain, self._requests = False, Requests(self._host.limits.head)
        if self._requests is not None:
            self._requests.feed(data)
            self._go_on()
        elif self._is_last:
            self._parse(data)
        else:
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        """Have the parser read on."""
        super().data_received(data)

    def _parse(self, data: bytes) -> None:
        """Have the parser read on, and see that a last answer is the last."""
        self._feed(data)
        if self._is_last:
            self._limit_cycle()

    def _limit_cycle(self) -> None:
        """Have the connection end with the answer under way. It is only begun in a later turn of the loop."""
        if self._is_answering:
            self.cycle.keep_alive = False

    def has_begun(self) -> bool:
        """Whether the answer under way has begun."""
        return self.cycle is not None and bool(self.cycle.response_started)

    def _refuse(self, key: bytes) -> bool:
        """Refuse a request whose client's requests crash workers. Return False where that is not so."""
        if self.transport.is_closing() or not self._host.routes.refuses(key):
            return False
        self.transport.write(ANSWER)
        self.transport.close()
        return True

    def on_response_complete(self) -> None:
        """
        Go on behind an answer: the next request, the end of HTTP, or waiting.

        The order matters. uvicorn first begins a request that it has parsed already; only if there is none, the
        connection is between two requests, and may be given away or ended.
        """
        self._is_begun = False
        self.mark.end()
        if self._is_pooled:  # between two requests it is no client's
            self._host.keys.leave(self._peer.key)
            self._peer = replace(self._peer, key=None)
        super().on_response_complete()
        if self._is_last:
            self._limit_cycle()
        if self._is_answering:
            self.end_half_closed()  # of the request that is answered next not all has come, and no more will
            return
        if self._handed_on or self.transport.is_closing():
            return
        if self._ending is not None:
            self._ending(self._behind)
        elif self._requests is not None:
            self._go_on()
        if not (self._leaving or self._handed_on):
            self.watch_head()
            self.end_half_closed()

    def _go_on(self) -> None:
        """Serve what has come, up to a request that has to wait for the answer to the one before it."""
        requests = self._requests
        assert requests is not None, "only a connection whose requests are looked at goes on request by request"
        while not (self._handed_on or self._leaving or self.transport.is_closing()):
            if requests.state is BodyState.BETWEEN and self._is_answering:
                self.flow.pause_reading()
                return
            piece = requests.next()
            if piece is None:
                return
            if isinstance(piece, Refusal):
                self.refuse(piece.status, piece.reason)
            elif isinstance(piece, Part):
                self._parse(piece.data)
            elif not self._host.hosts.admits(piece.head, lambda head=piece.head: self._client_of(head)):  # type: ignore[misc]
                self._misdirect(piece.data)
                self._insist(requests)
            elif not self._is_routed or self._belongs_here(piece.head):
                if not self.transport.is_closing():  # else it was refused
                    self._parse(piece.data)
                    self._insist(requests)
            else:
                self._leave(piece.data + requests.rest())

    def _insist(self, requests: Requests) -> None:
        """See that a handshake which was parsed is one to the parser too: nothing behind it is read as a request."""
        if requests.state is BodyState.OPEN and not self._handed_on and not self.transport.is_closing():
            self.send_400_response("no WebSocket")

    def _client_of(self, head: Head) -> str:
        """Return the client address of a request, for the log: behind a proxy, it is not the peer's."""
        return self._host.routes.of(self._peer.peer_address, self.scheme or "http", head).address

    def _misdirect(self, head: bytes) -> None:
        """Have a request answered that asks for a host which is not served, whatever its path is."""
        self._is_first = self._is_kept = False
        self._is_misdirected, app, self.app = True, self.app, self._host.misdirected
        self._parse(head)
        self._is_misdirected, self.app = False, app

    def _belongs_here(self, head: Head) -> bool:
        """Find whose the request is, and tell the application so; or say that another worker has to serve it."""
        first, self._is_first = self._is_first, False
        kept, self._is_kept = self._is_kept, False
        assert not self._is_answering, "whose a request is, is asked between two requests"
        encrypted = self.scheme == "https"  # the primary has not seen the head, and only query ids lead elsewhere
        if first and not encrypted:
            return True
        peer = self._peer
        scheme = "https" if peer.is_relayed else self.scheme or "http"
        route = self._host.routes.of(peer.peer_address, scheme, head)
        if not self._differ and route.sticky_id is None and peer.sticky_id is None:
            return True  # one client, which is known, and no query id has brought it
        blamed = self._host.routes.crash_key(route)
        self.mark.rename(blamed)
        if self._host.routes.refused and self._refuse(blamed):
            return True
        may_leave = not kept and (not encrypted or self._host.routes.has_query_id(route))
        if may_leave and not self._host.routes.leads_here(route):
            return False
        if route.lacks_sticky_id and self._host.routes.pools(peer.peer_address):
            self._visits += 1
            if self._visits >= VISITS_HERE and not kept:
                return False  # the primary balances
        key = self._host.routes.key_of(route.address, route.sticky_id)
        # The new key first: where both are the same, its count must not reach 0 between the two calls.
        self._host.keys.enter(key)
        self._host.keys.leave(peer.key)
        self._peer = replace(
            peer,
            address=route.address,
            client_port=self._port if route.address == peer.peer_address else 0,
            scheme=route.scheme,
            sticky_id=route.sticky_id,
            new_sticky_id=self._host.routes.new_sticky_id() if route.lacks_sticky_id else None,
            key=key,
        )
        self.client = (self._peer.address, self._peer.client_port)
        self.app = self._host.from_here(self._peer, self)
        return True

    def _leave(self, received: bytes) -> None:
        """
        Give the connection to the worker that the request belongs to, once the last answer has left.

        Args:
            received: all bytes from the beginning of that request on. Until the primary has them, they are only here.
        """
        assert not self._is_answering, "nothing is in flight on a connection that is given back"
        self._leaving = True
        self._unset_keepalive_if_required()  # type: ignore[attr-defined]
        self.flow.pause_reading()
        if self.transport.is_closing():
            return
        if self._relay(received) if self.scheme == "https" else self._give_back(received):
            return
        self._tries += 1
        if self._tries > LEAVE_TRIES:
            self._keep(received)
        else:
            self.loop.call_later(LEAVE_PAUSE_S, self._leave, received)

    def _give_back(self, received: bytes) -> bool:
        """Give the connection away. Return False where that has to be tried again."""
        sock, peer = self.transport.get_extra_info("socket"), self._peer
        if self.transport.get_write_buffer_size() or not self._host.worker.give_back(
            sock.fileno(), peer.peer_address, self._port, received, peer.is_relayed
        ):
            return False
        self._host.given_back += 1
        self.transport.abort()  # closes our copy of the descriptor; the client sees nothing
        return True

    def _relay(self, received: bytes) -> bool:
        """Have a relay serve this TLS connection from here on. Return False where that has to be tried again."""
        assert self._requests is not None, "a connection with one client is never given away"
        if not relay(self._host, self.transport, self._peer, self._port, received + self._requests.rest()):
            return False
        self.mark.end()
        self._handed_on = True
        self.connections.discard(self)
        self.let_go()
        return True

    def _keep(self, received: bytes) -> None:
        """Serve here what belongs elsewhere: the primary does not take it, and an answer is better than none."""
        self._host.kept += 1
        log(logger, logging.WARNING, "request kept", **self._peer.log_fields, reason="the primary does not take it")
        assert self._requests is not None, "a connection with one client is never given back"
        self._leaving, self._tries, self._is_kept = False, 0, True
        received += self._requests.rest()
        self.flow.resume_reading()
        self._requests = Requests(self._host.limits.head)  # which reads that request once more, from its beginning
        self._requests.feed(received)
        self._go_on()

    # Becoming a WebSocket

    def _end_http(self, target: bytes, headers: list[tuple[bytes, bytes]], behind: bytes) -> None:
        """
        Become a WebSocket, or refuse to, once every request before is answered. The parser gets nothing any more.

        Args:
            target: of the request, as the client sent it.
            headers: names in lower case.
            behind: what has come after the head.
        """
        assert self._ending is None, "HTTP ends once on a connection"
        fault = handshake_fault(self.scope["method"], self.scope["http_version"], headers)
        if fault is not None:
            self._ending = partial(self._refuse_handshake, fault)
        else:
            self._ending = partial(self._upgrade, target, headers)
        self._behind = behind
        if self._is_answering:
            self.flow.pause_reading()
        else:
            self._ending(behind)

    def _refuse_handshake(self, fault: Refusal, _: bytes) -> None:
        """Say what is wrong with a handshake. The connection ends: what came behind it cannot be requests."""
        self.send_400_response(fault.reason)

    def _upgrade(self, target: bytes, headers: list[tuple[bytes, bytes]], behind: bytes) -> None:
        """
        Give the connection to what speaks WebSocket: our own transport, or uvicorn's for a hosted application.

        The head is put together anew, with one protocol to upgrade to. Both readers want it whole and alone.
        """
        assert not self._handed_on, "a connection is handed on once"
        # It is GET, by HTTP/1.1, and of several protocols that were offered this is the one that is taken up.
        head = [b"GET ", target, b" HTTP/1.1\r\nupgrade: websocket\r\n"]
        for name, value in headers:
            if name != b"upgrade":
                head += [name, b": ", value, b"\r\n"]
        request = b"".join([*head, b"\r\n"])
        if self._requests is not None:
            behind += self._requests.rest()
        # uvicorn has put no path into the scope of an upgrade: its WebSocket reads the head again, and so does ours.
        path = target.partition(b"?")[0].decode("latin-1")
        self._unset_keepalive_if_required()  # type: ignore[attr-defined]
        self.connections.discard(self)
        self._handed_on = True
        self.let_go()
        self.flow.resume_reading()
        if path in self._host.websocket_paths and not self._is_misdirected:
            self.mark.end()
            ours = WebSocketTransport(self._host.endpoint, self._peer, request + behind)
            self.transport.set_protocol(ours)
            ours.connection_made(self.transport)
            return
        hosted = HostedWebSocket(self._host, self.app, self._peer)
        self.transport.set_protocol(hosted)  # first: from here on it learns of the end
        hosted.connection_made(self.transport)
        hosted.open(request)
        if behind:
            hosted.data_received(behind)
