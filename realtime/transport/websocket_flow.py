"""
Flow control of one WebSocket, both ways.

Runs in the worker. While the peer keeps up, `write` is the socket's own method: nothing is looked at. Once bytes wait
in this process, each write is checked against the limit of bytes, and a timer of the worker's wheel against the limit
of time. A peer that acknowledges something, though slowly, is written on for a session that is patient.

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

from realtime.log_lines import log
from realtime.timing.timer_wheel import Timer
from realtime.transport.acknowledged import acknowledged_bytes, limit_unsent
from realtime.transport.base import ClientSession, Framing
from realtime.transport.client_log import SESSION_FAILED, SLOW_CLIENT, log_sent
from realtime.transport.flood import FloodMeter
from realtime.transport.frames import TEXT, messages_in
from realtime.transport.peer import Peer
from realtime.transport.websocket_endpoint import WebSocketEndpoint

SLOW: Final = (3008, "slow")

logger = logging.getLogger("realtime.websocket")


class WebSocketState(enum.Enum):
    """Of the connection as the session knows it."""

    CONNECTING = "connecting"
    OPEN = "open"
    CLOSING = "closing"
    """A close frame was sent, or the handshake refused; what the peer still says is only read to its end."""
    CLOSED = "closed"


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
        "_needed",
        "_outbound_timer",
        "_peer",
        "_pending",
        "_session",
        "_state",
        "_transport",
        "framing",
        "write",
    )

    has_close_frame = True

    def __init__(self, endpoint: WebSocketEndpoint, peer: Peer) -> None:
        self.framing: Framing = TEXT
        self.write: Callable[[bytes], None] = _ignore
        """Send framed bytes. The socket's own method while the peer keeps up, a checked one while it does not."""
        self._endpoint = endpoint
        self._peer = peer
        self._state = WebSocketState.CONNECTING
        self._session: ClientSession | None = None
        self._transport: Any = None  # asyncio.Transport; uvloop's is none of its subclasses
        self._congested_since: float | None = None
        self._acknowledged = 0  # `acknowledged_bytes` at that time
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

    def pause_writing(self) -> None:
        """The peer does not take everything: look at the limits from now on."""
        self._congested_since = now = asyncio.get_running_loop().time()
        self._acknowledged = self.acknowledged_bytes()
        if self._state is WebSocketState.OPEN:
            self.write = self._write_checked
            if self._outbound_timer is None:
                self._watch_congestion(now)

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self._congested_since = None
        if self._state is WebSocketState.OPEN:
            self.write = self._unchecked_write()
            if self._session is not None:
                self._session.drained()

    def _unchecked_write(self) -> Callable[[bytes], None]:
        """Return what writes while the peer keeps up: the socket's own method, unless the log shows what is sent."""
        write: Callable[[bytes], None] = self._write_logged if self._endpoint.logs_messages else self._transport.write
        return write

    def _write_logged(self, data: bytes) -> None:
        log_sent(logger, self._log_fields, messages_in(data))
        self._transport.write(data)

    def _write_checked(self, data: bytes) -> None:
        if self._transport.get_write_buffer_size() + len(data) > self._endpoint.limits.outbound_bytes:
            self._close_slow()
        else:
            self._transport.write(data)

    def _watch_congestion(self, since: float) -> None:
        """Look again when the peer will have been behind for too long. One timer, however often it falls behind."""
        delay_s = since + self._endpoint.limits.outbound_s - asyncio.get_running_loop().time()
        self._outbound_timer = self._endpoint.wheel.after(max(delay_s, 0), WebSocketFlow._check_congestion, self)

    def _check_congestion(self) -> None:
        self._outbound_timer = None
        since = self._congested_since
        if since is None or self._state is not WebSocketState.OPEN:
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
        if self._state is WebSocketState.OPEN and not self._held:
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
        self.write = self._unchecked_write() if state is WebSocketState.OPEN else _ignore

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
