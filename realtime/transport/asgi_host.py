"""
What all hosted connections of a worker share.

Runs in the worker. uvicorn serves them; what is added here: where a connection came from (client address, scheme,
sticky id) reaches the scope, a new sticky id is set as a cookie in a connection's first answer, and requests are logged
where that is asked for. It knows its connections by `HostedConnection` alone, and reads no byte of theirs.

uvicorn keeps its connections in a set (`ServerState.connections`), into which each puts itself when it is made, and out
of which it takes itself when it is lost. That set is the only list of hosted connections there is: a drain goes by it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Collection
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Final, Protocol, cast
from urllib.parse import unquote

from uvicorn.server import ServerState

from realtime.log_lines import log
from realtime.settings import Settings
from realtime.transport.access import logged
from realtime.transport.adopted import ConnectionOwner
from realtime.transport.app_ids import AppIds
from realtime.transport.asgi import (
    CONNECTION,
    EXTENSION,
    ASGIApp,
    Receive,
    RequestConnection,
    Scope,
    Send,
    uvicorn_config,
)
from realtime.transport.guarded import HostedLimits
from realtime.transport.hosts import ANY_HOST, Hosts
from realtime.transport.opening import one_cookie
from realtime.transport.peer import Peer, session_cookie
from realtime.transport.probe_paths import PROBES, below
from realtime.transport.serving import Serving, receiving
from realtime.transport.websocket_endpoint import WebSocketEndpoint
from sticky.handoff.journal import NO_MARK
from sticky.heads.first_bytes import path_and_query
from sticky.keys.hashing import Key, Slot
from sticky.worker.routes import Routes

EVENT_STREAM: Final = b"text/event-stream"
REQUEST_CUT: Final = "x request cut"  # at the deadline of a drain
SECURE: Final = {"http": "https", "ws": "wss"}

logger = logging.getLogger("realtime.asgi")


class HostedConnection(Protocol):
    """One connection, as the host knows it."""

    is_websocket: bool
    """Whether frames are read on it. It is false until the handshake was handed on."""
    transport: Any
    """None before the socket is there."""

    @property
    def key(self) -> Key | None:
        """The key of the client that uses it; None where it has none, or waits for a request."""

    @property
    def is_open(self) -> bool:
        """Whether the application and the client can still write; for a WebSocket, its handshake is done."""

    def shutdown(self) -> None:
        """End it as politely as it can be: after the request in flight, or with a close frame."""


class HostingWorker(Protocol):
    """The worker's end of the handoff, as hosted connections need it: `sticky.Worker`."""

    slot: Slot
    worker_id: str
    node: str
    routes: Routes
    """Which requests belong to this worker."""

    def give_back(self, fd: int, peer_address: str, port: int, received: bytes, is_relayed: bool = False) -> bool:
        """Bring a connection to the worker to which its next request belongs. False: not now."""


@dataclass(frozen=True, slots=True)
class HostedOptions:
    """How hosted applications are served."""

    limits: HostedLimits = field(default_factory=HostedLimits)
    hosts: Hosts = ANY_HOST
    """For which hosts requests are served."""
    parser: str = Settings.http
    """The HTTP parser, "httptools" or "h11"."""
    session_cookie: str = Settings.session_cookie
    """The name of the cookie that gets a new sticky id."""
    access_log: bool = Settings.access_log
    """Have a line in the log for each request."""
    reads_query_ids: bool = False
    """Route each request, for it may have the id of a session that another worker has (`Affinity.query_id_of`)."""
    unlogged: Collection[str] = PROBES
    """Paths of requests that get none: a balancer's, that come every second or two."""

    @classmethod
    def from_settings(cls, settings: Settings, hosts: Hosts, *, reads_query_ids: bool = False) -> HostedOptions:
        """Return the options that are set. `hosts` are shared with our own WebSockets, and count for both."""
        return cls(
            HostedLimits.from_settings(settings),
            hosts,
            settings.http,
            settings.session_cookie,
            settings.access_log,
            reads_query_ids,
            unlogged=below(settings.own_prefix, PROBES),
        )


class ASGIHost:
    """
    What all hosted connections of a worker share.

    Attributes:
        app: answers every request; with lines for each request where that is set.
        misdirected: answers requests for hosts that are not served.
        config: uvicorn's, which its protocol classes want. It is loaded here, once for all connections.
        state: uvicorn's: the connections, and the headers that every answer gets.
        reads_query_ids: each request of a connection is routed, whatever the stickiness.
        ids: translates ids that the application makes; None where no header carries them.
        is_draining: each answer is its connection's last.
        given_back: connections that went to another worker between two requests.
        relayed: connections whose bytes are relayed to another worker, because TLS ends here.
        kept: requests that belonged elsewhere and had to be served here.
        slow: connections that were cut off because their peer took nothing.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        worker: HostingWorker,
        owner: ConnectionOwner,
        endpoint: WebSocketEndpoint,
        websocket_paths: Collection[str],
        options: HostedOptions | None = None,
    ) -> None:
        """
        Args:
            app: answers every request.
            worker: knows where requests belong, and gives connections back.
            owner: hears of each connection's end, unless it ended as one of `endpoint`.
            endpoint: serves our own WebSockets.
            websocket_paths: requests for a WebSocket there go to `endpoint`.
            options: the settings' defaults unless given.
        """
        options = options or HostedOptions()
        self.hosts, self.limits, self.parser = options.hosts, options.limits, options.parser
        self.cookie = options.session_cookie
        self.reads_query_ids = options.reads_query_ids
        self.app = logged(app, but=options.unlogged) if options.access_log else app
        self.misdirected: ASGIApp = logged(self.hosts.answer) if options.access_log else self.hosts.answer
        self.worker = worker
        self.routes, self.keys = worker.routes, worker.routes.keys
        self.place = {"slot": worker.slot, "worker": worker.worker_id, "node": worker.node}  # for the scope
        self.ids = AppIds(self.routes.header, self.routes) if self.routes.header is not None else None
        self.owner = owner
        self.endpoint = endpoint
        self.websocket_paths = websocket_paths
        self.is_draining = False
        self.given_back = 0
        self.relayed = 0
        self.kept = 0
        self.slow = 0
        self.config = uvicorn_config(app, self.limits, lifespan="off", interface="asgi3")
        self.config.load()
        self.state = ServerState()
        self.tick()

    def tick(self) -> None:
        """
        Set the date that answers carry (RFC 9110, section 6.6.1). The owner must call this each second: made anew for
        each answer, the date would cost more than the rest of the head.
        """
        date = formatdate(time.time(), usegmt=True).encode()
        self.state.default_headers = [(b"date", date), *self.config.encoded_headers]

    def from_here(self, peer: Peer, connection: RequestConnection | None = None) -> FromHere:
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

    def staying_keys(self, *, but: Collection[str]) -> set[Key]:
        """
        Return the keys of connections that are in use, and cannot go to another worker.

        Args:
            but: paths that are no application's.
        """
        return {
            each.key
            for each in self._connections()
            if each.key is not None and (getattr(each, "scope", None) or {}).get("path") not in but
        }

    def abort_all(self) -> int:
        """Cut what is left at the deadline of a drain, and log each. Return how many."""
        assert self.is_draining, "connections are cut when a worker ends, and not before"
        connections = self._connections()
        for connection in connections:
            scope = getattr(connection, "scope", None) or {}
            address = (scope.get("client") or (None,))[0]
            method = scope.get("method", scope.get("type"))
            log(logger, logging.WARNING, REQUEST_CUT, address=address, method=method, path=scope.get("path"))
            if connection.transport is not None:
                connection.transport.abort()
        return len(connections)

    def _connections(self) -> list[HostedConnection]:
        # uvicorn types them as its own classes; hosted.py and hosted_websocket.py put nothing else there.
        return cast("list[HostedConnection]", list(self.state.connections))

    def statistics(self) -> dict[str, int]:
        """Count the connections now, and what happened to those before."""
        return {
            "http": len(self.state.connections),
            "requests": self.state.total_requests,
            "given_back": self.given_back,
            "relayed": self.relayed,
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
    """
    The application, as one connection calls it: with the scope that belongs to this client.

    uvicorn builds the scope out of the socket, which knows a proxy at most. Here it gets what the primary recognised:
    the client address, the scheme of the outermost hop, the place that serves, and the cookie of a new sticky id.
    """

    __slots__ = ("_connection", "_cookie", "_host", "_ids", "_peer", "_place")

    def __init__(self, host: ASGIHost, peer: Peer, connection: RequestConnection | None) -> None:
        """
        Args:
            host: has the application.
            peer: the client of the requests that are called with this object.
            connection: brings them; None where it cannot be cut.
        """
        self._host = host
        self._peer = peer
        self._connection = connection
        self._cookie = peer.new_sticky_id  # until the first answer
        self._ids = host.ids
        session = peer.sticky_id or peer.new_sticky_id
        self._place = {**host.place, "session": self._ids.plain(session) if self._ids is not None else session}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Call the application. The scope is changed in place: uvicorn makes a new one for each request."""
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
        return Serving(call, mark, self._connection)

    def _with_cookie(self, send: Send) -> Send:
        """
        Return a `send` that adds the cookie of the new sticky id to the first answer, and to no other.

        An answer that a cache shares would give many clients one sticky id. That is the application's to prevent, as
        with any cookie (RFC 9111, section 7.3).
        """

        async def sending(message: Any) -> None:
            if self._cookie and message["type"] in ("http.response.start", "websocket.accept"):
                cookie = session_cookie(self._host.cookie, self._cookie, self._peer.scheme)
                self._cookie = None
                message = {**message, "headers": [*message.get("headers", ()), (b"set-cookie", cookie.encode())]}
            await send(message)

        return sending
