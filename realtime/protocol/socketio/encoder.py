"""
What goes to members of rooms: events, framed, for one namespace.

Pure, in the worker. There is one `SocketIOEncoder` for each namespace, so the hub sees by identity which members get
the same bytes. In a room of events a publication is an event already. In a declared room its declaration says which
event it becomes (`as_event`). It never knows which members there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from realtime.broker.base import RawPublication, Room
from realtime.protocol.socketio.packets import Packet, PacketType, framed
from realtime.protocol.socketio.placeholders import without_attachments
from realtime.rooms.event_rooms import is_event_room
from realtime.rooms.fanout import Change
from realtime.rooms.options import Declarations, RoomOptions
from realtime.session.events import EVENT_TAG, WITH_BYTES, decode_values
from realtime.transport.frames import TEXT

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode
_OPTIONS: Final = RoomOptions()  # for a room that newer code declares no more


class _PublishedEvent(msgspec.Struct):
    """An event as it is published in a declared room."""

    event: str
    args: msgspec.Raw


_decode_event: Final = msgspec.json.Decoder(_PublishedEvent).decode


class SocketIOEncoder:
    """Events of rooms for the clients of one namespace. Is the hub's `Encoder`."""

    __slots__ = ("_declarations", "_head", "namespace")

    is_delta = False

    def __init__(self, namespace: str, declarations: Declarations) -> None:
        """
        Args:
            namespace: of the clients.
            declarations: say which event a publication becomes.
        """
        self.namespace = namespace
        self._declarations = declarations
        self._head = b"42" if namespace == "/" else b"42" + namespace.encode() + b","

    def publication(self, room: Room, publication: RawPublication) -> bytes:
        """Return the event that a publication is."""
        data = publication.data
        if is_event_room(room):
            return self.event(data)
        options = self._declarations.room_options(room) or _OPTIONS
        if publication.tags and (emitted := _emitted(publication)) is not None:
            return TEXT.frame(self._head + emitted)
        name, *fields = options.as_event
        if options.binary:
            values = [name, *(FIELDS[each](room, publication) for each in fields)]
            return self.values(values)
        parts = [data if each == "data" else _encode(FIELDS[each](room, publication)) for each in fields]
        return TEXT.frame(self._head + b"[" + b",".join([_encode(name), *parts]) + b"]")

    def event(self, event: bytes) -> bytes:
        """Return an event, as `events.encode_event` gives it."""
        if event.startswith(WITH_BYTES):
            return self.values(decode_values(event))
        return TEXT.frame(self._head + event)

    def values(self, values: Sequence[Any]) -> bytes:
        """Return an event of plain values, with attachments where bytes are in it."""
        return framed(event_packet(self.namespace, values))

    def delta(self, room: Room, publication: RawPublication, delta: bytes | None) -> bytes:
        """Return the whole publication: this protocol has no deltas, and no member asks for any."""
        raise AssertionError("no member of this protocol negotiates deltas")

    def changes(self, room: Room, changes: Sequence[Change]) -> bytes:
        """Return joins and leaves: this protocol has none, so its members watch none."""
        raise AssertionError("a member of this protocol does not watch")


def event_packet(namespace: str, values: Sequence[Any], number: int | None = None) -> Packet:
    """Return the packet of an event of plain values."""
    data, attachments = without_attachments(list(values))
    kind = PacketType.BINARY_EVENT if attachments else PacketType.EVENT
    return Packet(kind, namespace, number, data, attachments)


def packed_values(event: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    """Return the JSON text of an event or of the arguments of an acknowledgement, and its attachments."""
    return without_attachments(decode_values(event)) if event.startswith(WITH_BYTES) else (event, ())


def _emitted(publication: RawPublication) -> bytes | None:
    """Return the event that was emitted into a declared room, as an array; None for any other publication."""
    name = (publication.tags or {}).get(EVENT_TAG)
    if name is None:
        return None
    try:
        event = _decode_event(publication.data)
    except msgspec.MsgspecError:
        return None  # the application has a tag of this name itself
    args = bytes(event.args)
    if event.event != name or not args.startswith(b"["):
        return None
    rest = args[1:].lstrip()
    return b"[" + _encode(name) + (b"]" if rest == b"]" else b"," + rest)


def _info(room: Room, publication: RawPublication) -> Any:
    info = publication.info
    return None if info is None or info.conn_info is None else _decode(info.conn_info)


FIELDS: Final[dict[str, Callable[[Room, RawPublication], Any]]] = {
    "room": lambda room, _: room,
    "data": lambda _, publication: publication.data,  # of a binary room: elsewhere it is the JSON text itself
    "user": lambda _, publication: "" if publication.info is None else publication.info.user,
    "connection": lambda _, publication: "" if publication.info is None else publication.info.connection_id,
    "info": _info,
    "tags": lambda _, publication: publication.tags or {},
    "offset": lambda _, publication: publication.offset,
    "epoch": lambda _, publication: publication.epoch,
    "time": lambda _, publication: publication.time_ms,
}
"""What the arguments of a room's event can be, by the names of `as_event`."""
