"""
ASGI applications on adopted sockets, through uvicorn's protocol classes.

Runs in the worker. uvicorn parses HTTP and speaks ASGI; it never listens here, never starts a process and never handles
a signal. What is ours: where a connection came from (client, scheme, session) reaches the scope, a new session is set
as a cookie on a connection's first answer, and requests are logged where that is asked for. One connection is in
hosted.py.

The constructors used here have not changed since uvicorn 0.21; tests/realtime/transport/test_uvicorn_contract.py guards
each thing that is not its public interface.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from email.utils import formatdate
from typing import Any, Final, Protocol
from urllib.parse import unquote

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from realtime.errors import RealtimeError
from realtime.transport.access import logged
from realtime.transport.app_ids import AppIds
from realtime.transport.guarded import Limits
from realtime.transport.hosted import PARSERS, Hosted
from realtime.transport.hosted_websocket import HostedWebSocket
from realtime.transport.hosts import ANY_HOST, Hosts
from realtime.transport.opening import one_cookie
from realtime.transport.peer import Peer, session_cookie
from realtime.transport.serving import Serving, receiving
from realtime.transport.websocket import WebSocketEndpoint
from sticky.first_bytes import path_and_query
from sticky.journal import NO_MARK, Mark
from sticky.routes import Routes

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
GiveBack = Callable[[int, str, int, bytes], bool]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

EXTENSION: Final = "realtime"  # key in scope["state"] and scope["extensions"]
CONNECTION: Final = "realtime.connection"  # key in scope["state"]: what brought the request, a `Connection`
SECURE: Final = {"http": "https", "ws": "wss"}

logger = logging.getLogger("realtime.asgi")


class Connection(Protocol):
    """What brings requests, one after another."""

    mark: Mark

    def has_begun(self) -> bool:
        """Whether the answer to its request has begun, and is not only prepared."""

    def cut(self) -> None:
        """End it now; what was not sent is lost."""

    def taken(self) -> int:
        """Return how much its peer has taken so far, as `taken.taken` does."""

    def hold_little(self, wanted: bool) -> None:
        """Have the kernel hold little of what its peer does not take, or no more so, as `taken.hold_little` does."""

    def expect_peer(self) -> None:
        """
        Take the peer for gone once it has said its end of the stream, and leave it to the caller to end a slow one:
        what is answered now is a stream, which is nothing to who is gone.
        """


class StartupFailed(RealtimeError):
    """The application's lifespan refused to start."""

    def __str__(self) -> str:
        return "the application's startup (ASGI lifespan) failed; its own log lines above say why"


class Lifespan:
    """The lifespan of one application in this worker, and the state that it filled."""

    def __init__(self, app: ASGIApp) -> None:
        config = _config(app, Limits(), lifespan="auto")
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
        """What the application left for its requests. Not to be changed."""
        state: dict[str, Any] = self._lifespan.state
        return state


class ASGIHost:
    """What all hosted connections of a worker share."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        place: dict[str, Any],
        cookie: str,
        websocket_paths: Collection[str],
        endpoint: WebSocketEndpoint,
        on_lost: Callable[[str], None],
        routes: Routes,
        give_back: GiveBack,
        parser: str = "httptools",
        access_log: bool = False,
        hosts: Hosts = ANY_HOST,
        limits: Limits | None = None,
    ) -> None:
        """
        Args:
            app: answers every request.
            place: where this is: slot, worker and node, for the scope.
            cookie: the name of the session's cookie.
            websocket_paths: requests for a WebSocket there go to `endpoint`.
            on_lost: told of each connection's end, by its peer's address, unless it ended as one of `endpoint`.
            routes: which requests belong to this worker.
            give_back: brings a connection to the worker to which its next request belongs.
            parser: who parses HTTP, "httptools" or "h11".
            access_log: have a line in the log for each request.
            hosts: for which hosts requests are served.
            limits: the settings' defaults unless given.
        """
        self.app = logged(app) if access_log else app
        self.hosts = hosts
        self.misdirected: ASGIApp = logged(hosts.answer) if access_log else hosts.answer
        self._hosted = PARSERS[parser]
        self.place = place
        self.cookie = cookie
        self.websocket_paths = websocket_paths
        self.endpoint = endpoint
        self.on_lost = on_lost
        self.routes = routes
        self.keys = routes.keys
        self.ids = AppIds(routes.header, routes) if routes.header is not None else None
        self.give_back = give_back
        self.is_draining = False
        self.given_back = 0
        self.kept = 0  # requests that belonged elsewhere and had to be served here
        self.slow = 0
        self.limits = limits or Limits()
        self.config = _config(app, self.limits, lifespan="off", interface="asgi3")
        self.config.load()
        self.state = ServerState()
        self.tick()

    def tick(self) -> None:
        """Set the date that answers carry. Somebody calls this each second."""
        date = formatdate(time.time(), usegmt=True).encode()
        self.state.default_headers = [(b"date", date), *self.config.encoded_headers]

    def protocol(self, peer: Peer, received: bytes = b"") -> asyncio.Protocol:
        """Make the protocol for one descriptor. `received`: bytes already taken from it, to be read first."""
        return self._hosted(self, peer, received)

    def from_here(self, peer: Peer, connection: Connection | None = None) -> FromHere:
        """Make the application as the requests of one client call it, whose connection can be cut where it is given."""
        return FromHere(self, peer, connection)

    def drain(self) -> None:
        """Close what is idle, and let every request in flight, or on its way, be its connection's last."""
        self.is_draining = True
        for connection in list(self.state.connections):
            if isinstance(connection, Hosted):
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


def _config(app: ASGIApp, limits: Limits, *, lifespan: Any, interface: Any = "auto") -> Config:
    return Config(
        app,
        lifespan=lifespan,
        interface=interface,
        http=HttpToolsProtocol,  # and no other is looked for
        ws=WebSocketsSansIOProtocol,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # the primary did that
        server_header=False,
        ws_max_size=limits.hosted_message_bytes,
        ws_ping_interval=limits.ping_s,
        ws_ping_timeout=limits.pong_s,
    )


def _find_path(scope: Scope) -> None:
    """Have the scope say the path of an absolute target (RFC 9112, section 3.2.2), which h11 leaves as it is."""
    scope["raw_path"] = path_and_query(scope["raw_path"])
    scope["path"] = unquote(scope["raw_path"].decode("ascii"))


class FromHere:
    """The application, as one connection calls it: with the scope that belongs to this client."""

    __slots__ = ("_connection", "_cookie", "_host", "_ids", "_peer", "_place")

    def __init__(self, host: ASGIHost, peer: Peer, connection: Connection | None) -> None:
        self._host = host
        self._peer = peer
        self._connection = connection
        self._cookie = peer.new_sticky_id  # until the first answer
        self._ids = host.ids
        session = peer.sticky_id or peer.new_sticky_id
        self._place = {**host.place, "session": self._ids.plain(session) if self._ids is not None else session}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        peer = self._peer
        if scope["path"][:1] != "/":
            _find_path(scope)
        scope["client"] = (peer.address, peer.client_port)
        if peer.scheme == "https":
            scope["scheme"] = SECURE.get(scope.get("scheme", "http"), scope.get("scheme"))
        scope["headers"] = one_cookie(scope["headers"])
        place = self._place.copy()
        state = scope.setdefault("state", {})
        state[EXTENSION], state[CONNECTION] = place, self._connection
        scope.setdefault("extensions", {})[EXTENSION] = place
        mark = peer.mark
        is_websocket = scope["type"] == "websocket"
        if is_websocket and mark is not NO_MARK:
            receive = receiving(receive, mark)
        if self._ids is not None:
            send = self._ids.translate(scope, send)
        call = self._host.app(scope, receive, self._with_cookie(send) if self._cookie else send)
        if is_websocket or mark is NO_MARK or self._connection is None:
            return call
        return Serving(call, mark, self._connection.has_begun)

    def _with_cookie(self, send: Send) -> Send:
        async def sending(message: Any) -> None:
            if self._cookie and message["type"] in ("http.response.start", "websocket.accept"):
                cookie = session_cookie(self._host.cookie, self._cookie, self._peer.scheme)
                self._cookie = None
                message = {**message, "headers": [*message.get("headers", ()), (b"set-cookie", cookie.encode())]}
            await send(message)

        return sending
