"""
Events and their arguments, as bytes that rooms and workers can carry.

Pure, in the worker. The application gives values of Python; members of a room get them in the form of their wire
protocol. In between, an event is one `bytes` object, whatever the protocol. Arguments of an acknowledgement have the
same form:

    a JSON text        ["message",{"text":"hello"}]
    0x01 and msgpack   the same, where bytes stand in it anywhere

Nothing here knows a packet, a placeholder or an attachment: the wire protocol makes those of bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from realtime.errors import ReservedEvent
from realtime.rooms.options import RESERVED_EVENTS
from realtime.session.answers import DEEPEST, UNSAYABLE, encode

WITH_BYTES: Final = b"\x01"
"""Before msgpack; no JSON text begins so."""

EVENT_TAG: Final = "event"
"""
The tag of a publication in a declared room that is an event: its value is the event's name, and the data are
`{"event": …, "args": […]}`. Clients cannot set tags, so none can publish an event that the application did not emit.
"""

BYTES: Final[tuple[type, ...]] = (bytes, bytearray, memoryview)
_PLAIN: Final = frozenset((str, int, float, bool, type(None)))

_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(list[Any]).decode
_read: Final = msgspec.json.Decoder(list[Any]).decode


def check_event(name: object) -> str:
    """
    Return the name of an event that an application emits or handles.

    Raises:
        ReservedEvent: Socket.IO keeps this name for itself.
        TypeError: it is no text.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of an event is a str, and not {name!r}")
    if name in RESERVED_EVENTS:
        raise ReservedEvent(name)
    return name


def encode_event(name: str, args: Sequence[Any]) -> bytes:
    """
    Return an event with its arguments.

    Raises:
        ReservedEvent: Socket.IO keeps this name for itself.
        AnswerError: JSON cannot say an argument; the text names the event and the field.
    """
    return encode_values((check_event(name), *args), _name_of_event, name)


def _name_of_event(name: str) -> str:
    """Name an event, for the error that it cannot be encoded."""
    return f"event {name!r}"


def encode_values(values: Sequence[Any], what: Callable[..., str], *of: Any) -> bytes:
    """
    Return arguments as one text, or packed where bytes stand in them.

    Raises:
        AnswerError: JSON cannot say one; the error names the field.
    """
    if not has_bytes(values):
        return encode(values, what, *of)
    try:
        packed: bytes = WITH_BYTES + _pack(_builtins(values))
    except UNSAYABLE:
        encode(values, what, *of)  # raises, with the field
        raise
    return packed


def decode_values(data: bytes) -> list[Any]:
    """Return what `encode_event` or `encode_values` was given, as plain values."""
    return _unpack(data[1:]) if data.startswith(WITH_BYTES) else _read(data)


def one_or_several(values: Sequence[Any]) -> Any:
    """Return what an application gets of an acknowledgement: one argument, a tuple of several, None for none."""
    return None if not values else values[0] if len(values) == 1 else tuple(values)


def has_bytes(value: Any, levels: int = DEEPEST) -> bool:
    """
    Say whether bytes stand in a value anywhere. What is nested more deeply than `levels`, such as a value that
    contains itself, has none: encoding refuses or encodes it as any other.
    """
    kind = type(value)
    if kind in _PLAIN or not levels:
        return False
    if isinstance(value, BYTES):
        return True
    if isinstance(value, Mapping):
        return any(has_bytes(each, levels - 1) for each in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return any(has_bytes(each, levels - 1) for each in value)
    try:
        plain = _builtins(value)
    except UNSAYABLE:
        return False  # encoding names the field
    return type(plain) is not kind and has_bytes(plain, levels - 1)


def _builtins(value: Any) -> Any:
    """Return a value as what JSON has, with bytes as they are."""
    return msgspec.to_builtins(value, builtin_types=BYTES, str_keys=True, enc_hook=_fields)


def _fields(value: Any) -> Any:
    """Return the fields of a pydantic model."""
    if hasattr(value, "model_dump"):
        return value.model_dump()
    raise TypeError(f"JSON cannot say a {type(value).__name__}")
