"""
The protocol in one encoding over one framing: what a session asks of its wire protocol.

Runs in the worker. One `CentrifugeDialect` of each kind serves all sessions that speak so. It knows no client: it turns
messages into commands, has commands.py run them, and encodes what the server sends of its own accord.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw

from realtime.broker.base import Room
from realtime.codes import UnsubscribeCode
from realtime.errors import NoAcknowledgements
from realtime.protocol.centrifuge import commands, uni
from realtime.protocol.centrifuge.call import ttl
from realtime.protocol.centrifuge.codec import BadFrame, Codec
from realtime.protocol.centrifuge.encoder import CentrifugeEncoder
from realtime.protocol.centrifuge.messages import (
    Command,
    Disconnected,
    Message,
    Push,
    Refreshed,
    SubscribePush,
    UnsubscribePush,
)
from realtime.protocol.shapes import JSON
from realtime.session.base import BadMessage, Dialect, Subscribed
from realtime.session.events import decode_values
from realtime.session.session import Session
from realtime.transport.base import Framing, Transport

PONG: Final = Command()
PROTOCOL: Final = "centrifuge"

_encode: Final = msgspec.json.Encoder().encode


class CentrifugeDialect(Dialect):
    """The Centrifuge protocol as one kind of client speaks it."""

    protocol = PROTOCOL
    namespace = ""
    shows_changes = True
    waits_for = asyncio.ALL_COMPLETED

    def __init__(self, codec: Codec, framing: Framing) -> None:
        """
        Args:
            codec: the encoding.
            framing: of the transports that it is for. An encoder's bytes are framed, so it cannot be shared with
                others.
        """
        self.name = codec.NAME
        self.label = JSON if codec.NAME == uni.NAME else codec.NAME
        self.is_binary = codec.IS_BINARY
        self.encoder = CentrifugeEncoder(codec, framing)
        self.delta_encoder = CentrifugeEncoder(codec, framing, is_delta=True)
        self.ping = framing.frame(codec.PING)
        self.codec = codec
        self.frame: Callable[[bytes], bytes] = framing.frame

    def decode(self, message: bytes | str) -> Sequence[Command | None]:
        """Return the commands of one message; None for an empty one, which answers a ping."""
        try:
            received = self.codec.decode(message)
        except BadFrame as error:
            raise BadMessage(str(error)) from error
        if len(received) == 1 and received[0].id:  # the usual message
            return received
        return [None if command == PONG else command for command in received]

    execute = commands.execute

    def is_publication(self, command: Command) -> bool:
        """Whether it publishes: only such commands may run while others are in flight."""
        return command.publish is not None

    def message(self, data: bytes) -> bytes:
        """Return a message that belongs to no room."""
        return self._push(Push(message=Message(Raw(self.codec.payload(data)))))

    def subscribed(self, subscribed: Subscribed) -> bytes:
        """Return the notification of a subscription, with what it recovers behind it."""
        codec, recoverable = self.codec, subscribed.recoverable
        data = UNSET if subscribed.data is None else Raw(codec.payload(subscribed.data))
        push = SubscribePush(recoverable=recoverable, positioned=recoverable, data=data)
        if subscribed.position is not None:
            push.epoch, push.offset = subscribed.position.epoch, subscribed.position.offset
        messages = [codec.push(Push(channel=subscribed.room, subscribe=push))]
        messages += [codec.push_publication(subscribed.room, each) for each in subscribed.publications]
        return b"".join(map(self.frame, messages))

    def unsubscribed(self, room: Room, code: UnsubscribeCode) -> bytes:
        """Return the notification that a subscription has ended."""
        return self._push(Push(channel=room, unsubscribe=UnsubscribePush(code.code, code.reason)))

    def refreshed(self, expire_at_s: float | None) -> bytes:
        """Return the notification that the connection expires at another time."""
        return self._push(Push(refresh=Refreshed(*ttl(expire_at_s))))

    def disconnected(self, code: int, reason: str) -> bytes:
        """Return the end of a connection as a message, for a transport without close frames (section 2.4)."""
        return self._push(Push(disconnect=Disconnected(code, reason)))

    def reason_of(self, code: int, reason: str) -> str:
        """Return the reason of an end: the application gets what the client gets."""
        return reason

    def event(self, event: bytes) -> bytes:
        """
        Return an event as a message that belongs to no room: `{"event": name, "args": [...]}`. Bytes in it are base64.
        """
        name, *args = decode_values(event)
        return self.message(_encode({"event": name, "args": args}))

    def takes_now(self, transport: Transport) -> bool:
        """Whether a client has taken everything so far."""
        return transport.is_congested_since() is None

    def request(self, session: Session, event: bytes) -> asyncio.Future[list[Any]]:
        """Refuse: a client acknowledges nothing."""
        raise NoAcknowledgements(session.connection_id, PROTOCOL)

    def _push(self, push: Push) -> bytes:
        """Return a framed push of a rare kind."""
        return self.frame(self.codec.push(push))
