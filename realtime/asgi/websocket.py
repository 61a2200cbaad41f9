"""
A realtime WebSocket over ASGI: the transport of a session where an ASGI server has the socket.

Runs on the server's event loop, as the call of one ASGI connection, with a task that writes. Messages are whole: the
server frames them, pings on its own, and knows of TCP. A client that does not take what is sent is closed as `slow`
when too much waits for it, or when it takes nothing for too long. It speaks no wire protocol.

What it does not have: pings by frames, for ASGI cannot send them; a client that asks for these gets 403.
Limits of fragments and of control frames are the server's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from realtime.log_lines import log
from realtime.transport.asgi import Receive, Scope, Send
from realtime.transport.base import ClientSession, Framing, Handshake, Parameters, SessionFactory
from realtime.transport.client_log import HANDSHAKE_REFUSED, SLOW_CLIENT, log_received, log_sent
from realtime.transport.handshake import origin_matches
from realtime.transport.http import headers_of
from realtime.transport.stream import BARE, LINES, SLOW, StreamLimits, messages_in

ABNORMAL: Final = (1006, "")
TOO_BIG: Final = (1009, "message too big")  # RFC 6455, section 7.4.1
REASON_BYTES: Final = 123  # of a close frame: 125 without its code (RFC 6455, section 5.5)
SCHEMES: Final = {"ws": "http", "wss": "https"}

logger = logging.getLogger("realtime.websocket")


class WebSocketOverASGI:
    """
    What all such WebSockets share.

    Each is served by the call of the ASGI application for it, with two tasks: one reads and one writes. Whichever ends
    first ends the other. The ways out of both are the client's end, the session's, a slow client, and cancellation by
    the server. `connection_lost` is called in every case, exactly once.
    """

    def __init__(
        self, sessions: SessionFactory, *, limits: StreamLimits, allowed_origins: tuple[str, ...] = ()
    ) -> None:
        """
        Args:
            sessions: makes the session of each connection.
            limits: of messages, and of what may wait for a client.
            allowed_origins: pages that may connect; those of the same host unless given.
        """
        self._sessions = sessions
        self._limits = limits
        self._allowed_origins = allowed_origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one WebSocket, from its handshake to its end."""
        await receive()  # websocket.connect
        headers = headers_of(scope)
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        parameters = self._sessions.read_parameters(scope["path"], query)
        problem = self._problem(headers, parameters)
        if problem:
            address = (scope.get("client") or (None,))[0]
            log(logger, logging.INFO, HANDSHAKE_REFUSED, address=address, reason=problem)
            await send({"type": "websocket.close", "code": 1008})  # before the handshake: the server answers 403
            return
        offered = scope.get("subprotocols", ())
        chosen = next((each for each in self._sessions.subprotocols if each in offered), None)
        await send({"type": "websocket.accept", "subprotocol": chosen})
        handshake = _handshake(scope, headers, parameters)
        transport = ASGIWebSocket(self._sessions, handshake, chosen, self._limits)
        if parameters.first is not None:
            transport.receive(parameters.first.decode(errors="replace"))
        await self._serve(transport, receive, send)

    def _problem(self, headers: Mapping[str, str], parameters: Parameters) -> str:
        """Return why a client is not let in; "" where it is."""
        origin = headers.get("origin") or None  # an empty one is none
        if origin is not None and not origin_matches(origin, headers.get("host"), self._allowed_origins):
            return f"origin {origin!r} is not allowed"
        if parameters.wants_ping_frames:
            return "ASGI cannot send ping frames"
        return ""

    async def _serve(self, transport: ASGIWebSocket, receive: Receive, send: Send) -> None:
        """Read and write until one of both ends. It always ends with `connection_lost`, also when it is cancelled."""
        reading = asyncio.ensure_future(self._read(transport, receive))
        writing = asyncio.ensure_future(transport.pump(send))
        try:
            await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)
            transport.close(*ABNORMAL)
            assert transport.ended is not None, "a transport that was closed knows how"
            transport.session.connection_lost(*transport.ended)

    async def _read(self, transport: ASGIWebSocket, receive: Receive) -> None:
        """Bring messages to the session until the client is gone."""
        while True:
            await transport.may_read.wait()
            message = await receive()
            if message["type"] == "websocket.disconnect":
                transport.close(message.get("code") or ABNORMAL[0], message.get("reason") or "")
                return
            if transport.ended is not None:
                continue  # the close frame is on its way; what still comes is only read to its end
            text, data = message.get("text"), message.get("bytes")
            size = len(data or b"") if text is None else len(text.encode())
            if size > self._limits.message_bytes:
                transport.close(*TOO_BIG)
            else:
                transport.receive(text if text is not None else data or b"")


class ASGIWebSocket:
    """
    A `Transport` whose messages an ASGI server frames.

    What is written in one turn of the loop leaves as one message: both encodings say where each reply in it ends. A
    client that only listens has no SDK that splits messages, so each of its pushes leaves as a message of its own.
    While the server does not take a message, more is kept here, up to the limit on unsent bytes. Then all of it is
    dropped and the session ends the connection as slow, for its client has to recover anyway.
    """

    has_close_frame = True

    def __init__(
        self, sessions: SessionFactory, handshake: Handshake, subprotocol: str | None, limits: StreamLimits
    ) -> None:
        """
        Args:
            sessions: makes its session, which is the last thing that happens here.
            handshake: what is known of the client.
            subprotocol: what was agreed on.
            limits: of what may wait for the client.
        """
        self._is_one_way = handshake.is_one_way
        self.framing: Framing = LINES
        self.ended: tuple[int, str] | None = None  # how, once it is known
        self.may_read = asyncio.Event()
        self.may_read.set()
        self._limits = limits
        self._logs_messages = logger.isEnabledFor(logging.DEBUG)
        self._is_binary = False
        self._is_full = False
        self._waiting: list[bytes] = []
        self._size = 0
        self._accepted = 0
        self._wake = asyncio.Event()
        self._congested_since: float | None = None
        self.session: Final[ClientSession] = sessions(self, handshake, subprotocol)

    def receive(self, message: bytes | str) -> None:
        """Hand one whole message of the client to its session."""
        if self._logs_messages:
            log_received(logger, self.session.log_fields, message)
        self.session.receive(message)

    def choose_framing(self, *, binary: bool) -> None:
        """See `Transport`. Lines are text; what is binary says itself how long it is."""
        if binary:
            self.framing, self._is_binary = BARE, True

    def write(self, data: bytes) -> None:
        """See `Transport`. Above the limit everything that waits is dropped, for the client is closed as slow."""
        if self.ended is not None or self._is_full:
            return
        if self._logs_messages:
            log_sent(logger, self.session.log_fields, messages_in(data, self.framing))
        self._waiting.append(data)
        self._size += len(data)
        if self._congested_since is not None and self._size > self._limits.outbound_bytes:
            self._waiting.clear()
            self._size = 0
            self._is_full = True
            asyncio.get_running_loop().call_soon(self._end_slow)  # not within a write of the session itself
        self._wake.set()

    def _end_slow(self) -> None:
        self._is_full = False  # there is room for a goodbye
        if self.ended is None:
            self._close_slow()

    def _close_slow(self) -> None:
        log(logger, logging.WARNING, SLOW_CLIENT, **self.session.log_fields, waiting_bytes=self.buffered())
        self.session.end(*SLOW)

    def close(self, code: int, reason: str) -> None:
        """See `Transport`."""
        if self.ended is None:
            self.ended = (code, reason)
            self._wake.set()

    def pause_reading(self) -> None:
        """See `Transport`."""
        self.may_read.clear()

    def resume_reading(self) -> None:
        """See `Transport`."""
        self.may_read.set()

    def is_congested_since(self) -> float | None:
        """See `Transport`."""
        return self._congested_since

    def buffered(self) -> int:
        """See `Transport`."""
        return self._size

    def acknowledged_bytes(self) -> int:
        """See `Transport`. TCP is the server's: this is what the server has accepted from here."""
        return self._accepted

    def limit_unsent(self, is_limited: bool) -> None:
        """See `Transport`. The kernel's buffers are the server's."""

    async def pump(self, send: Send) -> None:
        """Write what waits until the connection ends; then say goodbye."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            body, self._waiting = b"".join(self._waiting), []
            if body:
                self._congested_since = loop.time()
                try:
                    async with asyncio.timeout(self._limits.outbound_s):
                        for message in self._messages(body):
                            await send(message)
                except TimeoutError:
                    self._close_slow()
                    return
                finally:
                    self._congested_since = None
                self._size = max(0, self._size - len(body))
                self._accepted += len(body)
                self.session.drained()
            if self.ended is not None and not self._waiting:
                code, reason = self.ended
                told = reason.encode()[:REASON_BYTES].decode(errors="ignore")
                await send({"type": "websocket.close", "code": code, "reason": told})
                return

    def _messages(self, body: bytes) -> list[dict[str, Any]]:
        """Return what waits as messages. Lines end with a line feed each, and a message without one."""
        if self._is_binary:
            return [{"type": "websocket.send", "bytes": body}]
        assert body.endswith(b"\n"), "lines are written whole"
        text = body.removesuffix(b"\n")
        # A room's payload may be text that is cut inside a character; a text frame may not (RFC 6455, section 8.1).
        parts = text.split(b"\n") if self._is_one_way else [text]
        return [{"type": "websocket.send", "text": part.decode(errors="replace")} for part in parts]


def _handshake(scope: Scope, headers: Mapping[str, str], parameters: Parameters) -> Handshake:
    client = scope.get("client") or ("", 0)
    return Handshake(
        address=client[0],
        client_port=client[1] or 0,
        scheme=SCHEMES.get(scope.get("scheme", "ws"), "http"),
        path=scope["path"],
        query=parameters.query,
        headers=headers,
        is_one_way=parameters.is_one_way,
    )
