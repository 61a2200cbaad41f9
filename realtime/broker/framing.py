"""
Messages of the local broker on a stream: four bytes of length, then msgpack. Both ends use it.

Runs in workers and in the local broker's process. It knows nothing of rooms. All messages of one turn of the event loop
leave in one write. They are joined here: with one write per message, a burst costs the broker's process a third more.
A length above `FRAME_MAX` can only come from a bug or from a program that is no worker, so the link is closed.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from typing import Any, Final

import msgspec

from realtime.log_lines import log

FRAME_MAX: Final = 128 * 1024 * 1024  # twice the most that --message-bytes allows
_LENGTH: Final = struct.Struct("!I")

encode = msgspec.msgpack.Encoder().encode
parts = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode

logger = logging.getLogger("realtime.broker.local")


def frame(message: Any) -> bytes:
    """Return the bytes of a message on a link."""
    data = encode(message)
    return _LENGTH.pack(len(data)) + data


class Framed(asyncio.Protocol):
    """One end of a link. A subclass must override `received`."""

    def __init__(self) -> None:
        self.transport: Any = None
        self._buffer = bytearray()  # the beginning of a message that has not arrived whole
        self._turn: list[bytes] = []  # messages of this turn of the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send what was to be sent before: a link of an earlier process gets events while it waits for this."""
        self.transport = transport
        if self._turn:
            self._flush()

    def data_received(self, data: bytes) -> None:
        """Pass each whole message to `received`. The rest stays in the buffer, and is moved once per call."""
        buffer = self._buffer
        buffer += data
        at, size = 0, len(buffer)
        while size - at >= 4:
            (length,) = _LENGTH.unpack_from(buffer, at)
            if length > FRAME_MAX:
                log(logger, logging.ERROR, "x broker link closed", frame_bytes=length, reason="its frame is too long")
                self.transport.abort()
                return
            if size - at - 4 < length:
                break
            self.received(parts(bytes(buffer[at + 4 : at + 4 + length])))
            at += 4 + length
        if at:
            del buffer[:at]

    def received(self, message: list[msgspec.Raw]) -> None:
        """Handle one message."""
        raise AssertionError("each subclass overrides this")

    @property
    def unread(self) -> bytes:
        """The beginning of a message that has not arrived whole."""
        return bytes(self._buffer)

    @unread.setter
    def unread(self, data: bytes) -> None:
        assert self.transport is None, "these bytes come before all that the transport reads"
        self._buffer += data

    @property
    def is_unsent(self) -> bool:
        """Whether messages wait: for the end of this turn of the loop, or for the other end to read."""
        return bool(self._turn) or self.transport.get_write_buffer_size() > 0

    def send(self, message: Any) -> None:
        """Send one message at the end of this turn of the loop. It is harmless when the link is gone."""
        self.send_frame(frame(message))

    def send_frame(self, framed: bytes) -> None:
        """Send a message that `frame` encoded: once, where many receivers get the same."""
        if not self._turn:
            asyncio.get_running_loop().call_soon(self._flush)
        self._turn.append(framed)

    def _flush(self) -> None:
        """Write the frames of this turn at once."""
        if self.transport is None:
            return
        turn, self._turn = self._turn, []
        if turn and not self.transport.is_closing():
            self.transport.write(b"".join(turn))
