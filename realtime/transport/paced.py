"""
uvicorn's protocols, read in small steps.

Runs in the worker. uvicorn hands everything that one read brought to the parser at once: some ten thousand frames, or
pipelined requests, which hold up every other connection. Here few pipelined requests wait parsed, and the others as
bytes. Of a WebSocket, a connection has `FRAMES_AT_ONCE` frames in one turn of the loop, and
the next ones when the application has taken the messages in them; the rest waits in order, and meanwhile nothing is
read from the socket. What a peer may send beside messages has the rates of `flood.py`, as on our own WebSockets.
This module parses nothing: it finds where frames end, and the parser says what is legal. h11 needs none of this: it
stops by itself behind a request that is not answered.

Why a share of a turn, and not a rate: a client that sends much in good faith is to get as much of the worker as there
is, with everybody else. Only what brings no message to an application (control frames, short fragments, short segments)
has a rate, because no application decides about it.

Invariant of both classes: bytes that were read from the socket and not parsed are in one place (`_unparsed`, `_rest`),
in order, and while that is not empty nothing is read from the socket.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from uvicorn import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import CloseCode

from realtime.log_lines import log
from realtime.transport.client_log import FLOOD
from realtime.transport.flood import (
    CONTROL,
    DISCARD_PAUSE_S,
    FRAGMENTS,
    FRAMES_AT_ONCE,
    SEGMENTS,
    SHORT,
    FloodMeter,
    FrameWalk,
)

if TYPE_CHECKING:
    from realtime.transport.websocket_endpoint import WebSocketEndpoint

HEAD_END: Final = b"\r\n\r\n"
CLOSE_S: Final = 4.0  # for a close frame that is on its way to a peer that floods

STEP: Final = 2048  # bytes of requests; a hundred of the shortest, some 3 ms
STEP_MAX: Final = 8192  # bytes, as long as no request begins: of a body
PIPELINED: Final = 8  # requests that wait, parsed, behind the one that is answered

logger = logging.getLogger("realtime.asgi")


class _Flow(FlowControl):
    """Reading that stays paused, whatever asks to resume it, while bytes wait that were read already."""

    is_held = False

    def resume_reading(self) -> None:
        """Read on, unless bytes are held. uvicorn calls this whenever an application takes a part of a body."""
        if not self.is_held:
            super().resume_reading()


class PacedHttptools(HttpToolsProtocol):
    """
    Requests over httptools, of which only a few are parsed ahead.

    uvicorn parses all that it gets and keeps the requests in a list. A kilobyte can hold sixty of them, and each costs
    a scope and headers. So a read is parsed in pieces, and as soon as `PIPELINED` requests wait, the rest stays bytes.
    """

    _unparsed: bytearray | None = None
    flow: _Flow

    def connection_made(self, transport: Any) -> None:
        """Put our flow control in place of uvicorn's, which its cycles ask for by this attribute."""
        super().connection_made(transport)
        self.flow = _Flow(transport)

    def data_received(self, data: bytes) -> None:
        """Parse it, or as much as there is room for."""
        if self._unparsed is not None:
            self._unparsed += data
        elif len(data) <= STEP:
            self._feed_parser(data)
        else:
            self._parse_steps(bytearray(data))

    def _parse_steps(self, data: bytearray) -> None:
        """
        Parse piece by piece, until all is parsed, enough requests wait, or the connection is not HTTP any more.

        Args:
            data: is used up. What is left when it returns is in `_unparsed`, or went to the next protocol.
        """
        assert self._unparsed is None, "what was read first is parsed first"
        size = STEP
        while data and self._is_served:
            if len(self.pipeline) >= PIPELINED:
                self._unparsed = data
                self.flow.is_held = True
                self.flow.pause_reading()
                return
            before, piece = self.cycle, bytes(data[:size])
            del data[:size]
            self._feed_parser(piece)
            size = STEP if self.cycle is not before else min(size * 2, STEP_MAX)
        if data and not self.transport.is_closing():  # it has become a WebSocket
            self.transport.get_protocol().data_received(bytes(data))  # type: ignore[attr-defined]

    def _feed_parser(self, data: bytes) -> None:
        """Have the parser read on."""
        super().data_received(data)

    @property
    def _is_served(self) -> bool:
        """Whether the connection is this protocol's, and goes on."""
        return not self.transport.is_closing() and self in self.connections

    def on_response_complete(self) -> None:
        """Begin the next request, and parse more when there is room."""
        super().on_response_complete()
        if self._unparsed is not None and len(self.pipeline) < PIPELINED:
            self.loop.call_soon(self._parse_on)

    def _parse_on(self) -> None:
        """Parse more, now that requests before it were answered; and read on once nothing waits."""
        if self._unparsed is None:
            return
        data, self._unparsed = self._unparsed, None
        self.flow.is_held = False
        self._parse_steps(data)
        if self._unparsed is None and not self.pipeline and self._is_served:
            self.flow.resume_reading()


class PacedWebSocket(WebSocketsSansIOProtocol):
    """
    A WebSocket of a hosted application of which one turn of the loop reads only so much.

    The next frames are read in a later turn, and only when the application has taken the messages of these: uvicorn
    pauses reading while its queue is not empty (`read_paused`), but by then it has parsed all that one read brought.
    """

    def __init__(self, config: Config, state: ServerState, endpoint: WebSocketEndpoint) -> None:
        """
        Args:
            config, state: uvicorn's.
            endpoint: has the limits, and counts connections that exceed them.
        """
        super().__init__(config=config, server_state=state, app_state={})
        self._endpoint = endpoint
        self._walk: FrameWalk | None = None  # once the handshake's head was read
        self._flood: FloodMeter | None = None
        self._rest = bytearray()  # what was read and not parsed
        self._is_resting = False  # `_go_on` is called in the next turn
        self._is_over = False  # it was closed for flooding

    def data_received(self, data: bytes) -> None:
        """Parse as much as one turn has, and keep the rest."""
        if self._is_over:
            self.transport.pause_reading()
            self.loop.call_later(DISCARD_PAUSE_S, self.transport.resume_reading)
        elif self._walk is None:
            self._receive_head(data)
        elif self._rest:
            self._rest += data
        else:
            self._receive_frames(data)

    def head_is_read(self) -> None:
        """Learn that the handshake's head was read elsewhere: what comes from now on are frames."""
        self._walk = FrameWalk()

    def _receive_head(self, data: bytes) -> None:
        """Take the request, whose head comes in one piece (`hosted.py`); what comes after it are frames."""
        end = data.find(HEAD_END) + len(HEAD_END)
        if end < len(HEAD_END):
            super().data_received(data)
            return
        self._walk = FrameWalk()
        super().data_received(data[:end])
        if end < len(data):
            self._receive_frames(data[end:])

    def _receive_frames(self, data: bytes | bytearray) -> None:
        """Meter and parse the frames of one turn. Where `data` is `_rest`, what was parsed is taken off it in place."""
        assert self._walk is not None, "frames come after the head"
        step = self._walk.step(data, FRAMES_AT_ONCE)
        is_short_piece = data is not self._rest and not step.completed and len(data) < SHORT
        self._meter(CONTROL, step.controls)
        self._meter(FRAGMENTS, step.fragments)
        self._meter(SEGMENTS, int(is_short_piece))
        if self._is_over:
            return
        if step.end == len(data):
            super().data_received(bytes(data))
            if data is self._rest:
                self._rest = bytearray()
        else:
            piece = bytes(data[: step.end])
            if data is not self._rest:
                self._rest = bytearray(data)
            del self._rest[: step.end]
            super().data_received(piece)
            self.read_on()

    def read_on(self) -> None:
        """Read on in the next turn, or when the application has taken what it was given."""
        if not self._rest or self._is_over:
            return
        self.transport.pause_reading()
        if not self.read_paused and not self._is_resting:
            self._is_resting = True
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Begin another turn, and read from the socket again once nothing waits here."""
        assert self._is_resting, "one turn is scheduled at a time"
        self._is_resting = False
        if self._is_over or self.transport.is_closing():
            return
        if self._rest:
            self._receive_frames(self._rest)
        if not self._rest and not self.read_paused:
            self.transport.resume_reading()

    async def receive(self) -> Any:
        """Give the application the next event. When it has taken all, the rest is read."""
        event = await super().receive()
        self.read_on()
        return event

    async def send(self, message: Any) -> None:
        """
        Send what the application says. Its close lets reading go on, until the peer's close frame.

        Raises:
            ClientDisconnected: as after any other end; an `OSError` (ASGI, "Send Exceptions").
        """
        if self._is_over:
            raise ClientDisconnected
        await super().send(message)
        if self.close_sent:
            self.read_on()

    # What is too much

    def _meter(self, kind: str, count: int) -> None:
        """Count what a peer sends beside messages, and close the connection where it is too much."""
        if not count or self._is_over:
            return
        limits = self._endpoint.limits
        if self._flood is None:
            self._flood = FloodMeter(limits.flood)
        if not self._flood.allows(kind, count, self.loop.time()):
            self._end(limits.flood.problem(kind), f"too many {kind}")
        elif kind is CONTROL and self.transport.get_write_buffer_size() > limits.outbound_bytes:
            self._end("slow: it does not read the answers to its pings", "too many unread pongs")

    def _end(self, problem: str, reason: str) -> None:
        """
        Close with 1008, and read to the end without a look: a socket closed with bytes unread is reset.

        Args:
            problem: for the log.
            reason: for the peer.
        """
        assert not self._is_over, "a connection is closed for flooding once"
        self._is_over = True
        self._rest.clear()
        self._endpoint.flooding += 1
        address = (getattr(self, "scope", {}).get("client") or (None,))[0]
        log(logger, logging.WARNING, FLOOD, address=address, reason=problem)
        if self.close_sent or self.transport.is_closing():
            return
        self.stop_keepalive()
        if not self.handshake_complete:
            self.transport.close()
            return
        self.conn.fail(CloseCode.POLICY_VIOLATION, reason)
        self.queue.put_nowait({"type": "websocket.disconnect", "code": CloseCode.POLICY_VIOLATION, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent, self.read_paused = True, False
        self.close_timer = self.loop.call_later(CLOSE_S, self.transport.abort)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.transport.resume_reading()
