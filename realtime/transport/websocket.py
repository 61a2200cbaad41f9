"""
One WebSocket on an adopted descriptor.

Runs in the worker, as an `asyncio.Protocol` and a session's `Outlet`. It owns no task, and no timer but the deadline of
a handshake, of a close, or of a peer that does not read; each is an entry of the worker's wheel. (What comes behind the
end is read slowly, by timers of the loop.)

**Who reads the stream.** Between two messages, an open WebSocket has no state but its bytes, compressed ones included
(`deflate.py`). So:

- The stream is cut into whole frames here. A plain one (`frames.Kind.PLAIN`) outside a fragmented message is unmasked
  and goes straight to the session. This is the hot path. Plain pings and pongs have a short path of their own.
- Every other frame goes to the *judge*, websockets' `ServerProtocol`, which alone says what is legal and what the
  answer is. It is made, open, when it is first needed, gets whole frames only, and is let go of between two messages:
  what it knows then is what a new one knows.
- A head that no frame may have goes to the judge with everything after it. The judge fails the connection on it.
- Once a close frame was sent, the judge stays until the peer's own close frame; whatever else comes is passed over.

Thus both never look at the same frame, and neither ever waits for bytes that the other holds.

**How much of it at once.** In one turn of the loop a connection has `FRAMES_AT_ONCE` frames. The rest waits in order
for the next turn, and meanwhile nothing is read from the socket. What a peer may send beside messages has rates
(`flood.py`); above them it is closed with 1008.
"""

from __future__ import annotations

import asyncio
import enum
import http
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State as JudgeState
from websockets.server import ServerProtocol

from realtime.protocol.base import ClientSession, Framing, SessionFactory
from realtime.settings import Settings
from realtime.transport.deflate import DEFLATED_BINARY, DEFLATED_TEXT, inflating
from realtime.transport.flood import (
    CONTROL,
    CONTROLS_AT_ONCE,
    DISCARD_PAUSE_S,
    FRAGMENTS,
    FRAMES_AT_ONCE,
    SEGMENTS,
    SHORT,
    FloodLimits,
    FloodMeter,
)
from realtime.transport.frames import (
    BINARY,
    BINARY_WHOLE,
    TEXT,
    TEXT_WHOLE,
    Kind,
    apply_mask,
    controls,
    look,
    sayable,
)
from realtime.transport.handshake import Accepted, Admission, judge_logger, refusal, shake_hands
from realtime.transport.peer import Peer
from realtime.transport.taken import hold_little, taken
from realtime.wheel import Timer, Wheel
from sticky.first_bytes import HeadLimits
from sticky.hashing import Key

HIGH_WATER: Final = 65536  # asyncio's own default; said here because `write` is unchecked up to it
CLOSE_S: Final = 4.0  # for what is on its way, and for the peer's half of the closing handshake
SLOW: Final = (3008, "slow")
BUG: Final = (3004, "internal server error")
ABNORMAL: Final = (int(CloseCode.ABNORMAL_CLOSURE), "")
HEAD_END: Final = b"\r\n\r\n"
SHARE: Final = range(FRAMES_AT_ONCE)
SKIPPED_AT_ONCE: Final = 1024  # frames of a closing connection: about 1 ms

logger = logging.getLogger("realtime.websocket")


class State(enum.Enum):
    """Of the connection as the session knows it."""

    CONNECTING = "connecting"
    OPEN = "open"
    CLOSING = "closing"
    """A close frame was sent, or the handshake refused; what the peer still says is only read to its end."""
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Limits:
    """Each is a setting of the same name."""

    head_bytes: int = Settings.head_bytes
    head_headers: int = Settings.head_headers
    handshake_s: float = Settings.handshake_s
    message_bytes: int = Settings.message_bytes
    outbound_bytes: int = Settings.outbound_bytes
    outbound_s: float = Settings.outbound_s
    flood: FloodLimits = field(default_factory=FloodLimits)


class WebSocketEndpoint:
    """What all WebSockets of a worker share."""

    def __init__(
        self,
        sessions: SessionFactory,
        *,
        wheel: Wheel,
        limits: Limits | None = None,
        admission: Admission | None = None,
        on_lost: Callable[[str], None] = lambda address: None,
    ) -> None:
        """
        Args:
            sessions: makes the session of each connection.
            wheel: for deadlines; somebody turns it.
            limits: the settings' defaults unless given.
            admission: who may connect; `sessions.subprotocols` and pages of the same host unless given.
            on_lost: told of each connection's end, by its peer's address.
        """
        self.sessions = sessions
        self.wheel = wheel
        self.limits = limits or Limits()
        self.head = HeadLimits(self.limits.head_bytes, self.limits.head_headers)
        self.admission = admission or Admission(subprotocols=tuple(sessions.subprotocols))
        self.on_lost = on_lost
        self.leave: Callable[[Key | None], None] = lambda key: None  # told of the key of each connection that ended
        self.connections: set[WebSocketTransport] = set()
        self.opened = 0
        self.refused = 0
        self.slow = 0
        self.too_big = 0
        self.flooding = 0

    def transport(self, peer: Peer, received: bytes = b"") -> WebSocketTransport:
        """Make the protocol for one descriptor. `received`: bytes already taken from it, to be read first."""
        return WebSocketTransport(self, peer, received)

    def statistics(self) -> dict[str, int]:
        """Count the connections now, and what happened to those before."""
        return {
            "websockets": len(self.connections),
            "opened": self.opened,
            "refused": self.refused,
            "slow": self.slow,
            "too_big": self.too_big,
            "flooding": self.flooding,
        }


def _ignore(data: bytes) -> None:
    """Stand for `write` when nothing can be written any more."""


class WebSocketTransport(asyncio.Protocol):
    """A connection's socket, from the first byte of its handshake to its end."""

    __slots__ = (
        "__weakref__",
        "_congested_since",
        "_deadline",
        "_ended",
        "_endpoint",
        "_flood",
        "_held",
        "_is_compressed",
        "_is_resting",
        "_is_text",
        "_judge",
        "_message",
        "_needed",
        "_outbound_timer",
        "_peer",
        "_pending",
        "_session",
        "_state",
        "_taken",
        "_transport",
        "framing",
        "write",
    )

    has_close_frame = True

    def __init__(self, endpoint: WebSocketEndpoint, peer: Peer, received: bytes = b"") -> None:
        self.framing: Framing = TEXT
        self.write: Callable[[bytes], None] = _ignore
        """Send framed bytes. The socket's own method while the peer keeps up, a checked one while it does not."""
        self._endpoint = endpoint
        self._peer = peer
        self._state = State.CONNECTING
        self._session: ClientSession | None = None
        self._transport: Any = None  # asyncio.Transport; uvloop's is none of its subclasses
        self._pending = bytearray(received)  # the beginning of a frame, or of the head
        self._needed = 0  # bytes that `_pending` has to have before it is worth another look
        self._held = False  # the session reads nothing: `pause_reading`
        self._is_resting = False  # it has had its share of this turn, and the rest is in `_pending`
        self._flood: FloodMeter | None = None  # once something came that has a rate
        self._judge: ServerProtocol | None = None
        self._message: bytearray | None = None  # what came so far of one in fragments
        self._is_text = True  # that message
        self._is_compressed = False  # messages may be: the handshake said so
        self._ended: tuple[int, str] | None = None  # how, once it is known
        self._congested_since: float | None = None
        self._taken = 0  # by the peer, until then
        self._deadline: Timer | None = None
        self._outbound_timer: Timer | None = None

    def __repr__(self) -> str:
        return f"<websocket {self._peer} {self._state.value}>"

    # The socket's life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake, with what was already received."""
        self._transport = transport
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        self._endpoint.connections.add(self)
        self._arm(self._endpoint.limits.handshake_s)
        if self._pending:
            self._receive_head(b"")

    def data_received(self, data: bytes) -> None:
        """Take what the socket brought."""
        if self._state is State.OPEN:
            if self._pending or self._held:
                self._pending += data
                if len(self._pending) >= self._needed:
                    self._receive_pending()
                elif len(data) < SHORT:
                    self._meter(SEGMENTS)
            else:
                self._receive_frames(data)
        elif self._state is State.CONNECTING:
            self._receive_head(data)
        elif self._judge is not None:
            self._pending += data
            if len(self._pending) >= self._needed:
                self._receive_pending()
        else:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(DISCARD_PAUSE_S, self._go_on)

    def eof_received(self) -> None:
        """Nothing more will come; without a close frame before it, that is an abnormal end. The socket closes."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything."""
        self._enter(State.CLOSED)
        for timer in (self._deadline, self._outbound_timer):
            if timer is not None:
                timer.cancel()
        self._tell_session(*(self._ended or ABNORMAL))
        self._judge = self._transport = None
        self._pending.clear()
        endpoint = self._endpoint
        endpoint.connections.discard(self)
        endpoint.leave(self._peer.key)
        endpoint.on_lost(self._peer.address)

    def abort(self) -> None:
        """Cut the connection now; what was not sent is lost."""
        if self._transport is not None:
            self._transport.abort()

    # Opening

    def _receive_head(self, data: bytes) -> None:
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
        self._transport.write(opening.answer)
        self._disarm()
        self._enter(State.OPEN)
        self._endpoint.opened += 1
        self._is_compressed = opening.is_compressed
        try:
            self._session = self._endpoint.sessions(self, opening.handshake, opening.subprotocol)
        except Exception:
            logger.exception("! %s: no session could be made", self._peer)
            self.close(*BUG)
            return
        logger.debug("= %s: open", self._peer)
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
        logger.info("x %s: handshake refused: %s", self._peer, problem)
        self._endpoint.refused += 1
        self._enter(State.CLOSING)
        self._pending.clear()
        self._transport.write(answer)
        self._end_stream()

    # Reading

    def _receive_pending(self) -> None:
        """Read on from where a frame was not whole, where the session held us, or where the turn's share was used."""
        if self._held or self._is_resting:
            return
        data, self._pending, self._needed = self._pending, bytearray(), 0
        if self._state is State.OPEN:
            self._receive_frames(data)
        elif self._judge is not None:
            self._skip_frames(data, self._judge)

    def _receive_frames(self, data: bytes | bytearray) -> None:
        """Read whole frames in `data`, as many as one turn of the loop has, and keep the rest. This is the hot path."""
        at, size = 0, len(data)
        limit = self._endpoint.limits.message_bytes
        kind = Kind.PLAIN
        for _ in SHARE:
            if at == size or self._state is not State.OPEN or self._held:
                break
            first = data[at]
            if first > BINARY_WHOLE and (end := self._receive_controls(data, at)) > at:
                at = end
                continue
            kind, payload_at, end = look(data, at, limit - len(self._message) if self._message else limit)
            if kind is Kind.PLAIN and self._judge is None:
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
                self._consult(data[at:end], end - payload_at)
            at = end
        if at == size:
            return
        self._keep(data, at)
        if kind is not Kind.PARTIAL or self._state is not State.OPEN:
            if not self._held:
                self._rest()
        elif at == 0 and size < SHORT:
            self._meter(SEGMENTS)  # which has brought nothing to its end

    def _skip_frames(self, data: bytearray, judge: ServerProtocol) -> None:
        """Look for the peer's close frame, now that we have sent ours; what else comes is not for the session."""
        at, size, left = 0, len(data), SKIPPED_AT_ONCE
        while at < size and self._judge is not None:
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
                judge.receive_data(data[at:end])
                self._obey(judge)
            at = end
        if at < size and self._judge is not None:
            self._keep(data, at)

    def _keep(self, data: bytes | bytearray, at: int) -> None:
        """Keep what was not read, without copying what waits already."""
        if isinstance(data, bytearray):
            del data[:at]
            self._pending = data
        else:
            self._pending = bytearray(data[at:] if at else data)

    def _rest(self) -> None:
        """Let the other connections have their turn, and read on in the next one. Nothing more is taken meanwhile."""
        if not self._is_resting and self._transport is not None:
            self._is_resting = True
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._go_on)

    def _receive_controls(self, data: bytes | bytearray, at: int) -> int:
        """Answer pings and note pongs, as many as stand here; return where they end."""
        answers, count, pongs, end = controls(data, at, CONTROLS_AT_ONCE)
        if count:
            flood = self._flood
            is_allowed = flood is not None and flood.allows(CONTROL, count, asyncio.get_running_loop().time())
            if not is_allowed and not self._meter(CONTROL, count):
                return end
            if answers:
                self.write(answers)
            if pongs and self._session is not None:
                self._session.pong_received()
        return end

    def _answer_last_pings(self, data: bytearray, at: int) -> int:
        """Answer pings behind our close frame, as long as they are not too many; return where they end."""
        answers, count, _, end = controls(data, at, CONTROLS_AT_ONCE)
        is_read = self.buffered() + len(answers) <= self._endpoint.limits.outbound_bytes
        if answers and is_read and self._allows(CONTROL, count):
            self._transport.write(answers)
        return end

    def _allows(self, kind: str, count: int) -> bool:
        if self._flood is None:
            self._flood = FloodMeter(self._endpoint.limits.flood)
        return self._flood.allows(kind, count, asyncio.get_running_loop().time())

    def _meter(self, kind: str, count: int = 1) -> bool:
        """Count what a peer sends beside messages. Close the connection and return False where it is too much."""
        if self._allows(kind, count):
            return True
        self._endpoint.flooding += 1
        logger.warning("x %s: %s", self._who, self._endpoint.limits.flood.problem(kind))
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
        try:
            self._session.receive(message)
        except Exception:
            logger.exception("! %s: a message could not be received", self._peer)
            self.close(*BUG)

    def _consult(self, frame: bytes | bytearray, payload: int) -> None:
        """Give a frame to the judge, and let go of it when no message is in progress."""
        is_fragment = not frame[0] & 0x80 or not frame[0] & 0x0F
        if is_fragment and payload < SHORT and not self._meter(FRAGMENTS):
            return
        judge = self._judge
        if judge is None:
            judge = self._judge = self._make_judge()
        judge.receive_data(frame)
        self._obey(judge)
        if self._state is State.OPEN and self._message is None:
            self._judge = None

    def _make_judge(self) -> ServerProtocol:
        # Its limit counts only while we close, and for what a compressed frame holds: no more is inflated. With room
        # for a ping in a message, for it counts that as a part.
        limit = self._endpoint.limits.message_bytes + 125
        judge = ServerProtocol(state=JudgeState.OPEN, max_size=limit, logger=judge_logger)
        if self._is_compressed:
            judge.extensions = [inflating()]
        return judge

    def _obey(self, judge: ServerProtocol) -> None:
        """Do what the judge says: messages to the session, its answers to the socket, and the end when it is one."""
        for event in judge.events_received():
            assert isinstance(event, Frame), "the judge begins open"
            if self._state is State.OPEN and event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._collect(event)
            elif event.opcode is Opcode.PONG and self._session is not None:
                self._session.pong_received()
        answers = judge.data_to_send()
        write = self.write if judge.state is JudgeState.OPEN else self._transport.write
        if judge.state is not JudgeState.OPEN and self._state is State.OPEN:
            verdict = judge.close_rcvd or judge.close_sent
            assert verdict is not None, "the judge ends with a close frame, of the peer or its own"
            if isinstance(judge.parser_exc, PayloadTooBig):
                self._note_too_big()
            self._begin_closing(int(verdict.code), verdict.reason)
        for answer in answers:
            if answer:
                write(answer)
            else:  # websockets' SEND_EOF
                self._end_stream()
        if self._ended is not None and judge.close_rcvd is not None:
            self._tell_session(*self._ended)

    def _collect(self, frame: Frame) -> None:
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
            self._message = bytearray()
        assert self._message is not None, "the judge lets no other frame begin a message"
        self._message += frame.data
        if len(self._message) > self._endpoint.limits.message_bytes:  # only what was compressed comes here
            self._message = None
            self._fail_too_big()
        elif frame.fin:
            payload, self._message = bytes(self._message), None
            self._deliver(payload, self._is_text)

    def say_in(self, *, binary: bool) -> None:
        if self._is_compressed:
            self.framing = DEFLATED_BINARY if binary else DEFLATED_TEXT
        else:
            self.framing = BINARY if binary else TEXT

    def pause_reading(self) -> None:
        """Give the session no further message, though some may be here; the rest waits in the kernel."""
        if self._state is State.OPEN and not self._held:
            self._held = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on, in a later turn of the loop: the session may be in the middle of something."""
        if self._held:
            self._held = False
            self._rest()

    def _go_on(self) -> None:
        self._is_resting = False
        self._receive_pending()
        if self._transport is not None and not self._held and not self._is_resting:
            self._transport.resume_reading()

    # Writing

    def pause_writing(self) -> None:
        """The peer does not take everything: look at the limits from now on."""
        self._congested_since = now = asyncio.get_running_loop().time()
        self._taken = self.taken()
        if self._state is State.OPEN:
            self.write = self._write_checked
            if self._outbound_timer is None:
                self._watch_congestion(now)

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self._congested_since = None
        if self._state is State.OPEN:
            self.write = self._transport.write
            if self._session is not None:
                self._session.drained()

    def _write_checked(self, data: bytes) -> None:
        if self._transport.get_write_buffer_size() + len(data) > self._endpoint.limits.outbound_bytes:
            self._close_slow()
        else:
            self._transport.write(data)

    def _watch_congestion(self, since: float) -> None:
        """Look again when the peer will have been behind for too long. One timer, however often it falls behind."""
        delay_s = since + self._endpoint.limits.outbound_s - asyncio.get_running_loop().time()
        self._outbound_timer = self._endpoint.wheel.after(max(delay_s, 0), WebSocketTransport._check_congestion, self)

    def _check_congestion(self) -> None:
        self._outbound_timer = None
        since = self._congested_since
        if since is None or self._state is not State.OPEN:
            return
        now = asyncio.get_running_loop().time()
        if now - since >= self._endpoint.limits.outbound_s:
            before, self._taken = self._taken, self.taken()
            if self._session is None or not self._session.is_patient or self._taken <= before:
                self._close_slow()
                return
            self._congested_since = now  # it takes what it can
        self._watch_congestion(self._congested_since or now)

    def _close_slow(self) -> None:
        self._endpoint.slow += 1
        logger.warning("x %s: slow: %d bytes wait for it", self._who, self.buffered())
        self.close(*SLOW)

    def is_congested_since(self) -> float | None:
        """Return the loop's time since which the peer has not taken everything, or None when it has."""
        return self._congested_since

    def buffered(self) -> int:
        """Return how many bytes wait in this process."""
        return 0 if self._transport is None else int(self._transport.get_write_buffer_size())

    def taken(self) -> int:
        """Return how much the peer has taken so far, as `taken.taken` does."""
        return 0 if self._transport is None else taken(self._transport)

    def hold_little(self, wanted: bool) -> None:
        """Have the kernel hold little of what the peer does not take, or no more so, as `taken.hold_little` does."""
        if self._transport is not None:
            hold_little(self._transport, wanted)

    # Closing

    @property
    def is_open(self) -> bool:
        """Whether the handshake is done and nobody has said goodbye."""
        return self._state is State.OPEN

    def close(self, code: int, reason: str) -> None:
        """
        Say goodbye after what was written. The session is told once the peer has answered, or is gone.

        A code that no close frame may carry is our own bug, or the application's; the client then gets 3004.
        """
        if self._state is State.CONNECTING:
            self._enter(State.CLOSING)
            self._end_stream()
        if self._state is not State.OPEN:
            return
        judge = self._judge = self._judge or self._make_judge()
        reason = sayable(reason)
        try:
            judge.send_close(code, reason)
        except ProtocolError:
            logger.error("! %s: %d is no code for a close frame (%s)", self._peer, code, reason)
            judge.send_close(*BUG)
        self._begin_closing(code, reason)
        self._obey(judge)

    def _fail(self, code: CloseCode, problem: str) -> None:
        """Fail the connection (RFC 6455 section 7.1.7) for what the judge does not look at."""
        judge = self._judge = self._judge or self._make_judge()
        judge.fail(code, problem)
        self._obey(judge)
        self._tell_session(int(code), problem)

    def _fail_too_big(self) -> None:
        self._note_too_big()
        self._fail(CloseCode.MESSAGE_TOO_BIG, f"a message may have {self._endpoint.limits.message_bytes} bytes")

    def _note_too_big(self) -> None:
        self._endpoint.too_big += 1
        logger.warning("x %s: a message of more than %d bytes", self._who, self._endpoint.limits.message_bytes)

    def _begin_closing(self, code: int, reason: str) -> None:
        """Write nothing of the session's any more, and read to the end."""
        logger.debug("x %s: closing: %d %s", self._peer, code, reason)
        self._ended = (code, reason)
        self._enter(State.CLOSING)
        self._arm(CLOSE_S)
        was_held, self._held = self._held, False
        if self._pending:
            self._rest()
        elif was_held:
            self._transport.resume_reading()

    def _end_stream(self) -> None:
        """
        Send our end of the stream and read on until the peer's: a socket closed with bytes unread is reset, and the
        peer then may lose the close frame. Nobody looks at what comes until then.
        """
        self._judge = None
        self._arm(CLOSE_S)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:  # TLS has no half-closed state
            self._transport.close()

    # Small things

    @property
    def _who(self) -> str:
        """Who this is, for the log: the session, as long as there is one."""
        return str(self._peer) if self._session is None else self._session.who

    def _enter(self, state: State) -> None:
        self._state = state
        self.write = self._transport.write if state is State.OPEN else _ignore

    def _tell_session(self, code: int, reason: str) -> None:
        """Tell the session of the end, once."""
        session, self._session = self._session, None
        if session is None:
            return
        try:
            session.connection_lost(code, reason)
        except Exception:
            logger.exception("! %s: a session could not end", self._peer)

    def _arm(self, delay_s: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._endpoint.wheel.after(delay_s, WebSocketTransport.abort, self)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
