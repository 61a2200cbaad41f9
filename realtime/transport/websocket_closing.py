"""
The end of one WebSocket: close frames, and what is read behind them.

Runs in the worker, as a part of `WebSocketTransport` (websocket.py), which reads messages as long as the connection is
open. It owns websockets' `ServerProtocol`, which is there while a message is in fragments and while the connection
closes. It never gives a message to the session.

The closing handshake (RFC 6455, section 7):

    OPEN  -- close(), a fault of the peer, or its close frame -->  CLOSING
          our close frame is written behind everything else; from now on the session writes nothing
    CLOSING  -- the peer's close frame, or `CLOSE_S` -->  CLOSED
          pings are still answered, all other frames are discarded

The socket is then half closed and read to its end. A socket that is closed with bytes unread is reset, and the peer may
lose the close frame, and with it the reason why it was closed.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import Final

from websockets.exceptions import ProtocolError
from websockets.frames import CloseCode, Opcode
from websockets.server import ServerProtocol

from realtime.log_lines import log
from realtime.transport.client_log import MESSAGE_TOO_LARGE
from realtime.transport.flood import CONTROL, CONTROLS_AT_ONCE
from realtime.transport.frames import BINARY_WHOLE, Kind, controls, look, sayable
from realtime.transport.handshake import opened_ws_protocol
from realtime.transport.peer import Peer
from realtime.transport.websocket_endpoint import WebSocketEndpoint
from realtime.transport.websocket_flow import WebSocketState
from realtime.transport.websocket_move import WebSocketMove

CLOSE_S: Final = 4.0  # for what is on its way, and for the peer's half of the closing handshake
BUG: Final = (3004, "internal server error")
SKIPPED_AT_ONCE: Final = 1024  # frames of a closing connection: about 1 ms

logger = logging.getLogger("realtime.websocket")


class WebSocketClosing(WebSocketMove):
    """How one connection ends. The class that reads messages derives from this one."""

    __slots__ = ("_ended", "_ws_protocol")

    def __init__(self, endpoint: WebSocketEndpoint, peer: Peer) -> None:
        super().__init__(endpoint, peer)
        self._ws_protocol: ServerProtocol | None = None
        self._ended: tuple[int, str] | None = None  # how, once it is known

    @abstractmethod
    def _follow_ws_protocol(self, ws_protocol: ServerProtocol) -> None:
        """Pass what `ws_protocol` has read to the session, its answers to the socket, and end where it ends."""

    def _open_ws_protocol(self) -> ServerProtocol:
        """Return the `ServerProtocol` that is in use, or one that begins open."""
        if self._ws_protocol is None:
            limit = self._endpoint.limits.message_bytes
            self._ws_protocol = opened_ws_protocol(limit, is_compressed=self._is_compressed)
        return self._ws_protocol

    @property
    def is_open(self) -> bool:
        """Whether the handshake is done, and no close frame was sent or received."""
        return self._state is WebSocketState.OPEN

    def close(self, code: int, reason: str) -> None:
        """
        Send a close frame after what was written. The session is notified when the peer has answered, or is gone.

        A code that no close frame may carry is our own bug, or the application's; the client then gets 3004.
        """
        if self._state is WebSocketState.CONNECTING:
            self._enter(WebSocketState.CLOSING)
            self._end_stream()
        if self._state is WebSocketState.PARKED and self._parked is not None:
            self._parked.farewell = self._parked.farewell or (code, reason)
        if self._state is not WebSocketState.OPEN:
            return
        ws_protocol = self._open_ws_protocol()
        reason = sayable(reason)
        try:
            ws_protocol.send_close(code, reason)
        except ProtocolError:
            log(logger, logging.ERROR, "close code invalid", **self._log_fields, code=code, reason=reason)
            ws_protocol.send_close(*BUG)
        self._begin_closing(code, reason)
        self._follow_ws_protocol(ws_protocol)

    def _fail(self, code: CloseCode, problem: str) -> None:
        """Fail the connection (RFC 6455 section 7.1.7) for what `ws_protocol` does not look at."""
        ws_protocol = self._open_ws_protocol()
        ws_protocol.fail(code, problem)
        self._follow_ws_protocol(ws_protocol)
        self._tell_session(int(code), problem)

    def _fail_too_big(self) -> None:
        self._note_too_big()
        self._fail(CloseCode.MESSAGE_TOO_BIG, f"a message may have {self._endpoint.limits.message_bytes} bytes")

    def _note_too_big(self) -> None:
        self._endpoint.too_big += 1
        limit_bytes = self._endpoint.limits.message_bytes
        log(logger, logging.WARNING, MESSAGE_TOO_LARGE, **self._log_fields, limit_bytes=limit_bytes)

    def _begin_closing(self, code: int, reason: str) -> None:
        """Write nothing of the session's any more, and read to the end."""
        if self._endpoint.logs_messages:
            log(logger, logging.DEBUG, "x websocket closing", **self._log_fields, code=code, reason=reason)
        self._ended = (code, reason)
        self._enter(WebSocketState.CLOSING)
        self._arm(CLOSE_S)
        was_held, self._held = self._held, False
        if self._pending:
            self._rest()
        elif was_held:
            self._transport.resume_reading()

    def _end_stream(self) -> None:
        """
        Send our end of the stream and read on until the peer's: a socket closed with bytes unread is reset, and the
        peer then may lose the close frame. What comes until then is discarded.
        """
        self._ws_protocol = None
        self._arm(CLOSE_S)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:  # TLS has no half-closed state
            self._transport.close()

    # Behind our close frame

    def _skip_frames(self, data: bytearray, ws_protocol: ServerProtocol) -> None:
        """Look for the peer's close frame, now that we have sent ours; what else comes is not for the session."""
        at, size, left = 0, len(data), SKIPPED_AT_ONCE
        while at < size and self._ws_protocol is not None:
            if left <= 0:
                self._rest()
                break
            if data[at] > BINARY_WHOLE and (end := self._answer_last_pings(data, at)) > at:
                left -= CONTROLS_AT_ONCE
                at = end
                continue
            left -= 1
            kind, _, end = look(data, at, self._endpoint.limits.message_bytes)
            if kind is Kind.PARTIAL:
                self._needed = max(end - at, 0)
                break
            if kind in (Kind.REFUSED, Kind.TOO_BIG):
                end = size
            if end == size or data[at] & 0x0F == Opcode.CLOSE:
                ws_protocol.receive_data(data[at:end])
                self._follow_ws_protocol(ws_protocol)
            at = end
        if at < size and self._ws_protocol is not None:
            self._keep(data, at)

    def _answer_last_pings(self, data: bytearray, at: int) -> int:
        """Answer pings behind our close frame, as long as they are not too many; return where they end."""
        answers, count, _, end = controls(data, at, CONTROLS_AT_ONCE)
        is_read = self.buffered() + len(answers) <= self._endpoint.limits.outbound_bytes
        if answers and is_read and self._allows(CONTROL, count):
            self._transport.write(answers)
        return end
