"""
One WebSocket of a hosted application.

Runs in the worker, over uvicorn's protocol class (read in small steps: `paced.py`), to which it adds what is a setting
or a promise of ours: how long a head may be and a handshake may take, how a connection ends so that the peer reads why,
and that nothing is logged of what was asked.
"""

from __future__ import annotations

import asyncio
import http
import logging
from typing import Any, Final

from realtime.log_lines import log
from realtime.transport.asgi_host import ASGIHost
from realtime.transport.client_log import SLOW_CLIENT
from realtime.transport.handshake import refusal, ws_protocol_logger
from realtime.transport.opening import read_opening, skip_head
from realtime.transport.paced import PacedWebSocket
from realtime.transport.patience import Patience
from realtime.transport.peer import Peer
from sticky.heads.first_bytes import HeadLimits, Refusal
from sticky.keys.hashing import Key

CLOSE_S: Final = 4.0  # for the peer's half of the closing handshake, as with our own WebSockets
RESTART: Final = 1012  # RFC 6455, section 7.4.2: the server restarts

logger = logging.getLogger("realtime.asgi")
quiet_logger = logging.getLogger("realtime.asgi.websocket")
quiet_logger.setLevel(logging.WARNING)  # uvicorn's lines about a handshake have its query, which can hold a token


class HostedWebSocket(PacedWebSocket):
    """From the request for a WebSocket to the connection's end."""

    is_websocket = True
    scope: Any

    def __init__(self, host: ASGIHost, app: Any, peer: Peer) -> None:
        super().__init__(host.config, host.state, host.endpoint)
        self.app = app
        self.logger = quiet_logger
        self.conn.logger, self.conn.debug = ws_protocol_logger, False
        self._host = host
        self._peer = peer
        self._patience = Patience(host.limits.outbound_s, self._cut_slow)
        self._deadline: asyncio.TimerHandle | None = None  # of the application's answer to the handshake
        self._has_failed = False
        self._early = b""  # what came before the handshake was answered

    def __repr__(self) -> str:
        return f"<hosted websocket {self._peer}>"

    @property
    def key(self) -> Key | None:
        """The client's key."""
        return self._peer.key

    @property
    def is_open(self) -> bool:
        """Whether the handshake is done and neither side has begun to close."""
        return self.handshake_complete and not self.close_sent

    # Opening

    def open(self, head: bytes) -> None:
        """Begin the handshake. `head` is the request, read once and put together anew; nothing comes before it."""
        limits = self._host.limits.head
        request = read_opening(head, HeadLimits(2 * limits.max_bytes, limits.max_headers))  # the first reader was exact
        if isinstance(request, Refusal):
            self._refuse(http.HTTPStatus(request.status), request.reason)
            return
        skip_head(self.conn)
        self.head_is_read()
        fields = list(request.headers.raw_items())
        for name in {name for name, value in fields if not value.isascii()}:
            del request.headers[name]  # uvicorn encodes them, by rules that follow websockets' version
        self.handle_connect(request)
        if not self.close_sent:
            self.scope["headers"] = [(name.encode(), value.encode("latin-1")) for name, value in fields]
            self._deadline = self.loop.call_later(self._host.limits.handshake_s, self._end_waiting)

    def data_received(self, data: bytes) -> None:
        if self.handshake_initiated and not self.handshake_complete:  # until it is, nothing can be a frame
            self._early += data
            self.transport.pause_reading()
        else:
            super().data_received(data)

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self._early and self.handshake_complete:
            early, self._early = self._early, b""
            if not self.transport.is_closing():
                self.transport.resume_reading()
                self.data_received(early)

    def start_keepalive(self) -> None:
        """Learn that the application has accepted."""
        self._forget_deadline()
        super().start_keepalive()

    def _end_waiting(self) -> None:
        self._deadline = None
        if not self.handshake_complete and not self.close_sent:
            limit_s = self._host.limits.handshake_s
            log(logger, logging.WARNING, "x handshake not answered", **self._peer.log_fields, within_s=limit_s)
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
            self._refuse(http.HTTPStatus.SERVICE_UNAVAILABLE, "The application did not answer in time.")

    def _refuse(self, status: http.HTTPStatus, text: str) -> None:
        self.handshake_complete = self.close_sent = True
        self.transport.write(refusal(status, text))
        self.transport.close()

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # Slow peers

    def pause_writing(self) -> None:
        super().pause_writing()
        self._patience.begin(self.transport)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._patience.end()

    def _cut_slow(self) -> None:
        self._host.slow += 1
        waiting_bytes = self.transport.get_write_buffer_size()
        log(logger, logging.WARNING, SLOW_CLIENT, **self._peer.log_fields, waiting_bytes=waiting_bytes)
        self.transport.abort()

    def keepalive_timeout(self) -> None:
        """Close, unless nothing of the peer was read: a pong waits behind what the application does not receive."""
        if self.read_paused and self.ping_timeout is not None:
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)
            return
        super().keepalive_timeout()
        if self.transport.is_closing():
            self._patience.begin(self.transport)  # it sends everything first, to a peer that may take nothing

    # Closing

    def shutdown(self) -> None:
        """Say goodbye, and end once the peer has as well (RFC 6455, section 7.1.1); sooner, where it says nothing."""
        if not self.handshake_complete:
            super().shutdown()
        elif not self.close_sent:
            self.stop_keepalive()
            self.queue.put_nowait({"type": "websocket.disconnect", "code": RESTART})
            self.conn.send_close(RESTART)
            self.transport.write(b"".join(self.conn.data_to_send()))
            self._await_peer()

    def handle_parser_exception(self) -> None:
        """
        Say what was wrong, then read on to the peer's end: a socket closed with bytes unread is reset, and the peer
        then may lose the close frame.
        """
        if self._has_failed:  # uvicorn calls it again for all that comes
            return
        self._has_failed = True
        self.stop_keepalive()
        verdict = self.conn.close_sent
        assert verdict is not None, "websockets fails a connection with a close frame"
        self.queue.put_nowait({"type": "websocket.disconnect", "code": verdict.code, "reason": verdict.reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self._await_peer()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _await_peer(self) -> None:
        """Read on to the peer's close frame, or its end."""
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.read_on()
        self.close_timer = self.loop.call_later(CLOSE_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._patience.end()
        self._forget_deadline()
        super().connection_lost(exc)
        self._host.owner.ended(self._peer)
