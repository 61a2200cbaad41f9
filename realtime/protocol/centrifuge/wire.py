"""
What goes to the socket, in one encoding over one kind of transport.

Pure. One `Wire` per codec and framing, and a second where deltas were negotiated, serves every member in a worker, so
that the hub can tell by identity whose bytes are the same.
"""

from __future__ import annotations

from collections.abc import Callable

from realtime.broker.base import ClientInfo, Publication, Room
from realtime.protocol.base import Framing
from realtime.protocol.centrifuge import fossil
from realtime.protocol.centrifuge.codec import Codec


class Wire:
    """The protocol in one encoding, framed for one kind of transport."""

    __slots__ = ("codec", "frame", "is_delta", "ping")

    def __init__(self, codec: Codec, framing: Framing, *, is_delta: bool = False) -> None:
        self.codec = codec
        self.frame: Callable[[bytes], bytes] = framing.frame
        self.is_delta = is_delta
        self.ping = framing.frame(codec.PING)

    def publication(self, room: Room, publication: Publication) -> bytes:
        if self.is_delta:
            return self.frame(self.codec.push_delta(room, publication, None))
        return self.frame(self.codec.push_publication(room, publication))

    def delta(self, room: Room, publication: Publication, delta: bytes | None) -> bytes:
        """Return a publication as its difference to the one before, or whole where that is shorter."""
        return self.frame(self.codec.push_delta(room, publication, delta))

    def join(self, room: Room, info: ClientInfo) -> bytes:
        return self.frame(self.codec.push_join(room, info))

    def leave(self, room: Room, info: ClientInfo) -> bytes:
        return self.frame(self.codec.push_leave(room, info))


def difference(before: bytes, after: bytes) -> bytes | None:
    """Return the delta between two payloads, or None where it would not be shorter."""
    delta = fossil.delta(before, after)
    return delta if len(delta) < len(after) else None
