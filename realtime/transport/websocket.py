"""
One WebSocket on an adopted descriptor.

Runs in the worker, as an `asyncio.Protocol` and a session's `Transport`. It owns no task, and no timer but the deadline
of a handshake, of a close, or of a peer that does not read; each is an entry of the worker's wheel. (What comes behind
the end is read slowly, by timers of the loop.)

**Which part reads the stream.** Between two messages, an open WebSocket has no state but its bytes, compressed ones
included (`deflate.py`). So:

- The stream is cut into whole frames here. A plain one (`frames.Kind.PLAIN`) outside a fragmented message is unmasked
  and goes straight to the session. This is the hot path. Plain pings and pongs have a short path of their own.
- Every other frame goes to websockets' `ServerProtocol` (`ws_protocol`). It alone decides what is legal and what the
  answer is. It is made, open, when it is first needed, gets whole frames only, and is dropped between two messages:
  what it knows then is what a new one knows.
- A head that no frame may have goes to `ws_protocol` with everything after it; `ws_protocol` fails the connection.
- Once a close frame was sent, `ws_protocol` stays until the peer's own close frame; everything else is discarded.

Thus the two parts never look at the same frame, and neither ever waits for bytes that the other holds.

**How much of it at once.** In one turn of the loop a connection reads `FRAMES_AT_ONCE` frames. The rest waits in order
for the next turn, and meanwhile nothing is read from the socket (`websocket_flow.py`).
"""

from __future__ import annotations

import asyncio
import http
import logging
from typing import Final

from websockets.exceptions import PayloadTooBig
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State as ProtocolState
from websockets.server import ServerProtocol

from realtime.log_lines import log
from realtime.transport.client_log import (
    FLOOD,
    HANDSHAKE_REFUSED,
    SESSION_FAILED,
    log_received,
)
from realtime.transport.flood import (
    CONTROL,
    CONTROLS_AT_ONCE,
    DISCARD_PAUSE_S,
    FRAGMENTS,
    FRAMES_AT_ONCE,
    SEGMENTS,
    SHORT,
)
from realtime.transport.frames import (
    BINARY_WHOLE,
    PLAIN,
    TEXT_WHOLE,
    Kind,
    apply_mask,
    controls,
    look,
)
from realtime.transport.handshake import Accepted, refusal, shake_hands
from realtime.transport.peer import Peer
from realtime.transport.websocket_closing import BUG, WebSocketClosing
from realtime.transport.websocket_endpoint import WebSocketEndpoint
from realtime.transport.websocket_flow import ABNORMAL, OPEN, WebSocketState

HEAD_END: Final = b"\r\n\r\n"
SHARE: Final = range(FRAMES_AT_ONCE)

logger = logging.getLogger("realtime.websocket")


class WebSocketTransport(WebSocketClosing):
    """A connection's socket, from the first byte of its handshake to its end, or to its move."""

    __slots__ = ()

    def __init__(self, endpoint: WebSocketEndpoint, peer: Peer, received: bytes = b"") -> None:
        """
        Args:
            received: bytes already taken from the descriptor, to be read first.
        """
        super().__init__(endpoint, peer)
        self._pending += received

    def __repr__(self) -> str:
        return f"<websocket {self._peer} {self._state.value}>"

    # The socket's life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake, with what was already received; or go on, where the connection has moved."""
        self._transport = transport
        self._begin_writing()
        self._endpoint.connections.add(self)
        if self._state is WebSocketState.PARKED:
            self._go_live(is_new=True)
            return
        self._arm(self._endpoint.limits.handshake_s)
        if self._pending:
            self._receive_head(b"")

    def data_received(self, data: bytes) -> None:
        """Take what the socket brought."""
        if self._state is OPEN:
            if self._pending or self._held:
                self._pending += data
                if self._held or self._is_resting:
                    self._transport.pause_reading()  # uvloop reads once in spite of a pause in `connection_made`
                elif len(self._pending) >= self._needed:
                    self._receive_pending()
                elif len(data) < SHORT:
                    self._meter(SEGMENTS)
            else:
                self._receive_frames(data)
        elif self._state is WebSocketState.CONNECTING:
            self._receive_head(data)
        elif self._ws_protocol is not None:
            self._pending += data
            if len(self._pending) >= self._needed:
                self._receive_pending()
        else:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(DISCARD_PAUSE_S, self._go_on)

    def eof_received(self) -> None:
        """Nothing more will come; without a close frame before it, that is an abnormal end. The socket closes."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything. The session learns of the end, unless it went to another worker."""
        if self._has_detached():
            return
        self._parked = None
        self._enter(WebSocketState.CLOSED)
        for timer in (self._deadline, self._outbound_timer):
            if timer is not None:
                timer.cancel()
        self._tell_session(*(self._ended or ABNORMAL))
        self._ws_protocol = self._transport = None
        self._pending.clear()
        endpoint = self._endpoint
        endpoint.connections.discard(self)
        endpoint.owner.ended(self._peer)

    # Opening

    def _receive_head(self, data: bytes) -> None:
        self._peer.settlement.first_byte_read()
        pending = self._pending
        looked_at = 0 if not data else max(len(pending) - len(HEAD_END) + 1, 0)
        pending += data
        end = pending.find(HEAD_END, looked_at) + len(HEAD_END)
        if end < len(HEAD_END) and len(pending) <= self._endpoint.limits.head_bytes:
            return
        if end < len(HEAD_END) or end > self._endpoint.limits.head_bytes:
            status = http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self._refuse(refusal(status, "The request's head is too long."), "its head is too long")
            return
        opening = shake_hands(bytes(pending[:end]), self._peer, self._endpoint.admission, self._endpoint.head)
        if isinstance(opening, Accepted):
            del pending[:end]
            self._open(opening)
        else:
            self._refuse(opening.answer, opening.problem)

    def _open(self, opening: Accepted) -> None:
        self._put(opening.answer)
        self._disarm()
        self._enter(WebSocketState.OPEN)
        self._endpoint.opened += 1
        self._is_compressed = opening.is_compressed
        try:
            self._session = self._endpoint.sessions(self, opening.handshake, opening.subprotocol)
        except Exception:  # noqa: BLE001 - a bug, or the application's: logged, and it ends this connection only
            log(logger, logging.ERROR, SESSION_FAILED, **self._peer.log_fields, during="begin", exc_info=True)
            self.close(*BUG)
            return
        if self._endpoint.logs_messages:
            log(logger, logging.DEBUG, "= websocket open", **self._log_fields)
        if opening.first is not None:
            self._deliver_first(opening.first)
        if self._pending:
            self._receive_pending()

    def _deliver_first(self, message: bytes) -> None:
        """Hand on what came in the request's query, as if a frame had brought it."""
        if len(message) > self._endpoint.limits.message_bytes:
            self._fail_too_big()
        else:
            self._deliver(message, is_text=True)

    def _refuse(self, answer: bytes, problem: str) -> None:
        log(logger, logging.INFO, HANDSHAKE_REFUSED, **self._peer.log_fields, reason=problem)
        self._endpoint.refused += 1
        self._enter(WebSocketState.CLOSING)
        self._pending.clear()
        self._transport.write(answer)
        self._end_stream()

    # Reading

    def _receive_pending(self) -> None:
        """Read on from where a frame was not whole, where the session held us, or where the turn's share was used."""
        if self._held or self._is_resting:
            return
        data, self._pending, self._needed = self._pending, bytearray(), 0
        if self._state is OPEN:
            self._receive_frames(data)
        elif self._ws_protocol is not None:
            self._skip_frames(data, self._ws_protocol)

    def _receive_frames(self, data: bytes | bytearray) -> None:
        """Read whole frames in `data`, as many as one turn of the loop has, and keep the rest. This is the hot path."""
        at, size = 0, len(data)
        limit = self._endpoint.limits.message_bytes
        kind = PLAIN
        for _ in SHARE:
            if at == size or self._state is not OPEN or self._held:
                break
            first = data[at]
            if first > BINARY_WHOLE and (end := self._receive_controls(data, at)) > at:
                at = end
                continue
            kind, payload_at, end = look(data, at, limit - len(self._message) if self._message else limit)
            if kind is PLAIN and self._ws_protocol is None:
                payload = apply_mask(data[payload_at:end], data[payload_at - 4 : payload_at])
                self._deliver(payload, first == TEXT_WHOLE)
            elif kind is Kind.PARTIAL:
                self._needed = max(end - at, 0)
                break
            elif kind is Kind.TOO_BIG:
                end = size
                self._fail_too_big()
            else:
                if kind is Kind.REFUSED:
                    end = size
                self._pass_to_ws_protocol(data[at:end], end - payload_at)
            at = end
        if at == size:
            return
        self._keep(data, at)
        if kind is not Kind.PARTIAL or self._state is not OPEN:
            if not self._held:
                self._rest()
        elif at == 0 and size < SHORT:
            self._meter(SEGMENTS)  # which has brought nothing to its end

    def _receive_controls(self, data: bytes | bytearray, at: int) -> int:
        """Answer pings and note pongs, as many as stand here; return where they end."""
        answers, count, pongs, end = controls(data, at, CONTROLS_AT_ONCE)
        if count:
            flood = self._flood
            is_allowed = flood is not None and flood.allows(CONTROL, count, asyncio.get_running_loop().time())
            if not is_allowed and not self._meter(CONTROL, count):
                return end
            if answers:
                self._send(answers)
            if pongs and self._session is not None:
                self._session.pong_received()
        return end

    def _meter(self, kind: str, count: int = 1) -> bool:
        """Count what a peer sends beside messages. Close the connection and return False where it is too much."""
        if self._allows(kind, count):
            return True
        self._endpoint.flooding += 1
        log(logger, logging.WARNING, FLOOD, **self._log_fields, reason=self._endpoint.limits.flood.problem(kind))
        self._fail(CloseCode.POLICY_VIOLATION, f"too many {kind}")
        return False

    def _deliver(self, payload: bytes, is_text: bool) -> None:
        """Hand one whole message to the session."""
        assert self._session is not None, "an open connection has a session"
        try:
            message = payload.decode() if is_text else payload
        except UnicodeDecodeError as error:
            self._fail(CloseCode.INVALID_DATA, f"{error.reason} at position {error.start}")
            return
        if self._endpoint.logs_messages:
            log_received(logger, self._log_fields, message)
        try:
            self._session.receive(message)
        except Exception:  # noqa: BLE001 - a bug: logged, and it ends this connection only
            log(logger, logging.ERROR, SESSION_FAILED, **self._log_fields, during="message", exc_info=True)
            self.close(*BUG)

    def _pass_to_ws_protocol(self, frame: bytes | bytearray, payload: int) -> None:
        """Pass a frame to `ws_protocol`, and drop that when no message is in progress."""
        is_fragment = not frame[0] & 0x80 or not frame[0] & 0x0F
        if is_fragment and payload < SHORT and not self._meter(FRAGMENTS):
            return
        if self._is_compressed and is_fragment:
            self._keep_deflated(frame, payload)
        self._feed(frame)
        if self._state is OPEN and self._message is None:
            self._ws_protocol = self._deflated = None

    def _feed(self, frame: bytes | bytearray) -> None:
        ws_protocol = self._open_ws_protocol()
        ws_protocol.receive_data(frame)
        self._follow_ws_protocol(ws_protocol)

    def _follow_ws_protocol(self, ws_protocol: ServerProtocol) -> None:
        """Pass what `ws_protocol` has read to the session, its answers to the socket, and end where it ends."""
        for event in ws_protocol.events_received():
            assert isinstance(event, Frame), "ws_protocol begins open"
            if self._state is OPEN and event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._collect(event)
            elif event.opcode is Opcode.PONG and self._session is not None:
                self._session.pong_received()
        answers = ws_protocol.data_to_send()
        write = self._send if ws_protocol.state is ProtocolState.OPEN else self._transport.write
        if ws_protocol.state is not ProtocolState.OPEN and self._state is OPEN:
            verdict = ws_protocol.close_rcvd or ws_protocol.close_sent
            assert verdict is not None, "ws_protocol ends with a close frame, of the peer or its own"
            if isinstance(ws_protocol.parser_exc, PayloadTooBig):
                self._note_too_big()
            self._begin_closing(int(verdict.code), verdict.reason)
        for answer in answers:
            if answer:
                write(answer)
            else:  # websockets' SEND_EOF
                self._end_stream()
        if self._ended is not None and ws_protocol.close_rcvd is not None:
            self._tell_session(*self._ended)

    def _collect(self, frame: Frame) -> None:
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
            self._message = bytearray()
        assert self._message is not None, "ws_protocol lets no other frame begin a message"
        self._message += frame.data
        if len(self._message) > self._endpoint.limits.message_bytes:  # only what was compressed comes here
            self._message = None
            self._fail_too_big()
        elif frame.fin:
            payload, self._message = bytes(self._message), None
            self._deliver(payload, self._is_text)
