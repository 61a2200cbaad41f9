"""
What goes to the socket, in JSON over one kind of transport.

Pure. One `JSONWire` per framing serves every member in a worker, so that the hub can tell by identity whose bytes are
the same.
"""

from __future__ import annotations

from realtime.broker.base import ClientInfo, Publication, Room
from realtime.protocol.base import Framing
from realtime.protocol.centrifuge import json


class JSONWire:
    """The protocol in JSON, framed for one kind of transport."""

    __slots__ = ("frame", "ping")

    def __init__(self, framing: Framing) -> None:
        self.frame = framing.frame
        self.ping = framing.frame(json.PING)

    def publication(self, room: Room, publication: Publication) -> bytes:
        return self.frame(json.push_publication(room, publication))

    def join(self, room: Room, info: ClientInfo) -> bytes:
        return self.frame(json.push_join(room, info))

    def leave(self, room: Room, info: ClientInfo) -> bytes:
        return self.frame(json.push_leave(room, info))
