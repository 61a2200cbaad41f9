"""
WebSocket frames, as far as the hot path needs them.

Pure: runs wherever it is called, knows no socket and no connection. It finds where a frame ends, unmasks a payload and
builds server frames. It never decides that a frame is illegal: whatever is not plain goes to websockets'
`ServerProtocol`, which does (`websocket.py` says how the two share one stream).

RFC 6455, section 5.2:

    byte 0: FIN, RSV1-3, opcode      byte 1: MASK, length (126: 2 more bytes, 127: 8 more)      4 bytes mask, payload
"""

from __future__ import annotations

import enum
import json
import struct
from collections.abc import Iterator
from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform without the C extension
    from websockets.utils import apply_mask

__all__ = ["BINARY", "PING", "TEXT", "Frames", "Kind", "apply_mask", "controls", "look", "messages_in", "sayable"]

TEXT_WHOLE: Final = 0x81  # FIN, no reserved bit, opcode 1
BINARY_WHOLE: Final = 0x82
_MASKED: Final = 0x80
PING_WHOLE: Final = 0x89
PONG_WHOLE: Final = 0x8A
_CONTROL: Final = 0x08  # set in the opcodes of control frames
_CONTROL_MAX: Final = 125  # bytes of their payload
_OPCODES: Final = frozenset((0x0, 0x1, 0x2, 0x8, 0x9, 0xA))

_LENGTH_16: Final = struct.Struct("!BBH")
_LENGTH_64: Final = struct.Struct("!BBQ")

PING: Final = b"\x89\x00"  # FIN, opcode 9; it carries nothing
_PONG: Final = b"\x8a\x00"
_PONG_HEADS: Final = [bytes((PONG_WHOLE, size)) for size in range(_CONTROL_MAX + 1)]

REASON_MAX: Final = 123  # a control frame carries 125 bytes (section 5.5), two of them are the close code


class Kind(enum.Enum):
    """What stands at a place in the stream."""

    PARTIAL = "partial"
    """The beginning of a frame that may be legal; more bytes will tell."""
    PLAIN = "plain"
    """A whole, unfragmented, uncompressed, masked text or binary frame."""
    OTHER = "other"
    """Another whole frame: control, fragment, reserved bits set."""
    REFUSED = "refused"
    """A head that no frame may have; its payload need not be awaited."""
    TOO_BIG = "too big"
    """A head that announces more than a message may still have."""


PLAIN: Final = Kind.PLAIN
"""For the hot path: before Python 3.12, to look up `Kind.PLAIN` costs four times as much."""


def look(data: bytes | bytearray, at: int, limit: int) -> tuple[Kind, int, int]:
    """
    Say what stands at `at`.

    Args:
        data: bytes of the stream; the head of a frame begins at `at`.
        at: an index below `len(data)`.
        limit: bytes the payload may have; a control frame may always have its 125.

    Returns:
        The kind; where the payload begins; where the frame ends. The two indexes mean something for whole frames only;
        of a partial one the second says where it will end, or 0 where more bytes will tell.
    """
    available = len(data) - at
    if available < 2:
        return Kind.PARTIAL, 0, 0  # where it ends is not known
    first, second = data[at], data[at + 1]
    if second < _MASKED or first & 0x0F not in _OPCODES:
        return Kind.REFUSED, 0, 0
    length = second - _MASKED
    payload_at = at + 6
    if length > 125:
        size = 2 if length == 126 else 8
        if available < 2 + size:
            return Kind.PARTIAL, 0, 0
        length = int.from_bytes(data[at + 2 : at + 2 + size], "big")
        payload_at += size
    if length > limit and (length > _CONTROL_MAX or not first & _CONTROL):
        return Kind.TOO_BIG, 0, 0
    end = payload_at + length
    if end > len(data):
        return Kind.PARTIAL, 0, end
    return (PLAIN if first in (TEXT_WHOLE, BINARY_WHOLE) else Kind.OTHER), payload_at, end


def controls(data: bytes | bytearray, at: int, most: int) -> tuple[bytes, int, int, int]:
    """
    Read the whole, masked pings and pongs that stand one behind another.

    It stops in front of whatever else stands there: a data frame, a close frame, or a control frame that is not whole
    or not legal (section 5.5: at most 125 bytes, not fragmented; no reserved bit), which is for `ws_protocol`.

    Args:
        data: bytes of the stream; the head of a frame begins at `at`.
        most: how many to read.

    Returns:
        The pongs to answer with, in order; how many frames were read; how many of them were pongs; where the last ends.
    """
    answers = b""
    pongs = count = 0
    size = len(data)
    while count < most and size - at >= 6:
        first, length = data[at], data[at + 1] - _MASKED
        if (first != PING_WHOLE and first != PONG_WHOLE) or not 0 <= length <= _CONTROL_MAX:
            break
        end = at + 6 + length
        if end > size:
            break
        if first == PONG_WHOLE:
            pongs += 1
        elif length:
            answers += _PONG_HEADS[length] + apply_mask(data[at + 6 : end], data[at + 2 : at + 6])
        else:
            answers += _PONG
        count += 1
        at = end
    return answers, count, pongs, at


class Frames:
    """A `Framing`: each message is one WebSocket frame of one kind."""

    __slots__ = ("_first", "name")
    takes_several = True

    def __init__(self, name: str, first: int) -> None:
        self.name = name
        self._first = first

    def frame(self, payload: bytes) -> bytes:
        """Return `payload` as one unmasked frame, as a server sends it."""
        size = len(payload)
        if size < 126:
            return bytes((self._first, size)) + payload
        if size < 65536:
            return _LENGTH_16.pack(self._first, 126, size) + payload
        return _LENGTH_64.pack(self._first, 127, size) + payload

    def __repr__(self) -> str:
        return f"<frames {self.name}>"


def messages_in(data: bytes) -> Iterator[bytes | str]:
    """
    Give the messages in whole frames of the server, for the log: a text as text, a binary or compressed one as bytes.

    Args:
        data: one frame after the other, unmasked, as `Frames` and `DeflatedFrames` write them.
    """
    at = 0
    while at < len(data):
        first, size, payload_at = data[at], data[at + 1], at + 2
        assert size < _MASKED, "a server masks nothing (section 5.1)"
        if size >= 126:
            width = 2 if size == 126 else 8
            size = int.from_bytes(data[payload_at : payload_at + width])
            payload_at += width
        at = payload_at + size
        payload = data[payload_at:at]
        yield payload.decode(errors="replace") if first == TEXT_WHOLE else payload


TEXT: Final = Frames("websocket-text", TEXT_WHOLE)
BINARY: Final = Frames("websocket-binary", BINARY_WHOLE)


def sayable(reason: str) -> str:
    """
    Return `reason` as a close frame can carry it: at most 123 bytes of UTF-8, and never a JSON text.

    centrifuge-js parses the reason as JSON first and would take a number or a string for a structured close
    (Centrifuge client protocol, section 2.1).
    """
    text = _cut(reason)
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return _cut(f"reason: {text}")


def _cut(text: str) -> str:
    return text.encode(errors="replace")[:REASON_MAX].decode(errors="ignore")
