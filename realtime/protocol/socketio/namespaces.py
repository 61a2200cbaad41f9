"""
The namespaces of one client: what comes on its Engine.IO connection goes to the session of the namespace that it names.

Runs in the worker. `SocketIOUsers` makes a `Namespaces` for each connection (`base.EngineUser`). Packets are decoded
here, once; each namespace is a session of its own, with a connection id of its own. The connection is closed where a
packet is none, or does not fit the state of its namespace. It owns no task and no socket, and one timer.

    CONNECT         a session begins; the application's `on_connect` admits it or not (commands.py)
    EVENT           a command of the session; its handler runs beside those of other events
    ACK             given at once to the call that waits: a handler may be waiting for it, and others behind that
    DISCONNECT      a command, behind the events that came before it

A client may send to a namespace from which this server has just put it out: such packets are not looked at.

**Bounds.** Of packets: `Assembler`. Of the time for attachments that were announced: `ATTACHMENTS_S`; for a client that
joins nothing: `connect_s`. Of namespaces: `NAMESPACES_MAX`, and `REFUSED_MAX` for those that are refused. Of events:
`session.QUEUE_MAX`, above which the client is not read from.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, Final
from weakref import WeakValueDictionary

import msgspec

from realtime import codes
from realtime.log_lines import log
from realtime.protocol.socketio.commands import CLIENT_LEFT, CLIENT_LEFT_CODE, ClientEvent, Connect, Leave
from realtime.protocol.socketio.dialect import FORCED, SHUTTING_DOWN, SocketIODialect
from realtime.protocol.socketio.namespace_transport import Engine, NamespaceTransport
from realtime.protocol.socketio.packets import Assembler, BadPacket, Packet, PacketType, framed
from realtime.protocol.socketio.placeholders import BadPlaceholder, with_attachments
from realtime.session import opening
from realtime.session.base import Services
from realtime.session.session import Session
from realtime.session.state import Phase
from realtime.timing.timer_wheel import Timer

NAMESPACES_MAX: Final = 32  # of one connection; each is a session, with what a session costs
REFUSED_MAX: Final = 64  # CONNECTs of one connection that name a namespace which there is not
ATTACHMENTS_S: Final = 30.0  # for all attachments of a packet; as long as the body of a POST may take to arrive
INVALID: Final = b'{"message":"Invalid namespace"}'
TOO_MANY: Final = b'{"message":"too many namespaces"}'

CODES: Final = {
    "transport close": 1001,
    "transport error": 1006,
    "ping timeout": codes.NO_PONG.code,
    "parse error": codes.PROTOCOL.code,
    FORCED: codes.FORCE_RECONNECT.code,
    SHUTTING_DOWN: codes.SHUTDOWN.code,
    CLIENT_LEFT: CLIENT_LEFT_CODE,
}
"""The code that `on_disconnect` gets beside a reason of Socket.IO, as the other wire protocol has it."""

STORM: Final = "namespaces"
"""The limit that a client runs over which asks for too many, as `overruns` counts it."""

logger = logging.getLogger("realtime.socketio")

_decode: Final = msgspec.json.Decoder(list[Any]).decode


class SocketIOUsers:
    """Makes the namespaces of each client: the `users` of `SocketIO`. Shared by all clients of a worker."""

    def __init__(self, services: Services) -> None:
        """
        Args:
            services: what all sessions of the worker share.
        """
        # Engine.IO pings, once for all namespaces of a client.
        self.services: Final = dataclasses.replace(services, limits=msgspec.structs.replace(services.limits, ping_s=0))
        self._dialects: WeakValueDictionary[str, SocketIODialect] = WeakValueDictionary()

    def __call__(self, engine: Engine) -> Namespaces:
        """Return the namespaces of a connection that begins."""
        return Namespaces(self, engine)

    def dialect(self, namespace: str) -> SocketIODialect:
        """Return the one dialect of a namespace. It lives as long as it has sessions: patterns match many names."""
        dialect = self._dialects.get(namespace)
        if dialect is None:
            dialect = self._dialects[namespace] = SocketIODialect(namespace, self.services.application)
        return dialect


class Namespaces:
    """The namespaces of one client. Is the connection's `EngineUser`, and what their transports know of them."""

    __slots__ = (
        "_assembler", "_engine", "_incomplete", "_is_closed", "_paused", "_refused", "_sessions", "_timer",
        "_transport", "_users",
    )  # fmt: skip

    def __init__(self, users: SocketIOUsers, engine: Engine) -> None:
        self._users = users
        self._engine = engine
        self._assembler = Assembler()
        self._sessions: dict[str, Session | None] = {}  # None: this server has put the client out of the namespace
        self._paused: set[NamespaceTransport] | None = None  # those that have enough
        self._refused = 0
        self._transport = engine.handshake.transport  # what it is now: another one after an upgrade
        self._is_closed = False
        limits = users.services.limits
        self._incomplete: Timer | None = None  # while attachments are missing
        self._timer = users.services.wheel.after(limits.connect_s, Namespaces._late, self)

    # From the connection

    def message(self, data: str | bytes) -> None:
        """Take one message of the client. Never raises on what a client may send."""
        if self._is_closed:
            return
        try:
            packet = self._assembler.feed(data)
            if packet is None:
                if self._incomplete is None:
                    wheel = self._users.services.wheel
                    self._incomplete = wheel.after(ATTACHMENTS_S, Namespaces._late_attachments, self)
                return
            if self._incomplete is not None:
                self._incomplete.cancel()
                self._incomplete = None
            self._take(packet)
        except BadPacket as error:
            self._close_bad(str(error))

    def upgraded(self, transport: str) -> None:
        """Learn that the client has another transport: its connections say so, and those that are still to come."""
        self._transport = transport
        for session in self._open_sessions():
            session.state.identity.transport = transport

    def drained(self) -> None:
        """Learn that the client, which had not taken everything, has caught up."""
        for session in self._open_sessions():
            session.drained()

    def closed(self, reason: str) -> None:
        """Learn that the connection has ended: so have all sessions on it."""
        self._is_closed = True
        self._timer.cancel()
        if self._incomplete is not None:
            self._incomplete.cancel()
        code = CODES.get(reason, codes.FORCE_RECONNECT.code)
        sessions = self._open_sessions()
        self._sessions.clear()
        for session in sessions:
            _transport_of(session).abandon(session.connection_id)
            session.connection_lost(code, reason)

    def _open_sessions(self) -> list[Session]:
        return [session for session in self._sessions.values() if session is not None]

    def _late(self) -> None:
        """Close a connection that has joined nothing in time, as stock servers do (`connectTimeout`)."""
        if not self._is_closed and not any(self._open_sessions()):
            log(logger, logging.INFO, "x no namespace joined", address=self._engine.handshake.address)
            self._engine.close(FORCED)

    def _late_attachments(self) -> None:
        """Close a connection that announced attachments and did not send them: others of it wait behind these."""
        if not self._is_closed:
            self._close_bad(f"attachments did not come within {ATTACHMENTS_S:g} s")

    def _close_bad(self, why: str) -> None:
        log(logger, logging.INFO, "x bad packet", address=self._engine.handshake.address, reason=why)
        self._engine.close(FORCED)

    # Packets

    def _take(self, packet: Packet) -> None:
        """
        Give a packet to its session.

        Raises:
            BadPacket: the session cannot be there, or is not admitted.
        """
        session = self._sessions.get(packet.namespace)
        kind = packet.type
        if kind is PacketType.CONNECT:
            self._connect(packet, session)
            return
        if session is None:
            if packet.namespace not in self._sessions:
                raise BadPacket(f"{kind.name} in a namespace that was not joined")
            return
        if session.state.phase is not Phase.CONNECTED:
            raise BadPacket(f"{kind.name} before the answer to CONNECT")
        if kind is PacketType.EVENT or kind is PacketType.BINARY_EVENT:
            session.take((ClientEvent(packet.name, _values(packet)[1:], packet.id),))
        elif kind is PacketType.DISCONNECT:
            self._timer.cancel()  # it has joined something in time
            del self._sessions[packet.namespace]  # it may join again at once
            _transport_of(session).abandon(session.connection_id)
            session.take((Leave(),))
        else:
            _transport_of(session).acknowledged(packet.id, _values(packet))

    def _connect(self, packet: Packet, session: Session | None) -> None:
        """Begin a session, or refuse to."""
        namespace, users = packet.namespace, self._users
        if session is not None:
            raise BadPacket("CONNECT in a namespace that is joined already")
        if not users.services.application.has_namespace(namespace):
            self._refuse(namespace, INVALID)
            return
        if len(self._sessions) >= NAMESPACES_MAX and namespace not in self._sessions:
            self._refuse(namespace, TOO_MANY)
            return
        transport = NamespaceTransport(self._engine, self, namespace)
        session = opening.begin(users.services, users.dialect(namespace), transport, self._engine.handshake)
        session.state.identity.transport = self._transport
        self._sessions[namespace] = session
        session.take((Connect(packet.data),))

    def _refuse(self, namespace: str, refusal: bytes) -> None:
        """Answer a CONNECT that begins no session; too many of them are a storm, which ends."""
        self._refused += 1
        if self._refused > REFUSED_MAX:
            self._users.services.registry.overruns[STORM] += 1
            raise BadPacket(f"more than {REFUSED_MAX} refused CONNECTs")
        self._engine.send(framed(Packet(PacketType.CONNECT_ERROR, namespace, data=refusal)))

    # From the transports of the sessions

    def paused(self, transport: NamespaceTransport) -> None:
        """Read nothing more from the client: this namespace has enough."""
        if self._paused is None:
            self._paused = set()
        self._paused.add(transport)
        self._engine.pause_reading()

    def resumed(self, transport: NamespaceTransport) -> None:
        """Read on, where no other namespace has enough."""
        if self._paused:
            self._paused.discard(transport)
            if not self._paused:
                self._paused = None
                self._engine.resume_reading()

    def ended(self, transport: NamespaceTransport, code: int) -> None:
        """
        Learn that this server has ended a session. A client comes back by itself where its connection was closed, and
        not where it got DISCONNECT.
        """
        self.resumed(transport)
        session = self._sessions.get(transport.namespace)
        if session is None or session.transport is not transport:
            return  # the client has left, or the connection has ended
        transport.abandon(session.connection_id)
        if transport.was_opened:
            self._timer.cancel()  # as where the client leaves by itself
            self._sessions[transport.namespace] = None
        else:
            del self._sessions[transport.namespace]
        if codes.comes_back(code):
            self._engine.close(SHUTTING_DOWN if code == codes.SHUTDOWN.code else FORCED)


def _values(packet: Packet) -> list[Any]:
    """
    Return the elements of a packet's array, with its attachments in their places.

    Raises:
        BadPacket: they are nested more deeply than Python reads.
    """
    if packet.data is None:
        return []
    try:
        values: list[Any] = _decode(packet.data)
        return with_attachments(values, packet.attachments) if packet.attachments else values
    except (msgspec.MsgspecError, RecursionError, BadPlaceholder) as error:
        raise BadPacket(f"data of an event or acknowledgement: {error}") from error


def _transport_of(session: Session) -> NamespaceTransport:
    transport = session.transport
    assert isinstance(transport, NamespaceTransport), "a session of this protocol has no other transport"
    return transport
