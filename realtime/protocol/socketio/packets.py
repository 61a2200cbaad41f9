"""
Packets: Engine.IO protocol 4 with its polling payloads, and Socket.IO protocol 5 with attachments.

Pure: runs wherever it is called, knows no socket, no session and no application. It refuses everything that no client
sends (`BadPacket`). It never decides what becomes of the connection.

Engine.IO. A packet is a digit and its data. In a body of long polling, packets are joined by 0x1E, and binary messages
are base64 behind a `b`. A WebSocket carries a packet in each text frame, and binary messages in binary frames without
a prefix.

Socket.IO. A packet is one message of Engine.IO, and `attachments` binary messages behind it:

    type [attachments "-"] [namespace ","] [acknowledgement id] [JSON]

What leaves for a client is always WebSocket frames (`framed`), also where the client polls: `payload` makes the body of
a poll from frames. So an event is encoded once for all clients of a room.
"""

from __future__ import annotations

import binascii
import enum
import re
from base64 import b64encode
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Raw, Struct

from realtime.protocol.socketio.placeholders import BadPlaceholder, check_placeholders
from realtime.rooms.options import RESERVED_EVENTS
from realtime.surrogates import repair
from realtime.transport.frames import BINARY, TEXT, TEXT_WHOLE

SEPARATOR: Final = "\x1e"  # between the packets of a polling body
ATTACHMENTS_MAX: Final = 10  # of a packet; both stock servers and both stock clients refuse more
ATTACHED_BYTES_MAX: Final = 1_000_000  # of a packet's attachments together; what stock servers take in one message
ID_DIGITS_MAX: Final = 16  # JavaScript counts exactly up to 2**53, which has 16 digits


class BadPacket(Exception):
    """A packet that no client sends. The text is for the log."""


class EngineType(enum.StrEnum):
    """The first character of an Engine.IO packet."""

    OPEN = "0"
    CLOSE = "1"
    PING = "2"
    PONG = "3"
    MESSAGE = "4"
    UPGRADE = "5"
    NOOP = "6"


_ENGINE_TYPES: Final = {each.value: each for each in EngineType}

PING: Final = TEXT.frame(b"2")
NOOP: Final = TEXT.frame(b"6")
CLOSE: Final = TEXT.frame(b"1")
PROBE: Final = "2probe"
PROBE_ANSWER: Final = TEXT.frame(b"3probe")
NOTHING: Final = b"6"  # the body of a poll that ends with nothing in it


def decode_engine(text: str) -> tuple[EngineType, str]:
    """
    Return the type and the data of a packet that came as a text frame.

    Raises:
        BadPacket: the text is empty, or begins with no digit of a packet.
    """
    kind = _ENGINE_TYPES.get(text[:1])
    if kind is None:
        raise BadPacket(f"an Engine.IO packet of type {text[:1]!r}")
    return kind, text[1:]


def packets_in(body: bytes) -> Iterator[tuple[EngineType, str | bytes]]:
    """
    Give the packets of a polling body, in order, each with its type and data. The data of a binary message are bytes.

    A bad packet raises in its turn: those before it have been given.

    Raises:
        BadPacket: the body is empty or no UTF-8, a packet is empty or of no type, or base64 is illegal.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise BadPacket("a polling body that is not UTF-8") from error
    at = 0
    while True:  # found one by one: a body of separators alone is refused before it has become a million texts
        end = text.find(SEPARATOR, at)
        packet = text[at:] if end < 0 else text[at:end]
        if packet[:1] == "b":
            yield EngineType.MESSAGE, _base64(packet)
        else:
            yield decode_engine(packet)
        if end < 0:
            return
        at = end + 1


def _base64(packet: str) -> bytes:
    """Return the bytes of a binary message in a polling body. Characters outside the alphabet are refused."""
    try:
        return binascii.a2b_base64(packet[1:].encode(), strict_mode=len(packet) > 1)
    except (binascii.Error, ValueError) as error:
        raise BadPacket(f"illegal base64: {error}") from error


def payload(frames: bytes, limit: int) -> tuple[bytes, bytes]:
    """
    Return the body of a poll, and the frames that did not fit.

    Args:
        frames: whole frames of the server, as `framed` makes them; at least one.
        limit: bytes that the body may have. The first packet is in it, however large: packets are never cut.
    """
    assert frames, "a poll without a packet is answered with a noop"
    parts: list[bytes] = []
    at = size = 0
    while at < len(frames):
        first, length, begin = frames[at], frames[at + 1], at + 2
        assert length < 0x80, "a server masks nothing (RFC 6455, section 5.1)"
        if length >= 126:
            width = 2 if length == 126 else 8
            length = int.from_bytes(frames[begin : begin + width])
            begin += width
        end = begin + length
        part = frames[begin:end] if first == TEXT_WHOLE else b"b" + b64encode(frames[begin:end])
        size += len(part) + 1
        if parts and size - 1 > limit:
            break
        parts.append(part)
        at = end
    return b"\x1e".join(parts), frames[at:]


class PacketType(enum.IntEnum):
    """The digit of a Socket.IO packet."""

    CONNECT = 0
    DISCONNECT = 1
    EVENT = 2
    ACK = 3
    CONNECT_ERROR = 4
    BINARY_EVENT = 5
    BINARY_ACK = 6


_EVENTS: Final = (PacketType.EVENT, PacketType.BINARY_EVENT)
_BINARY: Final = (PacketType.BINARY_EVENT, PacketType.BINARY_ACK)


class Packet(Struct):
    """
    A Socket.IO packet. `data` is its JSON text as it came, with placeholders where attachments belong.

    Attributes:
        type: what it is. A packet with attachments is of a binary type.
        namespace: "/" where the packet names none.
        id: of the acknowledgement that is wanted, or given.
        data: a JSON text: of an event `["name", …]`, of an acknowledgement `[…]`, of the others an object. None where
            the packet has none.
        attachments: in the order of their numbers.
        name: of an event that was decoded; None where its name is a number, which no handler has.
        arguments: of an event or an acknowledgement that was decoded: the JSON text of each.
    """

    type: PacketType
    namespace: str = "/"
    id: int | None = None
    data: bytes | None = None
    attachments: tuple[bytes, ...] = ()
    name: str | None = None
    arguments: list[Raw] = []


_HEAD: Final = re.compile(
    r"([0-6])"
    r"(?:(?<=[56])([0-9]{1,4})-)?"
    r"(?:(/[^,]*)(?:,|\Z))?"
    r"([0-9]*)"
)
_decode_array: Final = msgspec.json.Decoder(list[Raw]).decode
_decode_object: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_name: Final = msgspec.json.Decoder(str | int | float).decode


def decode_packet(text: str, attachments_max: int = ATTACHMENTS_MAX) -> tuple[Packet, int]:
    """
    Return the packet of one text message, and how many attachments it announces. A caller that reads a stream of
    messages uses `Assembler`, which waits for those.

    Raises:
        BadPacket: no client sends this.
    """
    if text.startswith("2["):  # the usual packet: an event in the main namespace, without acknowledgement
        packet = Packet(PacketType.EVENT)
        _read_array(packet, text[1:])
        return packet, 0
    head = _HEAD.match(text)
    if head is None:
        raise BadPacket(f"a packet of type {text[:1]!r}")
    digit, announced, namespace, number = head.groups()
    packet = Packet(PacketType(int(digit)), namespace or "/")
    if number:
        if len(number) > ID_DIGITS_MAX:
            raise BadPacket("an id of more than 16 digits")
        packet.id = int(number)
    count = int(announced) if announced else 0
    if packet.type in _BINARY and not 0 < count <= attachments_max:
        raise BadPacket(f"a packet with attachments that announces {announced or 'none'}")
    _read_data(packet, text[head.end() :])
    if count:
        assert packet.data is not None, "a binary packet without data was refused"
        try:
            check_placeholders(packet.data, count)
        except BadPlaceholder as error:
            raise BadPacket(str(error)) from error
    return packet, count


def _read_data(packet: Packet, text: str) -> None:
    """Check the JSON text of a packet by the packet's type, and put it in."""
    match packet.type:
        case PacketType.CONNECT:
            if text:
                packet.data = _read_object(text)
        case PacketType.DISCONNECT:
            if text:
                raise BadPacket("a DISCONNECT with data")
        case PacketType.CONNECT_ERROR:
            raise BadPacket("a CONNECT_ERROR from a client")
        case PacketType.EVENT | PacketType.ACK if not text:
            pass  # stock servers take both: no handler runs, and no acknowledgement is awaited so
        case _:
            _read_array(packet, text)


def _read_array(packet: Packet, text: str) -> None:
    """Put in the array of an event or an acknowledgement, its elements, and an event's name."""
    if text[:1] != "[":  # the decoder would skip white space
        raise BadPacket("an event or acknowledgement whose data is no array")
    data = text.encode()
    try:
        try:
            arguments = _decode_array(data)
        except msgspec.DecodeError:
            data = repair(data)
            arguments = _decode_array(data)
        if packet.type in _EVENTS:
            name = _decode_name(arguments.pop(0))
            if isinstance(name, str):
                if name in RESERVED_EVENTS:
                    raise BadPacket(f"an event with the reserved name {name!r}")
                packet.name = name
    except (msgspec.MsgspecError, IndexError, UnicodeError, RecursionError) as error:
        raise BadPacket(f"data of an event or acknowledgement: {error}") from error
    packet.data, packet.arguments = data, arguments


def _read_object(text: str) -> bytes:
    """Return the object of a CONNECT."""
    if text[:1] != "{":
        raise BadPacket("a CONNECT whose data is no object")
    data = text.encode()
    try:
        try:
            _decode_object(data)
        except msgspec.DecodeError:
            data = repair(data)
            _decode_object(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadPacket(f"data of a CONNECT: {error}") from error
    return data


def encode(packet: Packet) -> list[str | bytes]:
    """Return the messages of a packet, without the digit that Engine.IO puts before a text."""
    return [_text(packet).decode(), *packet.attachments]


def framed(packet: Packet) -> bytes:
    """Return a packet as WebSocket frames, each one Engine.IO packet. They are to be written by one `write`."""
    text = TEXT.frame(b"4" + _text(packet))
    if not packet.attachments:
        return text
    return text + b"".join(map(BINARY.frame, packet.attachments))


def _text(packet: Packet) -> bytes:
    assert bool(packet.attachments) == (packet.type in _BINARY), "the type of a packet says whether attachments follow"
    text = b"%d" % packet.type
    if packet.attachments:
        text += b"%d-" % len(packet.attachments)
    if packet.namespace != "/":
        text += packet.namespace.encode() + b","
    if packet.id is not None:
        text += b"%d" % packet.id
    return text if packet.data is None else text + packet.data


class Assembler:
    """
    Puts the packets of one connection together: a text message, and the attachments that it announces. It knows no
    time: the caller ends a connection that is `waiting` for too long.
    """

    __slots__ = ("_attached", "_attachments_max", "_bytes_left", "_bytes_max", "_missing", "_packet")

    def __init__(self, attachments_max: int = ATTACHMENTS_MAX, bytes_max: int = ATTACHED_BYTES_MAX) -> None:
        """
        Args:
            attachments_max: of one packet.
            bytes_max: of all attachments of one packet.
        """
        self._attachments_max = attachments_max
        self._bytes_max = bytes_max
        self._packet: Packet | None = None  # has announced attachments, of which `_missing` have not come
        self._missing = 0
        self._bytes_left = 0
        self._attached: list[bytes] | None = None

    @property
    def waiting(self) -> bool:
        """Whether a packet lacks attachments."""
        return self._packet is not None

    def feed(self, message: str | bytes) -> Packet | None:
        """
        Take the next message of the connection. Return the packet that is whole by it, or None while attachments are
        missing.

        Raises:
            BadPacket: no client sends this here. Feed nothing more: the connection has to end.
        """
        packet = self._packet
        if isinstance(message, str):
            if packet is not None:
                raise BadPacket("a text while attachments are missing")
            packet, missing = decode_packet(message, self._attachments_max)
            if not missing:
                return packet
            self._packet, self._missing, self._attached = packet, missing, []
            self._bytes_left = self._bytes_max
            return None
        if packet is None or self._attached is None:
            raise BadPacket("an attachment of no packet")
        self._bytes_left -= len(message)
        if self._bytes_left < 0:
            raise BadPacket("attachments of more bytes than a packet may have")
        assert self._missing > 0, "a packet is given out with its last attachment"
        self._attached.append(message)
        self._missing -= 1
        if self._missing:
            return None
        packet.attachments = tuple(self._attached)
        self._packet = self._attached = None
        return packet
