"""
What all hosted connections of a worker share.

Runs in the worker. uvicorn serves them; what is added here: where a connection came from (client address, scheme,
sticky id) reaches the scope, a new sticky id is set as a cookie in a connection's first answer, and requests are logged
where that is asked for. It knows its connections by `HostedConnection` alone, and reads no byte of theirs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from email.utils import formatdate
from typing import Any, Final, Protocol, cast
from urllib.parse import unquote

from uvicorn.server import ServerState

from realtime.transport.access import logged
from realtime.transport.app_ids import AppIds
from realtime.transport.asgi import (
    CONNECTION,
    EXTENSION,
    ASGIApp,
    Connection,
    GiveBack,
    Receive,
    Scope,
    Send,
    uvicorn_config,
)
from realtime.transport.guarded import Limits
from realtime.transport.hosts import ANY_HOST, Hosts
from realtime.transport.opening import one_cookie
from realtime.transport.peer import Peer, session_cookie
from realtime.transport.serving import Serving, receiving
from realtime.transport.websocket_endpoint import WebSocketEndpoint
from sticky.handoff.journal import NO_MARK
from sticky.heads.first_bytes import path_and_query
from sticky.worker.routes import Routes

EVENT_STREAM: Final = b"text/event-stream"
SECURE: Final = {"http": "https", "ws": "wss"}

logger = logging.getLogger("realtime.asgi")


class HostedConnection(Protocol):
    """One connection, as the host knows it."""

    is_websocket: bool
    transport: Any  # None before the socket is there

    @property
    def is_open(self) -> bool:
        """Whether the application and the client can still write; for a WebSocket, its handshake is done."""

    def shutdown(self) -> None:
        """End it as politely as it can be: after the request in flight, or with a close frame."""


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
            parser: the HTTP parser, "httptools" or "h11".
            access_log: have a line in the log for each request.
            hosts: for which hosts requests are served.
            limits: the settings' defaults unless given.
        """
        self.app = logged(app) if access_log else app
        self.hosts = hosts
        self.misdirected: ASGIApp = logged(hosts.answer) if access_log else hosts.answer
        self.parser = parser
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
        self.config = uvicorn_config(app, self.limits, lifespan="off", interface="asgi3")
        self.config.load()
        self.state = ServerState()
        self.tick()

    def tick(self) -> None:
        """Set the date that answers carry. Somebody calls this each second."""
        date = formatdate(time.time(), usegmt=True).encode()
        self.state.default_headers = [(b"date", date), *self.config.encoded_headers]

    def from_here(self, peer: Peer, connection: Connection | None = None) -> FromHere:
        """Make the application as the requests of one client call it, whose connection can be cut where it is given."""
        return FromHere(self, peer, connection)

    def drain(self) -> None:
        """Close what is idle, and let every request in flight, or on its way, be its connection's last."""
        self.is_draining = True
        for connection in self._connections():
            if not connection.is_websocket:
                connection.shutdown()

    def websockets(self) -> list[HostedConnection]:
        """Return the hosted WebSockets that are open; `shutdown` closes each with 1012."""
        return [each for each in self._connections() if each.is_websocket and each.is_open]

    def event_streams(self, *, but: Collection[str]) -> list[asyncio.Transport]:
        """
        Return the transports of responses that have begun and are streams of events: closed, their clients return.

        The client said so by `Accept` (WHATWG HTML, section 9.2: an EventSource connects again after any end). Of other
        responses nothing is known but that they are in progress: cut, they would be lost.

        Args:
            but: paths that are no application's.
        """
        return [each.transport for each in self._connections() if _is_event_stream(each, but)]

    def abort_all(self) -> int:
        """Cut what is left, and name it. Return how many."""
        connections = self._connections()
        for connection in connections:
            scope = getattr(connection, "scope", None) or {}
            logger.warning(
                "x cut at the deadline: %s %s", scope.get("method", scope.get("type", "?")), scope.get("path")
            )
            if connection.transport is not None:
                connection.transport.abort()
        return len(connections)

    def _connections(self) -> list[HostedConnection]:
        # uvicorn types them as its own classes; hosted.py and hosted_websocket.py put nothing else there.
        return cast("list[HostedConnection]", list(self.state.connections))

    def statistics(self) -> dict[str, int]:
        return {
            "http": len(self.state.connections),
            "requests": self.state.total_requests,
            "given_back": self.given_back,
            "kept": self.kept,
        }


def _is_event_stream(connection: HostedConnection, but: Collection[str]) -> bool:
    if connection.is_websocket or connection.transport is None or connection.transport.is_closing():
        return False
    cycle = cast("Any", connection).cycle  # uvicorn's: the request that is answered, or was last
    if cycle is None or cycle.response_complete or not cycle.response_started or cycle.scope["path"] in but:
        return False
    return any(name == b"accept" and EVENT_STREAM in value for name, value in cycle.scope["headers"])


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
