"""
ASGI applications on adopted sockets, through uvicorn's protocol classes.

Runs in the worker. uvicorn parses HTTP and speaks ASGI; it never listens here, never starts a process and never handles
a signal. What is ours: where a connection came from (client, scheme, session) reaches the scope, a new session is set
as a cookie on a connection's first answer, and a request for a WebSocket of ours that comes as the second one on a
kept-alive connection reaches our own transport.

The constructors used here have not changed since uvicorn 0.21; tests/realtime/transport/test_uvicorn_contract.py guards
each thing that is not its public interface.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from email.utils import formatdate
from typing import Any, Final

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from realtime.errors import RealtimeError
from realtime.transport.peer import Peer, session_cookie
from realtime.transport.websocket import WebSocketEndpoint
from sticky.first_bytes import Head, Refusal
from sticky.requests import Part, Requests, State
from sticky.routes import Routes

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
GiveBack = Callable[[int, str, int, bytes], bool]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

VISITS_HERE: Final = 8  # first visits that a pooled connection brings to one worker before another has its turn
LEAVE_TRIES: Final = 250  # to give a connection back, while its last answer leaves or the channel is full
LEAVE_PAUSE_S: Final = 0.02
EXTENSION: Final = "realtime"  # key in scope["state"] and scope["extensions"]
SECURE: Final = {"http": "https", "ws": "wss"}

logger = logging.getLogger("realtime.asgi")


class StartupFailed(RealtimeError):
    """The application's lifespan refused to start."""

    def __str__(self) -> str:
        return "the application's startup (ASGI lifespan) failed; its own log lines above say why"


class Lifespan:
    """The lifespan of one application in this worker, and the state that it filled."""

    def __init__(self, app: ASGIApp) -> None:
        config = _config(app, lifespan="auto")
        config.load()
        self._lifespan: Any = config.lifespan_class(config)

    async def startup(self) -> None:
        """
        Raises:
            StartupFailed: the application says that it cannot start.
        """
        await self._lifespan.startup()
        if self._lifespan.should_exit:
            raise StartupFailed

    async def shutdown(self) -> None:
        await self._lifespan.shutdown()

    @property
    def state(self) -> dict[str, Any]:
        """A copy of what the application left for its requests."""
        return dict(self._lifespan.state)


class ASGIHost:
    """What all hosted connections of a worker share."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        place: dict[str, Any],
        cookie: str,
        websocket_path: str,
        endpoint: WebSocketEndpoint,
        on_lost: Callable[[], None],
        routes: Routes,
        give_back: GiveBack,
    ) -> None:
        """
        Args:
            app: answers every request.
            place: where this is: slot, worker and node, for the scope.
            cookie: the name of the session's cookie.
            websocket_path: requests for a WebSocket there go to `endpoint`.
            on_lost: told of each connection's end, unless it ended as one of `endpoint`.
            routes: which requests belong to this worker.
            give_back: brings a connection to the worker to which its next request belongs.
        """
        self.app = app
        self.place = place
        self.cookie = cookie
        self.websocket_path = websocket_path
        self.endpoint = endpoint
        self.on_lost = on_lost
        self.routes = routes
        self.give_back = give_back
        self.is_draining = False
        self.given_back = 0
        self.kept = 0  # requests that belonged elsewhere and had to be served here
        self.config = _config(app, lifespan="off")
        self.config.load()
        self.state = ServerState()
        self.tick()

    def tick(self) -> None:
        """Set the date that answers carry. Somebody calls this each second."""
        date = formatdate(time.time(), usegmt=True).encode()
        self.state.default_headers = [(b"date", date), *self.config.encoded_headers]

    def protocol(self, peer: Peer, received: bytes = b"") -> asyncio.Protocol:
        """Make the protocol for one descriptor. `received`: bytes already taken from it, to be read first."""
        return HostedHTTP(self, peer, received)

    def drain(self) -> None:
        """Close what is idle, and let every request in flight, or on its way, be its connection's last."""
        self.is_draining = True
        for connection in list(self.state.connections):
            if isinstance(connection, HostedHTTP):
                connection.shutdown()

    def websockets(self) -> list[HostedWebSocket]:
        """Return the hosted WebSockets whose handshake is done; `shutdown` closes each with 1012."""
        return [
            each
            for each in self.state.connections
            if isinstance(each, HostedWebSocket) and each.handshake_complete and not each.close_sent
        ]

    def abort_all(self) -> int:
        """Cut what is left, and name it. Return how many."""
        connections = list(self.state.connections)
        for connection in connections:
            scope = getattr(connection, "scope", None) or {}
            logger.warning(
                "x cut at the deadline: %s %s", scope.get("method", scope.get("type", "?")), scope.get("path")
            )
            if connection.transport is not None:
                connection.transport.abort()
        return len(connections)

    def statistics(self) -> dict[str, int]:
        return {
            "http": len(self.state.connections),
            "requests": self.state.total_requests,
            "given_back": self.given_back,
            "kept": self.kept,
        }


def _config(app: ASGIApp, *, lifespan: Any) -> Config:
    return Config(
        app,
        lifespan=lifespan,
        http=HttpToolsProtocol,
        ws=WebSocketsSansIOProtocol,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # the primary did that
        server_header=False,
        timeout_keep_alive=75,
    )


class FromHere:
    """The application, as one connection calls it: with the scope that belongs to this client."""

    __slots__ = ("_cookie", "_host", "_peer")

    def __init__(self, host: ASGIHost, peer: Peer) -> None:
        self._host = host
        self._peer = peer
        self._cookie = peer.new_session  # until the first answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        peer = self._peer
        scope["client"] = (peer.client, peer.client_port)
        if peer.scheme == "https":
            scope["scheme"] = SECURE.get(scope.get("scheme", "http"), scope.get("scheme"))
        place = {**self._host.place, "session": peer.session or peer.new_session}
        scope.setdefault("state", {})[EXTENSION] = place
        scope.setdefault("extensions", {})[EXTENSION] = place
        await self._host.app(scope, receive, self._with_cookie(send) if self._cookie else send)

    def _with_cookie(self, send: Send) -> Send:
        async def sending(message: Any) -> None:
            if self._cookie and message["type"] in ("http.response.start", "websocket.accept"):
                cookie = session_cookie(self._host.cookie, self._cookie, self._peer.scheme)
                self._cookie = None
                message = {**message, "headers": [*message.get("headers", ()), (b"set-cookie", cookie.encode())]}
            await send(message)

        return sending


class HostedHTTP(HttpToolsProtocol):
    """
    One hosted connection: HTTP, until it becomes a WebSocket.

    Where its requests can be of different clients, each is looked at before the parser sees it: the next one only when
    the last was answered. One that belongs to another worker goes there, with the connection.
    """

    def __init__(self, host: ASGIHost, peer: Peer, received: bytes) -> None:
        super().__init__(config=host.config, server_state=host.state, app_state={})
        self.app = FromHere(host, peer)
        self._host = host
        self._peer = peer
        self._port = peer.client_port if peer.client == peer.address else 0  # of the other end of the socket
        self._received = received
        self._handed_on = False
        self._requests = Requests() if host.routes.differ(peer.address) else None
        self._is_first = True  # the primary has looked at that one
        self._is_begun = True  # a request has begun to arrive; the first one was seen by the primary
        self._is_last = host.is_draining  # the answer under way is the last one here
        self._visits = 0  # of clients without a session
        self._leaving = False
        self._tries = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.client = (self._peer.client, self._peer.client_port)
        if self._received:  # inside connection_made: later, what the socket brings would come first
            received, self._received = self._received, b""
            self.data_received(received)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self._handed_on:
            self._host.on_lost()

    def shutdown(self) -> None:
        """Close when nothing is under way; else let the request that is be the last."""
        if not self._is_begun and not self._is_answering and not self.transport.is_closing():
            self.transport.close()
            return
        self._is_last = True
        if self._is_answering:
            self.cycle.keep_alive = False

    # Requests, one by one

    def on_message_begin(self) -> None:
        self._is_begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self._is_last and self.cycle is not None:
            self.cycle.keep_alive = False

    def data_received(self, data: bytes) -> None:
        if self._requests is None:
            super().data_received(data)
            return
        self._requests.feed(data)
        self._go_on()

    def on_response_complete(self) -> None:
        self._is_begun = False
        super().on_response_complete()
        if self._requests is not None and not self.transport.is_closing():
            self._go_on()

    def _go_on(self) -> None:
        """Serve what has come, up to a request that has to wait for the answer to the one before it."""
        requests = self._requests
        assert requests is not None
        while not (self._handed_on or self._leaving or self.transport.is_closing()):
            if requests.state is State.BETWEEN and self._is_answering:
                self.flow.pause_reading()
                return
            piece = requests.next()
            if piece is None:
                return
            if isinstance(piece, Refusal):
                self.send_400_response(piece.reason)
            elif isinstance(piece, Part) or self._belongs_here(piece.head):
                super().data_received(piece.data)
            else:
                self._leave(piece.data + requests.rest())

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _belongs_here(self, head: Head) -> bool:
        """Find whose the request is, and tell the application so; or say that another worker has to serve it."""
        first, self._is_first = self._is_first, False
        encrypted = self.scheme == "https"  # the primary has not seen the head, and no other worker can go on
        if first and not encrypted:
            return True
        peer = self._peer
        route = self._host.routes.of(peer.address, self.scheme or "http", head)
        if not encrypted and not self._host.routes.leads_here(route):
            return False
        if route.lacks_session and self._host.routes.pools(peer.address):
            self._visits += 1
            if self._visits >= VISITS_HERE:
                return False  # the primary balances
        self._peer = replace(
            peer,
            client=route.client,
            client_port=self._port if route.client == peer.address else 0,
            scheme=route.scheme,
            session=route.session,
            new_session=self._host.routes.new_session() if route.lacks_session else None,
        )
        self.client = (self._peer.client, self._peer.client_port)
        self.app = FromHere(self._host, self._peer)
        return True

    def _leave(self, received: bytes) -> None:
        """Give the connection to the worker that the request belongs to, once the last answer has left."""
        self._leaving = True
        self._unset_keepalive_if_required()
        self.flow.pause_reading()
        if self.transport.is_closing():
            return
        sock = self.transport.get_extra_info("socket")
        if not self.transport.get_write_buffer_size() and self._host.give_back(
            sock.fileno(), self._peer.address, self._port, received
        ):
            self._host.given_back += 1
            self.transport.abort()  # closes our copy of the descriptor; the client sees nothing
            return
        self._tries += 1
        if self._tries > LEAVE_TRIES:
            self._keep(received)
        else:
            self.loop.call_later(LEAVE_PAUSE_S, self._leave, received)

    def _keep(self, received: bytes) -> None:
        """Serve here what belongs elsewhere: the primary does not take it, and an answer is better than none."""
        self._host.kept += 1
        logger.warning("! %s: a request of another worker's is served here: the primary does not take it", self._peer)
        self._leaving, self._tries, self._is_first = False, 0, True
        self.flow.resume_reading()
        assert self._requests is not None
        self._requests.feed(received)
        self._go_on()

    def handle_websocket_upgrade(self) -> None:
        """Give the connection to what speaks WebSocket: our own transport, or uvicorn's for a hosted application."""
        head = [self.scope["method"].encode(), b" ", self.url, b" HTTP/1.1\r\n"]
        for name, value in self.scope["headers"]:
            head += [name, b": ", value, b"\r\n"]
        request = b"".join([*head, b"\r\n"])
        if self._requests is not None:
            request += self._requests.rest()
        # uvicorn has put no path into the scope of an upgrade: its WebSocket reads the head again, and so does ours.
        path = self.url.partition(b"?")[0]
        self.connections.discard(self)
        self._handed_on = True
        if path == self._host.websocket_path.encode():
            ours = self._host.endpoint.transport(self._peer, request)
            self.transport.set_protocol(ours)
            ours.connection_made(self.transport)
            return
        hosted = HostedWebSocket(self._host, self.app)
        self.transport.set_protocol(hosted)  # first: from here on it is the one who hears of the end
        hosted.connection_made(self.transport)
        hosted.data_received(request)


class HostedWebSocket(WebSocketsSansIOProtocol):
    """One WebSocket of a hosted application."""

    def __init__(self, host: ASGIHost, app: Any) -> None:
        super().__init__(config=host.config, server_state=host.state, app_state={})
        self.app = app
        self._host = host

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._host.on_lost()
