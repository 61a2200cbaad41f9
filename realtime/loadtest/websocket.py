"""
The client's side of a WebSocket, as far as a load needs it: websockets' client protocol, behind a few methods.

Pure: bytes in, messages out, and the bytes that have to be sent for it. It runs in the load client's event loop and
never touches a socket. The protocol answers pings and the server's close frame by itself; the caller sends what
`data_to_send` returns after each call. Frames that no server may send raise `BadStream`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidMessage, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import WebSocketURI

from realtime.loadtest.plan import Endpoint

MESSAGE_MAX: Final = 64 * 1024 * 1024  # bytes: the most that a server's --message-bytes can be
NORMAL: Final = 1000  # close code (RFC 6455, section 7.4.1)


class BadStream(Exception):
    """The server sent what is no WebSocket stream. The connection is of no more use."""


class HandshakeRefused(Exception):
    """The server answered the handshake with another status than 101."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status, self.reason = status, reason


class Closed(NamedTuple):
    """The server's close frame; code 1005 when it had none (RFC 6455, section 7.1.5)."""

    code: int
    reason: str


class WebSocket:
    """One connection: a handshake, then messages."""

    __slots__ = ("_parts", "_protocol")

    def __init__(self, address: Endpoint) -> None:
        path, _, query = address.path.partition("?")
        uri = WebSocketURI(address.secure, address.host, address.port, path, query)
        self._protocol = ClientProtocol(uri, max_size=MESSAGE_MAX)
        self._parts: bytearray | None = None  # of a message whose last fragment has not come
        request = self._protocol.connect()
        request.headers["User-Agent"] = "realtime bench"
        self._protocol.send_request(request)

    @property
    def has_opened(self) -> bool:
        """The handshake is done, whatever came after it."""
        return self._protocol.state is not State.CONNECTING and self._protocol.handshake_exc is None

    @property
    def is_open(self) -> bool:
        """Messages can be sent: the handshake is done, and neither side has begun to close."""
        return self._protocol.state is State.OPEN

    def receive(self, data: bytes) -> list[bytes | Closed]:
        """
        Take bytes of the server, and return the messages that are whole now, in order. You must send `data_to_send`.

        Raises:
            HandshakeRefused: the server opens no WebSocket here.
            BadStream: no server may send this.
        """
        self._protocol.receive_data(data)
        return self._events()

    def receive_end(self) -> None:
        """
        Take the end of the stream: a refusal without Content-Length is whole only then (RFC 9112, section 6.3).

        Raises:
            HandshakeRefused: the server opens no WebSocket here.
        """
        self._protocol.receive_eof()
        error = self._protocol.handshake_exc
        if isinstance(error, InvalidStatus):
            raise _problem(error)

    def send_text(self, data: bytes) -> None:
        """Add a text message to `data_to_send`. Only while `is_open`."""
        assert self.is_open, "a caller asks `is_open` first: the server may have begun to close"
        self._protocol.send_text(data)

    def close(self) -> None:
        """Add a close frame to `data_to_send`. Only while `is_open`."""
        self._protocol.send_close(NORMAL)

    def data_to_send(self) -> bytes:
        """Return the bytes that have to be sent now."""
        return b"".join(self._protocol.data_to_send())

    def _events(self) -> list[bytes | Closed]:
        found: list[bytes | Closed] = []
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._frame(event, found)
        if self._protocol.handshake_exc is not None:
            raise _problem(self._protocol.handshake_exc)
        if self._protocol.parser_exc is not None and not isinstance(self._protocol.parser_exc, EOFError):
            raise BadStream(f"no WebSocket stream ({self._protocol.parser_exc})")
        return found

    def _frame(self, frame: Frame, found: list[bytes | Closed]) -> None:
        """Take a frame that the protocol has let through: fragments come in order, control frames between them."""
        if frame.opcode is Opcode.CLOSE:
            close = self._protocol.close_rcvd
            assert close is not None, "the protocol parsed it"
            found.append(Closed(close.code, close.reason))
        elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            if frame.fin and self._parts is None:
                found.append(bytes(frame.data))  # bytes: the lines of it are looked up in a dictionary
                return
            self._parts = (self._parts or bytearray()) + frame.data
            if frame.fin:
                found.append(bytes(self._parts))
                self._parts = None


def _problem(error: Exception) -> HandshakeRefused | BadStream:
    """Say in our words why the handshake failed."""
    if isinstance(error, InvalidStatus):
        return HandshakeRefused(error.response.status_code, error.response.reason_phrase)
    if isinstance(error, InvalidMessage):
        return BadStream("no HTTP answer")
    return BadStream("a handshake that was not asked for")
