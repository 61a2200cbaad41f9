"""
Socket.IO in one worker: begins each Engine.IO connection, over polling or a WebSocket, and finds it by its id.

Runs in the worker. It is the WebSockets' `SessionFactory`, and `polling` is the ASGI application for requests. What
connections are for is made by `users`: it never looks into a message.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

from realtime.protocol.socketio.base import EngineLimits, EngineUser
from realtime.protocol.socketio.endpoints import of_application, refusal_of_websocket
from realtime.protocol.socketio.engine import EngineConnection, Engines
from realtime.protocol.socketio.polling import PollingEndpoint
from realtime.protocol.socketio.upgrade import ProbedTransport, session_for
from realtime.timing.timer_wheel import TimerWheel
from realtime.transport.base import ClientSession, Handshake, Parameters, Transport
from realtime.transport.frames import TEXT

SID_BYTES: Final = 15  # of a random id: 20 characters, as clients and balancers know them


def random_sid() -> str:
    """Return an id that cannot be guessed and leads to no worker."""
    return secrets.token_urlsafe(SID_BYTES)


class SocketIO:
    """
    All Socket.IO clients of one worker. Is the transports' `SessionFactory`.

    Attributes:
        engines: their connections.
        polling: serves those that have no WebSocket.
    """

    subprotocols: Sequence[str] = ()

    def __init__(
        self,
        users: Callable[[EngineConnection], EngineUser],
        *,
        wheel: TimerWheel,
        limits: EngineLimits,
        allowed_origins: tuple[str, ...] = (),
        new_sid: Callable[[], str] = random_sid,
    ) -> None:
        """
        Args:
            users: makes what a connection carries messages for, at its handshake.
            wheel: the timers.
            limits: times and sizes.
            allowed_origins: of web pages that may poll, as for WebSockets.
            new_sid: makes an id of 20 characters that cannot be guessed.
        """
        self._users = users
        self._new_sid = new_sid
        self.engines: Final = Engines(limits, wheel)
        self.polling: Final = PollingEndpoint(self, allowed_origins=allowed_origins)

    def read_parameters(self, path: str, query: Mapping[str, str]) -> Parameters:
        """See `ParameterReader`. A WebSocket that cannot be served is refused here, before it is one."""
        refusal = refusal_of_websocket(query, self.engines.transport_of)
        return Parameters(
            query if query.get("sid") else of_application(query),
            takes_compression=False,  # frames are the same for a client that polls
            refusal=None if refusal is None else refusal.text,
        )

    def __call__(self, transport: Transport, handshake: Handshake, subprotocol: str | None) -> ClientSession:
        """Begin a connection over a WebSocket, or an upgrade of one that polls."""
        sid = handshake.query.get("sid")
        if sid:
            # Only a `WebSocketTransport` is given here: whatever polls comes by `polling`.
            return session_for(self.engines, self.engines.connections[sid], cast(ProbedTransport, transport))
        return self.begin(handshake, transport)

    def begin(self, handshake: Handshake, websocket: Transport | None) -> EngineConnection:
        """
        Begin a connection. Over a WebSocket its first packet is written; one that polls gets it as an answer, from the
        caller.
        """
        connection = EngineConnection(self.engines, self._new_sid(), handshake, websocket)
        if websocket is not None:
            connection.send(TEXT.frame(self.engines.open_packet(connection.sid, [])))
        try:
            connection.user = self._users(connection)
        except BaseException:
            connection.abandon()
            raise
        return connection
