"""
The protocol in Protobuf.

Pure: bytes in, structures out, and back; the structures are those of the JSON codec (messages.py). The encoding is
proto3's (developers.google.com/protocol-buffers/docs/encoding); the field numbers are the schema's (Centrifuge client
protocol, section 3.3). Every message is preceded by its length, and messages are joined without anything between them.
There is no generated code: `FIELDS` is the schema, and a message's functions are made from it when this is imported.

proto3 leaves out zero values. A message that is there and empty is written all the same (`publish{}` is two bytes), for
SDKs look whether it is there. Unknown fields are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import msgspec
from msgspec import UNSET, Raw

from realtime.broker.base import ClientInfo, ConnectionId, Publication, Room
from realtime.codes import ErrorCode
from realtime.errors import ClientError
from realtime.protocol import shapes
from realtime.protocol.centrifuge import messages as m
from realtime.protocol.centrifuge.codec import BadFrame
from realtime.session.tags import FilterNode

NAME: Final = "protobuf"
IS_BINARY: Final = True
BETWEEN: Final = b""  # each says its length
PING: Final = b"\0"  # an empty message, after its length
OFFSET_MAX: Final = 2**53 - 1  # as `messages.Offset`
DEPTH_MAX: Final = 32  # of filters in filters: the only message that contains itself

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Field = tuple[str, str, Any]  # name, kind, message type
"""
Kinds: u unsigned, i signed, o offset, z zigzag, b bool, s text, y bytes, m message, rm messages, rs texts, ss map of
texts, sm map of messages.
"""


def _field(name: str, kind: str, type: Any = None) -> Field:
    return name, kind, type


INFO: Final = {
    1: _field("user", "s"),
    2: _field("client", "s"),
    3: _field("conn_info", "y"),
    4: _field("chan_info", "y"),
}
FILTER_NUMBERS: Final = ("op", "key", "cmp", "val")

FIELDS: Final[dict[type, dict[int, Field]]] = {
    # What clients send
    m.StreamPosition: {1: _field("offset", "o"), 2: _field("epoch", "s")},
    FilterNode: {
        **{number: _field(name, "s") for number, name in enumerate(FILTER_NUMBERS, 1)},
        5: _field("vals", "rs"),
        6: _field("nodes", "rm", FilterNode),
    },
    m.SubscribeRequest: {
        1: _field("channel", "s"),
        2: _field("token", "s"),
        3: _field("recover", "b"),
        6: _field("epoch", "s"),
        7: _field("offset", "o"),
        8: _field("data", "y"),
        9: _field("positioned", "b"),
        10: _field("recoverable", "b"),
        11: _field("join_leave", "b"),
        12: _field("delta", "s"),
        13: _field("tf", "m", FilterNode),
        14: _field("flag", "i"),
        15: _field("type", "i"),
    },
    m.ConnectRequest: {
        1: _field("token", "s"),
        2: _field("data", "y"),
        3: _field("subs", "sm", m.SubscribeRequest),
        4: _field("name", "s"),
        5: _field("version", "s"),
        6: _field("headers", "ss"),
    },
    m.UnsubscribeRequest: {1: _field("channel", "s")},
    m.PublishRequest: {1: _field("channel", "s"), 2: _field("data", "y"), 3: _field("type", "i")},
    m.PresenceRequest: {1: _field("channel", "s")},
    m.PresenceStatsRequest: {1: _field("channel", "s")},
    m.HistoryRequest: {
        1: _field("channel", "s"),
        7: _field("limit", "i"),
        8: _field("since", "m", m.StreamPosition),
        9: _field("reverse", "b"),
    },
    m.SendRequest: {1: _field("data", "y")},
    m.RPCRequest: {1: _field("data", "y"), 2: _field("method", "s")},
    m.RefreshRequest: {1: _field("token", "s")},
    m.SubRefreshRequest: {1: _field("channel", "s"), 2: _field("token", "s"), 3: _field("type", "i")},
    m.Command: {
        1: _field("id", "u"),
        4: _field("connect", "m", m.ConnectRequest),
        5: _field("subscribe", "m", m.SubscribeRequest),
        6: _field("unsubscribe", "m", m.UnsubscribeRequest),
        7: _field("publish", "m", m.PublishRequest),
        8: _field("presence", "m", m.PresenceRequest),
        9: _field("presence_stats", "m", m.PresenceStatsRequest),
        10: _field("history", "m", m.HistoryRequest),
        12: _field("send", "m", m.SendRequest),
        13: _field("rpc", "m", m.RPCRequest),
        14: _field("refresh", "m", m.RefreshRequest),
        15: _field("sub_refresh", "m", m.SubRefreshRequest),
    },
    # One half of an emulated transport
    m.EmulationRequest: {1: _field("node", "s"), 2: _field("session", "s"), 3: _field("data", "y")},
    # What the server answers
    m.Empty: {},
    m.Error: {1: _field("code", "u"), 2: _field("message", "s"), 3: _field("temporary", "b")},
    shapes.Info: INFO,
    shapes.Pub: {
        4: _field("data", "y"),
        5: _field("info", "m", shapes.Info),
        6: _field("offset", "u"),
        7: _field("tags", "ss"),
        8: _field("delta", "b"),
        9: _field("time", "i"),
    },
    m.SubscribeResult: {
        1: _field("expires", "b"),
        2: _field("ttl", "u"),
        3: _field("recoverable", "b"),
        6: _field("epoch", "s"),
        7: _field("publications", "rm", shapes.Pub),
        8: _field("recovered", "b"),
        9: _field("offset", "u"),
        10: _field("positioned", "b"),
        11: _field("data", "y"),
        12: _field("was_recovering", "b"),
        13: _field("delta", "b"),
    },
    m.ConnectResult: {
        1: _field("client", "s"),
        2: _field("version", "s"),
        3: _field("expires", "b"),
        4: _field("ttl", "u"),
        5: _field("data", "y"),
        6: _field("subs", "sm", m.SubscribeResult),
        7: _field("ping", "u"),
        8: _field("pong", "b"),
        9: _field("session", "s"),
        10: _field("node", "s"),
        11: _field("time", "i"),
    },
    m.RefreshResult: {
        1: _field("client", "s"),
        2: _field("version", "s"),
        3: _field("expires", "b"),
        4: _field("ttl", "u"),
    },
    m.SubRefreshResult: {1: _field("expires", "b"), 2: _field("ttl", "u")},
    shapes.PresenceResult: {1: _field("presence", "sm", shapes.Info)},
    shapes.PresenceStatsResult: {1: _field("num_clients", "u"), 2: _field("num_users", "u")},
    shapes.HistoryResult: {
        1: _field("publications", "rm", shapes.Pub),
        2: _field("epoch", "s"),
        3: _field("offset", "u"),
    },
    m.RPCResult: {1: _field("data", "y")},
    # What the server says unasked
    m.Membership: {1: _field("info", "m", shapes.Info)},
    m.Unsubscribe: {2: _field("code", "u"), 3: _field("reason", "s")},
    m.Subscribe: {
        1: _field("recoverable", "b"),
        4: _field("epoch", "s"),
        5: _field("offset", "u"),
        6: _field("positioned", "b"),
        7: _field("data", "y"),
    },
    m.Message: {1: _field("data", "y")},
    m.Disconnected: {1: _field("code", "u"), 2: _field("reason", "s")},
    m.Refreshed: {1: _field("expires", "b"), 2: _field("ttl", "u")},
    m.Push: {
        2: _field("channel", "s"),
        4: _field("pub", "m", shapes.Pub),
        5: _field("join", "m", m.Membership),
        6: _field("leave", "m", m.Membership),
        7: _field("unsubscribe", "m", m.Unsubscribe),
        8: _field("message", "m", m.Message),
        9: _field("subscribe", "m", m.Subscribe),
        11: _field("disconnect", "m", m.Disconnected),
        12: _field("refresh", "m", m.Refreshed),
    },
}

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
    """Return the message that stands between two places."""
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
    if value > 0xFFFFFFFF:
        raise BadFrame("a number of more than 32 bits")
    return value


def _offset(value: int) -> int:
    if value > OFFSET_MAX:
        raise BadFrame("an offset that no stream has")
    return value


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


_NUMBERS: Final[dict[str, Callable[[int], Any]]] = {"u": _unsigned, "o": _offset, "i": _signed, "b": bool}


class _SubscribeEntry(msgspec.Struct):
    key: str = ""
    value: m.SubscribeRequest = msgspec.field(default_factory=m.SubscribeRequest)


class _TextEntry(msgspec.Struct):
    key: str = ""
    value: str = ""


FIELDS[_SubscribeEntry] = {1: _field("key", "s"), 2: _field("value", "m", m.SubscribeRequest)}
FIELDS[_TextEntry] = {1: _field("key", "s"), 2: _field("value", "s")}
_ENTRIES: Final[dict[tuple[str, Any], type]] = {("sm", m.SubscribeRequest): _SubscribeEntry, ("ss", None): _TextEntry}


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
    if value < 0x80:
        return bytes((value,)) if value >= 0 else _varint(value + 2**64)
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _delimited(data: bytes) -> bytes:
    return _varint(len(data)) + data


def _key(number: int, wire: int) -> bytes:
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


def push_publication(room: Room, publication: Publication) -> bytes:
    """As `Codec.push_publication`."""
    return push(m.Push(channel=room, pub=pub_of(publication)))


def push_delta(room: Room, publication: Publication, delta: bytes | None) -> bytes:
    """As `Codec.push_delta`."""
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


def pub_of(publication: Publication, *, delta: bool = False) -> shapes.Pub:
    """As `Codec.pub_of`."""
    return shapes.pub_of(publication)


def payload(data: bytes) -> bytes:
    """As `Codec.payload`."""
    return data
