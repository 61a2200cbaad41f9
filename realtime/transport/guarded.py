"""
What uvicorn's HTTP protocols lack, for both parsers: limits that are settings, and what HTTP says of old and of
half-closed clients.

Runs in the worker, between `hosted.py` and uvicorn (for httptools: `paced.py`).

- A head is bounded in bytes, headers and time, whichever request of a connection it begins. So are a body's trailers.
- A client that takes nothing of its answer is cut off after a time.
- HTTP/1.0 knows no chunks and no `100 Continue`: an answer without a length ends with the connection (RFC 9112, section
  7.1; RFC 9110, section 10.1.1).
- A client that has sent its requests and then its end of the stream gets its answers (RFC 9112, section 9.6). One that
  is gone altogether looks the same, so an application that asks gets `http.disconnect` once the client has taken
  nothing for a while.
- Nothing is logged of what was asked: `access.py` does it, where it is wanted.

Theory of operation
-------------------
Two things are watched, each by one timer at most, and neither costs anything while a client behaves:

    the head     from its first byte to its end, `handshake_s`. While an answer is under way the time does not count: a
                 pipelined head waits for it, and that is no fault of the client.
    the peer     from the moment when bytes wait for it, `outbound_s` without an acknowledged byte (patience.py).

uvicorn has one timer more, for a connection that is kept between two requests. Once a head has begun, the connection is
not kept for that any more, so its timer is taken off.

**How a connection ends.** By an answer that is its last, by a refusal, by a peer that is too slow, or by a peer that is
gone. A refusal is written only where no answer has begun: within an answer nothing can be said, and its client would
take the refusal for a part of the body.
"""

from __future__ import annotations

import asyncio
import http
import sys
from dataclasses import dataclass, field
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from realtime.settings import Settings
from realtime.settings.fields import HOSTED_MESSAGE_BYTES
from realtime.transport.acknowledged import acknowledged_bytes
from realtime.transport.cycles import become_h11_cycle, become_httptools_cycle
from realtime.transport.handshake import refusal
from realtime.transport.joined import JoiningTransport
from realtime.transport.paced import PacedHttptools
from realtime.transport.patience import Patience
from sticky.heads.first_bytes import HeadLimits

# Of a client that has half closed: an answer that pauses for longer goes on, unless the application asks whether to.
HALF_CLOSED_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class HostedLimits:
    """Each is a setting of the same name."""

    head: HeadLimits = field(default_factory=HeadLimits)
    handshake_s: float = Settings.handshake_s
    keep_alive_s: float = Settings.keep_alive_s
    outbound_s: float = Settings.outbound_s
    ping_s: float = Settings.ping_s
    pong_s: float = Settings.pong_s
    hosted_message_bytes: int = HOSTED_MESSAGE_BYTES

    @classmethod
    def from_settings(cls, settings: Settings) -> HostedLimits:
        """Return the limits that are set."""
        return cls(
            head=HeadLimits(settings.head_bytes, settings.head_headers),
            handshake_s=settings.handshake_s,
            keep_alive_s=settings.keep_alive_s,
            outbound_s=settings.outbound_s,
            ping_s=settings.ping_s,
            pong_s=settings.pong_s,
            hosted_message_bytes=settings.hosted_message_bytes_or_default,
        )


class HeadTooLong(Exception):
    """Raised in a parser's callback, where it ends the reading."""


class Guarded(asyncio.Protocol):
    """
    The limits of one hosted connection, for either parser.

    The other base of a class with this one is uvicorn's. A subclass sets `limits` before it calls `__init__`, because
    uvicorn's constructor already needs them. What is declared here without a value belongs to uvicorn's class:
    tests/realtime/transport/test_uvicorn_contract.py checks that it is there.

    Attributes:
        pipeline: requests that wait for the answer to the one before; h11 has none.
        is_half_closed: the peer has sent its end of the stream, and waits for answers.
        needs_peer: what is answered now is worth nothing once the peer is gone: a stream of ours.
    """

    limits: HostedLimits
    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    cycle: Any
    scope: Any
    headers: Any
    flow: Any
    scheme: Any
    timeout_keep_alive: Any
    pipeline: Any = ()
    is_half_closed = False
    needs_peer = False

    def __init__(self, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self.access_log = False
        self.timeout_keep_alive = self.limits.keep_alive_s
        self._patience = Patience(self.limits.outbound_s, self._cut_slow)
        self._deadline: asyncio.TimerHandle | None = None  # of a head that has begun

    # The socket's life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.joining = JoiningTransport(self.transport, self.loop)
        if self.scheme == "https":  # of all others the primary has seen the head
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self.let_go()
        super().connection_lost(exc)

    def let_go(self) -> None:
        """Watch the connection no more: it is lost, or somebody else's."""
        self._patience.end()
        self._forget_head()

    @property
    def _is_answering(self) -> bool:
        """Whether a request has come whose answer has not ended."""
        return self.cycle is not None and not self.cycle.response_complete

    # Heads

    is_in_head: Any = False
    """Whether the parser has read the beginning of a head and not its end."""
    waits_for_head: Any = False
    """Whether such a beginning is kept from the parser."""

    def before_reading(self, data: bytes) -> None:
        """Learn that these bytes will be read now."""

    def after_reading(self) -> None:
        """Look at what was read."""
        self.watch_head()

    def watch_head(self) -> None:
        """Give a head that has begun its time; it is no longer the one for which the connection is kept."""
        if self.is_in_head or self.waits_for_head:
            self._unset_keepalive_if_required()  # type: ignore[attr-defined]
            self._await_head()
        elif self._deadline is not None:
            self._forget_head()

    def _await_head(self) -> None:
        """Have the head end in time. The time of one that has begun already goes on."""
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.limits.handshake_s, self._end_waiting)

    def _forget_head(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end_waiting(self) -> None:
        """Refuse a head that did not come in time. During an answer it gets its time once more."""
        self._deadline = None
        if self._is_answering:
            self._await_head()
        elif not self.transport.is_closing() and (self.cycle is None or self.is_in_head or self.waits_for_head):
            self.refuse(http.HTTPStatus.REQUEST_TIMEOUT, "The request's head did not come in time.")

    def refuse(self, status: int, text: str) -> None:
        """
        Answer a request that cannot be read, after the answers to those before it, and end the connection.

        Args:
            status: HTTP's, at least 400.
            text: one sentence for the client. It must not repeat what the client sent.
        """
        assert status >= http.HTTPStatus.BAD_REQUEST, "a refusal is an error of the client's, or of ours"
        if self.transport.is_closing():
            return
        if self._is_answering and not self.cycle.more_body:
            # An earlier request is whole and gets its answer. With that the connection ends: nothing more is read.
            self.cycle.keep_alive = False
            self.flow.pause_reading()
        elif self._is_answering and (self.pipeline or self.cycle.response_started):
            self.transport.close()  # nothing can be said within an answer
        else:
            self.transport.write(refusal(http.HTTPStatus(status), text))
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser could not read: its exception is being handled."""
        error = sys.exc_info()[1]
        if (
            isinstance(getattr(error, "__context__", None), HeadTooLong)
            or getattr(error, "error_status_hint", 0) == 431
        ):
            self._refuse_long()
        else:
            self.refuse(http.HTTPStatus.BAD_REQUEST, msg)

    def _refuse_long(self) -> None:
        self.refuse(http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request's head is too long.")

    # Slow peers

    def pause_writing(self) -> None:
        super().pause_writing()
        if not self.needs_peer:  # else the stream has a patience of its own, which knows whether its room conflates
            self._patience.begin(self.transport)

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():  # else `_see_off` goes on: the rest of the buffer has to leave as well
            self._patience.end()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()  # type: ignore[misc]
        self._see_off()

    def _see_off(self) -> None:
        """Have the connection end though its peer takes nothing: a transport that is closed sends everything first."""
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._patience.begin(self.transport)

    def _cut_slow(self) -> None:
        """Cut the connection: an answer's end would wait behind the bytes that the peer does not take."""
        self.note_slow(self.transport.get_write_buffer_size())
        self.transport.abort()

    def note_slow(self, waiting: int) -> None:
        """Learn that the peer is cut off, and how many bytes wait for it."""

    # Half-closed peers

    def expect_peer(self) -> None:
        """
        Take the peer for gone once it has said its end of the stream, and leave it to the caller to end a slow one:
        what is answered now is a stream, and a stream is worth nothing to a client that is gone.
        """
        self.needs_peer = True
        self._patience.end()
        if self.is_half_closed:
            self.transport.close()

    def eof_received(self) -> Any:
        """Say whether the connection goes on: while there are answers to whole requests to come."""
        if self.scheme == "https" or self.needs_peer or not self._has_whole_request():
            return None  # TLS has no half-closed state
        if not self.is_half_closed:
            self.is_half_closed = True
            self._watch_half_closed(acknowledged_bytes(self.transport))
        return True

    def _has_whole_request(self) -> bool:
        """Whether the peer is owed an answer: it will never send the rest of a request that is not whole."""
        return self._is_answering and (not self.cycle.more_body or bool(self.pipeline))

    def end_half_closed(self) -> None:
        """Close once the last whole request of a half-closed client is answered."""
        if self.is_half_closed and not self._has_whole_request() and not self.transport.is_closing():
            self.transport.close()
            self._see_off()

    def _watch_half_closed(self, before: int) -> None:
        """
        Look again after a while. A half-closed peer and one that is gone look the same (both have sent FIN); only the
        bytes that it acknowledges tell. `before`: how many it had then.
        """
        self.loop.call_later(HALF_CLOSED_S, self._look_at_half_closed, before)

    def _look_at_half_closed(self, before: int) -> None:
        if self.transport.is_closing() or not self._is_answering:
            return
        now = acknowledged_bytes(self.transport)
        if now <= before and not self.pipeline:
            # Taken for gone. uvicorn's `receive` wakes at the event, and ours returns `http.disconnect`.
            self.cycle.is_gone = True
            self.cycle.message_event.set()
            self.peer_is_gone()
        else:
            self._watch_half_closed(now)

    def peer_is_gone(self) -> None:
        """Learn that a half-closed peer has taken nothing for a while. The application gets `http.disconnect`."""

    def on_response_complete(self) -> None:
        """Learn that the answer has ended. What waits to be joined with more of it leaves now."""
        self.joining.flush()
        super().on_response_complete()  # type: ignore[misc]
        self.needs_peer = False
        self._see_off()


class GuardedHttptools(Guarded, PacedHttptools):
    """
    Over httptools, which itself bounds neither a head nor the trailers of a body.

    The parser does not say where in a read the head began. So its size has two bounds: what certainly belongs to it
    (its headers, and all reads after the first), and what was read at most. Nothing is counted twice while the second
    is below the limit, which is the usual case: one read, one head.
    """

    is_in_head = False

    def __init__(self, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._now = 0  # bytes that are being read
        self._head_read = 0  # bytes of the reads that the head is in, which can hold something before it
        self._head_first = 0  # of these, those of the first read
        self._body_had = 0  # bytes of a body that waited for the application before this read
        self._idle = 0  # bytes since the last one of a body: trailers, and what goes with chunks

    def before_reading(self, data: bytes) -> None:
        """Count the bytes before the parser sees them: within its callbacks they have to be counted already."""
        self._now = len(data)
        if not self.is_in_head:
            self._head_read = self._head_first = 0
        self._head_read += self._now
        self._body_had = len(self.cycle.body) if self._is_answering else 0

    def after_reading(self) -> None:
        """Refuse a head, or the trailers of a body, that is too long by now."""
        super().after_reading()
        if self.is_in_head:
            self._head_first = self._head_first or self._head_read
            at_least = self._head_read - self._head_first
            if self._is_too_long(at_least):
                self._refuse_long()
        elif self._is_answering and self.cycle.more_body:
            self._idle = 0 if len(self.cycle.body) > self._body_had else self._idle + self._now
            if self._idle > self.limits.head.max_bytes:
                self._refuse_long()

    def _is_too_long(self, at_least: int = 0) -> bool:
        """Say whether the head is, as far as it was read; not all that was read is there to be counted yet."""
        assert 0 <= at_least <= self._head_read, "what certainly belongs to the head was read"
        limits = self.limits.head
        if len(self.headers) > limits.max_headers:
            return True
        if self._head_read <= limits.max_bytes:
            return False
        lines = sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)
        line = len(self.parser.get_method()) + len(self.url) + len("  HTTP/1.1\r\n\r\n")
        return max(at_least, line + lines) > limits.max_bytes

    # Called by the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.is_in_head = True

    def on_headers_complete(self) -> None:
        """
        Take up the request.

        Raises:
            HeadTooLong: in the parser, which stops there and hands it to `send_400_response` as a cause.
        """
        self.is_in_head = False
        self._idle = 0
        if self._is_too_long():
            raise HeadTooLong
        super().on_headers_complete()
        become_httptools_cycle(self.cycle, self.joining, is_old=self.scope["http_version"] == "1.0")


class GuardedH11(Guarded, H11Protocol):
    """Over h11, which bounds a head that is not whole, and trailers."""

    def __init__(self, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self.conn = _H11(self.limits.head)

    @property
    def is_in_head(self) -> bool:
        return self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])

    def handle_events(self) -> None:
        super().handle_events()
        become_h11_cycle(self.cycle, self.joining)


class _H11(h11.Connection):
    """h11's, with limits for a head that is whole as well."""

    def __init__(self, limits: HeadLimits) -> None:
        super().__init__(h11.SERVER, limits.max_bytes)
        self._limits = limits

    def next_event(self) -> Any:
        """
        Return h11's next event.

        Raises:
            RemoteProtocolError: a whole head is too long. h11 itself bounds only a head that has not ended.
        """
        event = super().next_event()
        if isinstance(event, h11.Request):
            lines = sum(len(name) + len(value) + len(": \r\n") for name, value in event.headers)
            size = len(event.method) + len(event.target) + len("  HTTP/1.1\r\n\r\n") + lines
            if len(event.headers) > self._limits.max_headers or size > self._limits.max_bytes:
                raise h11.RemoteProtocolError("the head is too long", error_status_hint=431)
        return event
