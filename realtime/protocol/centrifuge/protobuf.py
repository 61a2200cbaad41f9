"""
The protocol in Protobuf.

Pure: bytes in, structures out, and back; the structures are those of the JSON codec (messages.py). The encoding is
proto3's (developers.google.com/protocol-buffers/docs/encoding); the field numbers are the schema's (Centrifuge client
protocol, section 3.3). Every message is preceded by its length, and messages are joined without anything between them.
There is no generated code: a message's functions are made from the schema (schema.py) when this is imported.

proto3 leaves out zero values. A message that is there and empty is written all the same (`publish{}` is two bytes), for
SDKs look whether it is there. Unknown fields are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import msgspec
from msgspec import UNSET, Raw

from realtime.broker.base import ClientInfo, ConnectionId, RawPublication, Room
from realtime.codes import ErrorCode
from realtime.errors import ClientError
from realtime.protocol import shapes
from realtime.protocol.centrifuge import messages as m
from realtime.protocol.centrifuge.codec import BadFrame
from realtime.protocol.centrifuge.schema import FIELDS, field

NAME: Final = "protobuf"
IS_BINARY: Final = True
BETWEEN: Final = b""  # each says its length
PING: Final = b"\0"  # an empty message, after its length
OFFSET_MAX: Final = 2**53 - 1  # as `messages.Offset`
DEPTH_MAX: Final = 32  # of filters in filters: the only message that contains itself

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

REPLY: Final = {
    "connect": 5,
    "subscribe": 6,
    "unsubscribe": 7,
    "publish": 8,
    "presence": 9,
    "presence_stats": 10,
    "history": 11,
    "rpc": 13,
    "refresh": 14,
    "sub_refresh": 15,
}
ERROR, PUSH = 2, 4


# Reading


def _read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """
    Return a number of seven bits a byte, lowest first, and where it ends. The bits above 64 are cut off, as proto3 has
    it.

    Raises:
        BadFrame: it does not end in time.
    """
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            raise BadFrame("a number of more than ten bytes")
    raise BadFrame("it ends within a number")


def _read_length(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return where the bytes begin and end whose length stands at `at`."""
    size, at = _read_varint(data, at, end)
    if size > end - at:
        raise BadFrame("it ends within a field")
    return at, at + size


def _read(kind: type, data: bytes, at: int, end: int, depth: int = 0) -> Any:
    """
    Return the message that stands between two places.

    Raises:
        BadFrame: it is cut short, or a field has another type than the schema's. A peer may send anything, so no length
            is
            believed before it was compared with what is there.
    """
    if depth > DEPTH_MAX:
        raise BadFrame("too deep")
    fields = FIELDS[kind]
    found: dict[str, Any] = {}
    while at < end:
        key, at = _read_varint(data, at, end)
        number, wire = key >> 3, key & 7
        begin, value = at, 0
        if wire == _VARINT:
            value, at = _read_varint(data, at, end)
        elif wire == _BYTES:
            begin, at = _read_length(data, at, end)
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise BadFrame(f"wire type {wire}")
        if at > end or not number:
            raise BadFrame("it ends within a field, or field 0")
        field = fields.get(number)
        if field is not None:
            name, form, of = field
            if (wire == _VARINT) is not (form in _NUMBERS) or wire in (_FIXED64, _FIXED32):
                raise BadFrame(f"{name} has wire type {wire}")
            if wire == _VARINT:
                found[name] = _NUMBERS[form](value)
            else:
                _put(found, name, form, of, data, begin, at, depth)
    return kind(**found)


def _put(found: dict[str, Any], name: str, form: str, of: Any, data: bytes, begin: int, end: int, depth: int) -> None:
    """Read a field that has a length, and put it among those found: a list or a map grows with each."""
    if form == "s":
        found[name] = data[begin:end].decode()
    elif form == "y":
        found[name] = Raw(data[begin:end])
    elif form == "m":
        found[name] = _read(of, data, begin, end, depth + 1)
    elif form == "rm":
        found.setdefault(name, []).append(_read(of, data, begin, end, depth + 1))
    elif form == "rs":
        found.setdefault(name, []).append(data[begin:end].decode())
    else:  # a map is a list of messages of two fields
        entry = _read(_ENTRIES[form, of], data, begin, end, depth + 1)
        found.setdefault(name, {})[entry.key] = entry.value


def _unsigned(value: int) -> int:
    """Return a number of 32 bits. A larger one would be another number to an SDK."""
    if value > 0xFFFFFFFF:
        raise BadFrame("a number of more than 32 bits")
    return value


def _offset(value: int) -> int:
    """Return an offset. Above 2**53 no reader in JavaScript would see the number that was sent."""
    if value > OFFSET_MAX:
        raise BadFrame("an offset that no stream has")
    return value


def _signed(value: int) -> int:
    """Return a number of 64 bits in two's complement."""
    return value - 2**64 if value >= 2**63 else value


_NUMBERS: Final[dict[str, Callable[[int], Any]]] = {"u": _unsigned, "o": _offset, "i": _signed, "b": bool}


class _SubscribeEntry(msgspec.Struct):
    """An entry of the map `ConnectCommand.subs`: in proto3, a map is a list of such messages."""

    key: str = ""
    value: m.SubscribeCommand = msgspec.field(default_factory=m.SubscribeCommand)


class _TextEntry(msgspec.Struct):
    """An entry of a map from text to text."""

    key: str = ""
    value: str = ""


FIELDS[_SubscribeEntry] = {1: field("key", "s"), 2: field("value", "m", m.SubscribeCommand)}
FIELDS[_TextEntry] = {1: field("key", "s"), 2: field("value", "s")}
_ENTRIES: Final[dict[tuple[str, Any], type]] = {("sm", m.SubscribeCommand): _SubscribeEntry, ("ss", None): _TextEntry}


def decode(message: bytes | str) -> list[m.Command]:
    """As `Codec.decode`."""
    if isinstance(message, str):
        raise BadFrame("a text, and no bytes")
    commands = []
    at, end = 0, len(message)
    if not end:
        raise BadFrame("nothing in it")
    try:
        while at < end:
            begin, at = _read_length(message, at, end)
            commands.append(cast(m.Command, _read(m.Command, message, begin, at)))
    except UnicodeError as error:
        raise BadFrame(str(error)) from error
    return commands


def decode_emulation(body: bytes) -> m.EmulationRequest:
    """
    Return what the second half of an emulated transport carries; it has no length before it.

    Raises:
        BadFrame: it is none.
    """
    try:
        return cast(m.EmulationRequest, _read(m.EmulationRequest, body, 0, len(body)))
    except UnicodeError as error:
        raise BadFrame(str(error)) from error


# Writing


def _varint(value: int) -> bytes:
    """Return a number of seven bits a byte, lowest first. A negative one takes ten bytes, as proto3 has it."""
    if value < 0x80:
        return bytes((value,)) if value >= 0 else _varint(value + 2**64)
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _delimited(data: bytes) -> bytes:
    """Return bytes behind their length."""
    return _varint(len(data)) + data


def _key(number: int, wire: int) -> bytes:
    """Return what stands before a field: its number, and how its end is found."""
    return _varint(number << 3 | wire)


def _write(message: Any) -> bytes:
    """Return a message without its length."""
    parts: list[bytes] = []
    for key, name, form in _WRITTEN[type(message)]:
        value = getattr(message, name)
        if value is UNSET or value is None:
            continue
        if form == "m":
            parts += (key, _delimited(_write(value)))
        elif form == "y":
            parts += (key, _delimited(bytes(value)))
        elif not value:
            continue
        elif form == "s":
            parts += (key, _delimited(value.encode()))
        elif form in ("u", "i", "o"):
            parts += (key, _varint(value))
        elif form == "b":
            parts += (key, b"\1")
        elif form == "rm":
            for each in value:
                parts += (key, _delimited(_write(each)))
        else:  # a map
            for entry, each in value.items():
                inner = each.encode() if form == "ss" else _write(each)
                parts += (key, _delimited(b"\x0a" + _delimited(entry.encode()) + b"\x12" + _delimited(inner)))
    return b"".join(parts)


_WRITTEN: Final = {
    kind: [
        (_key(number, _VARINT if form in _NUMBERS else _BYTES), name, form)
        for number, (name, form, _) in fields.items()
    ]
    for kind, fields in FIELDS.items()
}


def _reply(id: int, number: int, message: bytes) -> bytes:
    """Return a whole answer or push behind its length: the id where there is one, then the one field that it has."""
    head = b"\x08" + _varint(id) if id else b""
    return _delimited(head + _key(number, _BYTES) + _delimited(message))


def reply(id: int, method: str, result: m.Result) -> bytes:
    """As `Codec.reply`."""
    return _reply(id, REPLY[method], _write(result))


def presence_entries(members: Mapping[ConnectionId, ClientInfo]) -> bytes:
    """As `Codec.presence_entries`."""
    return _write(shapes.PresenceResult({client: shapes.info_of(info) for client, info in members.items()}))


def presence_reply(id: int, entries: Sequence[bytes]) -> bytes:
    """As `Codec.presence_reply`: a map's entries follow one another."""
    return _reply(id, REPLY["presence"], b"".join(entries))


def error_reply(id: int, error: ClientError | ErrorCode) -> bytes:
    """As `Codec.error_reply`."""
    return _reply(id, ERROR, _write(m.Error(error.code, error.message, error.temporary)))


def push(push: m.Push) -> bytes:
    """As `Codec.push`."""
    return _reply(0, PUSH, _write(push))


def push_publication(room: Room, publication: RawPublication) -> bytes:
    """As `Codec.push_publication`."""
    return push(m.Push(channel=room, pub=pub_of(publication)))


def push_delta(room: Room, publication: RawPublication, delta: bytes | None) -> bytes:
    """As `Codec.push_delta`. A delta is bytes here, so it may cut a character in half."""
    pub = pub_of(publication)
    if delta is not None:
        pub.data, pub.delta = Raw(delta), True
    return push(m.Push(channel=room, pub=pub))


def push_join(room: Room, info: ClientInfo) -> bytes:
    """As `Codec.push_join`."""
    return push(m.Push(channel=room, join=m.Membership(shapes.info_of(info))))


def push_leave(room: Room, info: ClientInfo) -> bytes:
    """As `Codec.push_leave`."""
    return push(m.Push(channel=room, leave=m.Membership(shapes.info_of(info))))


def pub_of(publication: RawPublication, *, delta: bool = False) -> shapes.Pub:
    """As `Codec.pub_of`."""
    return shapes.pub_of(publication)


def payload(data: bytes) -> bytes:
    """As `Codec.payload`. A field says its length, so any bytes can stand in it."""
    return data
