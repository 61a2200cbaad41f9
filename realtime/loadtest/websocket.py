"""
The client's side of a WebSocket, as far as a load needs it.

Pure: bytes in, messages out, and frames for what is said. `Reader` takes what a server sends (RFC 6455, section 5.2:
unmasked, no extension), joins fragments, and answers *messages so far*; a stream that no server may send raises
`BadStream`. It never answers by itself: pings and closes come out as frames for whoever reads.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

from websockets.utils import accept_key, generate_key

from realtime.loadtest.plan import Address
from realtime.transport.frames import apply_mask

HEAD_MAX: Final = 65_536
MESSAGE_MAX: Final = 64 * 1024 * 1024  # a load client trusts its server, within reason

CONTINUED, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_FINAL: Final = 0x80


class BadStream(Exception):
    """What a server sent is no WebSocket stream."""


def frame(opcode: int, payload: bytes) -> bytes:
    """Return one whole frame as a client sends it, masked (section 5.3)."""
    size = len(payload)
    if size < 126:
        head = bytes((_FINAL | opcode, 0x80 | size))
    elif size < 65_536:
        head = bytes((_FINAL | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((_FINAL | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    mask = secrets.token_bytes(4)
    return head + mask + apply_mask(payload, mask)


def close_of(payload: bytes) -> tuple[int, str]:
    """Return the code and reason of a close frame; 1005 when it has none (section 7.1.5)."""
    if len(payload) < 2:
        return 1005, ""
    return int.from_bytes(payload[:2], "big"), payload[2:].decode(errors="replace")


class Handshake:
    """One opening handshake (section 4.1)."""

    __slots__ = ("_key",)

    def __init__(self) -> None:
        self._key = generate_key()

    def request(self, address: Address) -> bytes:
        """Return what the client says first."""
        lines = (
            f"GET {address.path} HTTP/1.1",
            f"Host: {address.authority}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {self._key}",
            "Sec-WebSocket-Version: 13",
            "User-Agent: realtime bench",
        )
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def answer(self, data: bytes) -> tuple[int, str, int] | None:
        """
        Read the answer.

        Returns:
            The status, its reason, and where the frames begin; None while more bytes are needed.

        Raises:
            BadStream: it is no HTTP, or accepts a handshake that was not asked for.
        """
        end = data.find(b"\r\n\r\n")
        if not data.startswith(b"HTTP/1.1 "[: len(data)]) or (end < 0 and len(data) > HEAD_MAX):
            raise BadStream("no HTTP answer")
        if end < 0:
            return None
        first, *lines = data[:end].decode("latin-1").split("\r\n")
        status, _, reason = first[9:].partition(" ")
        if not (len(status) == 3 and status.isdecimal()):
            raise BadStream("no HTTP answer")
        if status == "101":
            headers = {
                name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
            }
            if headers.get("sec-websocket-accept") != accept_key(self._key):
                raise BadStream("a handshake that was not asked for")
        return int(status), reason, end + 4


@dataclass(frozen=True, slots=True)
class Control:
    """A frame that is about the connection."""

    opcode: int
    payload: bytes


class Reader:
    """Takes the stream after the handshake."""

    __slots__ = ("_held", "_parts")

    def __init__(self) -> None:
        self._held = b""
        self._parts: bytearray | None = None

    def read(self, data: bytes) -> list[bytes | Control]:
        """
        Return the messages that are whole now, and control frames, in order.

        Raises:
            BadStream: no server may send this.
        """
        if self._held:
            data = self._held + data
        found: list[bytes | Control] = []
        at, have = 0, len(data)
        while have - at >= 2:
            length, begin = data[at + 1], at + 2
            if length > 125:
                size = 2 if length == 126 else 8
                if length > 127:
                    raise BadStream("a masked frame")
                if have - begin < size:
                    break
                length = int.from_bytes(data[begin : begin + size], "big")
                begin += size
                if length > MESSAGE_MAX:
                    raise BadStream("a message without measure")
            if begin + length > have:
                break
            self._frame(data[at], data[begin : begin + length], found)
            at = begin + length
        self._held = data[at:]
        return found

    def _frame(self, first: int, payload: bytes, found: list[bytes | Control]) -> None:
        if first in (_FINAL | TEXT, _FINAL | BINARY) and self._parts is None:
            found.append(payload)
            return
        opcode = first & 0x0F
        if first & 0x70:
            raise BadStream("an extension that was not asked for")
        if opcode in (CLOSE, PING, PONG):
            found.append(Control(opcode, payload))
            return
        if opcode not in (CONTINUED, TEXT, BINARY) or (opcode == CONTINUED) == (self._parts is None):
            raise BadStream("a frame out of place")
        self._parts = (self._parts or bytearray()) + payload
        if len(self._parts) > MESSAGE_MAX:
            raise BadStream("a message without measure")
        if first & _FINAL:
            found.append(bytes(self._parts))
            self._parts = None
