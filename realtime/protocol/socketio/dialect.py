"""
Socket.IO in one namespace: what a session asks of its wire protocol.

Runs in the worker. One `SocketIODialect` serves all sessions of a namespace. It knows no client: it encodes what the
server sends, and has commands.py run what clients send. Packets are decoded in namespaces.py, for those of one
connection may be of several sessions.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, NoReturn

from realtime import codes
from realtime.broker.base import Room
from realtime.codes import UnsubscribeCode
from realtime.protocol.socketio import commands
from realtime.protocol.socketio.encoder import SocketIOEncoder, packed_values
from realtime.protocol.socketio.namespace_transport import NamespaceTransport
from realtime.protocol.socketio.packets import Packet, PacketType, framed
from realtime.rooms.options import Declarations
from realtime.session.base import BadMessage, Dialect, Subscribed
from realtime.session.session import Session
from realtime.transport.base import Transport

NAME: Final = "socketio"

NAMESPACE_LEFT: Final = "server namespace disconnect"
FORCED: Final = "forced close"
SHUTTING_DOWN: Final = "server shutting down"


class SocketIODialect(Dialect):
    """Socket.IO as the clients of one namespace speak it."""

    name = NAME
    label = NAME
    protocol = NAME
    is_binary = True
    shows_changes = False
    waits_for = asyncio.FIRST_COMPLETED
    ping = b""  # Engine.IO pings, once for all namespaces of a client

    def __init__(self, namespace: str, declarations: Declarations) -> None:
        """
        Args:
            namespace: of the sessions that it is for. An encoder's bytes have its name, so they are for no other.
            declarations: of the application.
        """
        self.namespace = namespace
        self.encoder = SocketIOEncoder(namespace, declarations)
        self.delta_encoder = self.encoder
        self._left = framed(Packet(PacketType.DISCONNECT, namespace))

    def decode(self, message: bytes | str) -> NoReturn:
        """Refuse: a message of the client belongs to no session before its packet is decoded."""
        raise BadMessage("packets are decoded for all namespaces of a connection")

    execute = commands.execute

    def is_publication(self, command: commands.Command) -> bool:
        """Whether it may run while others are in flight: events wait for no other event's handler."""
        return True

    def message(self, data: bytes) -> bytes:
        """Return a message that belongs to no room: the event that stock libraries send it as."""
        return self.encoder.event(b'["message",' + data + b"]")

    def subscribed(self, subscribed: Subscribed) -> bytes:
        """Return what the client recovers: of its subscription it gets to know nothing."""
        return b"".join([self.encoder.publication(subscribed.room, each) for each in subscribed.publications])

    def unsubscribed(self, room: Room, code: UnsubscribeCode) -> bytes:
        """Return nothing: clients do not know in which rooms they are."""
        return b""

    def refreshed(self, expire_at_s: float | None) -> bytes:
        """Return nothing: clients do not know when they expire."""
        return b""

    def disconnected(self, code: int, reason: str) -> bytes:
        """
        Return the end of a session: DISCONNECT, after which clients do not come back by themselves. One that is to come
        back gets nothing here, because its whole connection is closed (`Namespaces.ended`).
        """
        return b"" if codes.comes_back(code) else self._left

    def reason_of(self, code: int, reason: str) -> str:
        """Return the reason of an end by this server, in the words of Socket.IO."""
        if code == codes.SHUTDOWN.code:
            return SHUTTING_DOWN
        return FORCED if codes.comes_back(code) else NAMESPACE_LEFT

    def event(self, event: bytes) -> bytes:
        """Return an event."""
        return self.encoder.event(event)

    def takes_now(self, transport: Transport) -> bool:
        """Whether a client can take a message at once: one that polls can where a poll is there."""
        assert isinstance(transport, NamespaceTransport), "a session of this protocol has no other transport"
        return transport.takes_now

    def request(self, session: Session, event: bytes) -> asyncio.Future[list[Any]]:
        """Send an event with the number by which the client acknowledges it."""
        transport = session.transport
        assert isinstance(transport, NamespaceTransport), "a session of this protocol has no other transport"
        data, attachments = packed_values(event)
        kind = PacketType.BINARY_EVENT if attachments else PacketType.EVENT
        return transport.call(Packet(kind, self.namespace, None, data, attachments))

    def acknowledgement(self, number: int, values: bytes) -> bytes:
        """Return the acknowledgement of a client's event, with arguments as `events.encode_values` gives them."""
        data, attachments = packed_values(values)
        kind = PacketType.BINARY_ACK if attachments else PacketType.ACK
        return framed(Packet(kind, self.namespace, number, data, attachments))

    def refused(self, refusal: bytes) -> bytes:
        """Return the answer that refuses a client, from the JSON text of its object."""
        return framed(Packet(PacketType.CONNECT_ERROR, self.namespace, data=refusal))
