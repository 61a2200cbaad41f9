"""
Flow control of one WebSocket, both ways.

Runs in the worker. While the peer keeps up, `write` only looks whether that goes on. A peer is *behind* once anything
waits in this process: from then on the pieces in the loop's buffer are noted, so that they can move (`unsent.py`). It
is *congested* once more than `HIGH_WATER` waits, and until no more than `LOW_WATER` does. Meanwhile each write is
checked against the limit of bytes, and a timer of the worker's wheel against the limit of time. A peer that
acknowledges something, though slowly, is written on for a session that is patient.

For this the loop's own high-water mark is 0, so it calls `pause_writing` within the very write that leaves something
behind. While the peer is congested, the mark is `HIGH_WATER`, for then the loop calls `resume_writing` at `LOW_WATER`.

Reading stops in two cases: the session asks for it, or the connection has had its share of this turn of the loop. What
a peer sends beside messages has rates (`flood.py`). This file never says what a frame is.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Final

from websockets.frames import CloseCode

from realtime.log_lines import log
from realtime.timing.timer_wheel import Timer
from realtime.transport.acknowledged import acknowledged_bytes, limit_unsent
from realtime.transport.base import ClientSession, Framing
from realtime.transport.client_log import SESSION_FAILED, SLOW_CLIENT, log_sent
from realtime.transport.flood import FloodMeter
from realtime.transport.frames import TEXT, messages_in
from realtime.transport.left_behind import fallen_behind, note
from realtime.transport.parked import Parked
from realtime.transport.peer import Peer
from realtime.transport.unsent import Unsent
from realtime.transport.websocket_endpoint import WebSocketEndpoint

HIGH_WATER: Final = 65536  # bytes: asyncio's own defaults, both
LOW_WATER: Final = HIGH_WATER // 4
SLOW: Final = (3008, "slow")
ABNORMAL: Final = (int(CloseCode.ABNORMAL_CLOSURE), "")

logger = logging.getLogger("realtime.websocket")


class WebSocketState(enum.Enum):
    """Of the connection as the session knows it."""

    CONNECTING = "connecting"
    OPEN = "open"
    PARKED = "parked"
    """Between two workers: what is written waits (`websocket_move.py`)."""
    OFFERED = "offered"
    """To another worker, which may read and write by now."""
    CLOSING = "closing"
    """A close frame was sent, or the handshake refused; what the peer still says is only read to its end."""
    CLOSED = "closed"


OPEN: Final = WebSocketState.OPEN
"""For the hot path: before Python 3.12, to look up `WebSocketState.OPEN` costs four times as much."""


def _ignore(data: bytes) -> None:
    """Stand for `write` when nothing can be written any more."""


class WebSocketFlow(asyncio.Protocol):
    """What is written to one socket. The class that reads from it derives from this one."""

    __slots__ = (
        "__weakref__",
        "_acknowledged",
        "_congested_since",
        "_deadline",
        "_endpoint",
        "_flood",
        "_held",
        "_is_resting",
        "_keeps_unsent",
        "_needed",
        "_outbound_timer",
        "_parked",
        "_peer",
        "_pending",
        "_session",
        "_state",
        "_transport",
        "_unsent",
        "framing",
        "write",
    )

    has_close_frame = True

    def __init__(self, endpoint: WebSocketEndpoint, peer: Peer) -> None:
        self.framing: Framing = TEXT
        self.write: Callable[[bytes], None] = _ignore
        """
        Send framed bytes; `note` follows. What does it depends on the state, and on whether the peer keeps up. While it
        does, this is the loop's own function: a call of ours for each member would cost a tenth of a broadcast.
        """
        self._endpoint = endpoint
        self._peer = peer
        self._state = WebSocketState.CONNECTING
        self._session: ClientSession | None = None
        self._transport: Any = None  # asyncio.Transport; uvloop's is none of its subclasses
        self._congested_since: float | None = None
        self._acknowledged = 0  # `acknowledged_bytes` at that time
        self._unsent: Unsent | None = None  # what waits in the loop's buffer; None: nothing does
        self._keeps_unsent = False  # so that it can move: the loop's transport writes what it is given, not TLS
        self._parked: Parked | None = None  # in place of the loop's transport
        self._pending = bytearray()  # received and not read: the beginning of a frame, or of the head
        self._needed = 0  # bytes that `_pending` has to have before it is worth another look
        self._flood: FloodMeter | None = None  # once something came that has a rate
        self._held = False  # the session reads nothing: `pause_reading`
        self._is_resting = False  # it has had its share of this turn, and the rest waits for the next one
        self._deadline: Timer | None = None
        self._outbound_timer: Timer | None = None

    @abstractmethod
    def close(self, code: int, reason: str) -> None:
        """Send a close frame after what was written, and wait for the peer's."""

    def abort(self) -> None:
        """Cut the connection now; what was not sent is lost."""
        if self._transport is not None:
            self._transport.abort()

    def _begin_writing(self) -> None:
        """Have the loop say when the peer falls behind. Comes first, with each transport of the loop."""
        self._keeps_unsent = self._transport.get_extra_info("ssl_object") is None
        self._transport.set_write_buffer_limits(high=0 if self._keeps_unsent else HIGH_WATER)
        fallen_behind.clear()  # what waits here already is no piece of ours
        if self._keeps_unsent and self._transport.get_write_buffer_size():
            self._unsent = Unsent()  # of an earlier request on this connection; its bytes are not known

    def pause_writing(self) -> None:
        """The peer does not take everything: the write that is under way leaves something behind."""
        if self._keeps_unsent:
            if self._unsent is None:
                self._unsent = Unsent()
                fallen_behind.append(self)  # `left_behind` follows, with the piece
        else:
            self._begin_congestion(asyncio.get_running_loop().time(), self.acknowledged_bytes())
        if self._state is OPEN:
            self.write = self._write_behind

    def resume_writing(self) -> None:
        """The peer has caught up: with everything, or where it was congested with most of it."""
        if self._state is WebSocketState.PARKED:
            return  # the loop lets go of the socket
        was_congested, self._congested_since = self._congested_since is not None, None
        if not self._keeps_unsent or not self._transport.get_write_buffer_size():
            self._unsent = None
            if self._state is OPEN:
                self.write = self._unchecked_write()
        if was_congested:
            if self._keeps_unsent:
                self._transport.set_write_buffer_limits(high=0)  # `pause_writing` comes at once where something waits
            if self._state is OPEN and self._session is not None:
                self._session.drained()

    def _begin_congestion(self, since: float, acknowledged: int) -> None:
        """Look at the limits from now on. `acknowledged`: by the peer at that time, in bytes."""
        self._congested_since = since
        self._acknowledged = acknowledged
        if self._keeps_unsent:
            self._transport.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)
        if self._outbound_timer is None and self._state is OPEN:
            self._watch_congestion(since)

    def _unchecked_write(self) -> Callable[[bytes], None]:
        """Return what writes while the peer keeps up."""
        if self._endpoint.logs_messages:
            return self._write_logged
        write: Callable[[bytes], None] = self._transport.write
        return write

    def _put(self, data: bytes) -> None:
        """Write, whatever the limits say, and note what stays behind."""
        self._transport.write(data)
        if self._unsent is not None:
            fallen_behind.clear()  # of nothing but this connection
            self.left_behind(data)

    def left_behind(self, piece: bytes) -> None:
        """See `FallenBehind`."""
        unsent = self._unsent
        if unsent is None:
            return
        unsent.append(piece)
        buffered = self._transport.get_write_buffer_size()
        unsent.trim(buffered)
        if buffered > HIGH_WATER and self._congested_since is None:
            self._begin_congestion(asyncio.get_running_loop().time(), self.acknowledged_bytes())

    def _send(self, data: bytes) -> None:
        """Send framed bytes of the connection's own, such as a pong."""
        self.write(data)
        if fallen_behind:
            note(data)

    def _write_logged(self, data: bytes) -> None:
        log_sent(logger, self._log_fields, messages_in(data))
        self._put(data)

    def _write_behind(self, data: bytes) -> None:
        buffered = self._transport.get_write_buffer_size()
        if self._congested_since is not None and buffered + len(data) > self._endpoint.limits.outbound_bytes:
            self._close_slow()
        else:
            self._put(data)

    def _write_offered(self, data: bytes) -> None:
        """Drop it: another worker writes. The session was exported before, so this is our own bug."""
        log(logger, logging.ERROR, "! write while moving", **self._peer.log_fields, bytes=len(data))

    def _watch_congestion(self, since: float) -> None:
        """Look again when the peer will have been behind for too long. One timer, however often it falls behind."""
        delay_s = since + self._endpoint.limits.outbound_s - asyncio.get_running_loop().time()
        self._outbound_timer = self._endpoint.wheel.after(max(delay_s, 0), WebSocketFlow._check_congestion, self)

    def _check_congestion(self) -> None:
        self._outbound_timer = None
        since = self._congested_since
        if since is None or self._state is not OPEN:
            return
        now = asyncio.get_running_loop().time()
        if now - since >= self._endpoint.limits.outbound_s:
            before, self._acknowledged = self._acknowledged, self.acknowledged_bytes()
            if self._session is None or not self._session.is_patient or self._acknowledged <= before:
                self._close_slow()
                return
            self._congested_since = now  # it takes what it can
        self._watch_congestion(self._congested_since or now)

    def _close_slow(self) -> None:
        self._endpoint.slow += 1
        log(logger, logging.WARNING, SLOW_CLIENT, **self._log_fields, waiting_bytes=self.buffered())
        self.close(*SLOW)

    def is_congested_since(self) -> float | None:
        """Return the loop's time since which the peer has not taken everything, or None when it has."""
        return self._congested_since

    def buffered(self) -> int:
        """Return how many bytes wait in this process."""
        return 0 if self._transport is None else int(self._transport.get_write_buffer_size())

    def acknowledged_bytes(self) -> int:
        """See `Transport.acknowledged_bytes`."""
        return 0 if self._transport is None else acknowledged_bytes(self._transport)

    def limit_unsent(self, is_limited: bool) -> None:
        """See `Transport.limit_unsent`."""
        if self._transport is not None:
            limit_unsent(self._transport, is_limited)

    # Reading

    @abstractmethod
    def _receive_pending(self) -> None:
        """Read on in what was received and not read. Does nothing while held or resting."""

    def pause_reading(self) -> None:
        """Give the session no further message, though some may be here; the rest waits in the kernel."""
        if self._state is OPEN and not self._held:
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

    def _rest(self) -> None:
        """Let the other connections have their turn, and read on in the next one. Nothing more is taken meanwhile."""
        if not self._is_resting and self._transport is not None:
            self._is_resting = True
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._go_on)

    def _keep(self, data: bytes | bytearray, at: int) -> None:
        """Keep what was not read, without copying what waits already."""
        if isinstance(data, bytearray):
            del data[:at]
            self._pending = data
        else:
            self._pending = bytearray(data[at:] if at else data)

    def _allows(self, kind: str, count: int) -> bool:
        if self._flood is None:
            self._flood = FloodMeter(self._endpoint.limits.flood)
        return self._flood.allows(kind, count, asyncio.get_running_loop().time())

    # State and deadline

    @property
    def _log_fields(self) -> Mapping[str, Any]:
        """The client, as fields of a log line: the session's, as long as there is one."""
        return self._peer.log_fields if self._session is None else self._session.log_fields

    def _enter(self, state: WebSocketState) -> None:
        self._state = state
        if state is OPEN:
            self.write = self._unchecked_write() if self._unsent is None else self._write_behind
        elif state is WebSocketState.PARKED:
            assert self._parked is not None, "what is written then waits there"
            self.write = self._parked.pieces.append
        else:
            self.write = self._write_offered if state is WebSocketState.OFFERED else _ignore
            self._unsent = None

    def _tell_session(self, code: int, reason: str) -> None:
        """Tell the session of the end, once."""
        session, self._session = self._session, None
        if session is None:
            return
        try:
            session.connection_lost(code, reason)
        except Exception:  # noqa: BLE001 - a bug: logged, and the socket is let go all the same
            log(logger, logging.ERROR, SESSION_FAILED, **self._peer.log_fields, during="end", exc_info=True)

    def _arm(self, delay_s: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._endpoint.wheel.after(delay_s, WebSocketFlow.abort, self)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
