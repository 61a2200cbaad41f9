"""
Clients without a WebSocket: a stream of answers, and requests beside it.

Runs in the worker, as ASGI below the router. `/connection/http_stream` and `/connection/sse` are one long answer each;
what such a client sends after its first message comes as POST requests to `/emulation`, which may reach any worker: the
one that is named in it gets it, through the broker where that is another process (Centrifuge client protocol, sections
2.2 to 2.6). The one-way endpoints are the same streams without the second half. HTTP itself is uvicorn's.

A stream owns no task but its request's, which sleeps until there is something to write.

Theory of operation
-------------------
**Three ways out.** The session ends it (`ended` says how), the client leaves, or the request is cancelled because the
worker ends. `_run` waits for the first of them, and in each case the session learns that its connection is lost.

**The order of what a client sends.** Requests to `/emulation` may come over several connections. A client that waits
for the answer to one before it sends the next gets its commands run in order, because the answer (204) is sent once the
session has the input. 404 says that there is no such session: the client begins another one. 503 says that the worker
with the session cannot be reached: the client may send the same again.

**Sizes.** A text in `/emulation` is a JSON string within a JSON object, so it can be `ESCAPED` times as long as the
message in it. The message is measured, and not its envelope.

**Origins** are checked here as for WebSockets, and not left to browsers: a page's POST without a preflight would reach
the session although the page may not read the answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final, Protocol
from urllib.parse import parse_qsl

import msgspec
from msgspec import UNSET

from realtime.errors import BrokerUnavailable
from realtime.log_lines import log
from realtime.protocol.centrifuge import protobuf
from realtime.protocol.centrifuge.codec import BadFrame
from realtime.protocol.centrifuge.endpoints import EMULATION, SSE, UNI_SSE
from realtime.protocol.centrifuge.messages import EmulationRequest
from realtime.surrogates import read_repaired
from realtime.transport.asgi import Receive, RequestConnection, Scope, Send
from realtime.transport.base import ClientSession, Framing, Handshake, SessionFactory
from realtime.transport.client_log import MESSAGE_TOO_LARGE, SLOW_CLIENT, as_shown, log_received, log_sent
from realtime.transport.handshake import origin_matches
from realtime.transport.http import (
    UNCACHED,
    Fields,
    begin_response,
    connection_of,
    cut,
    gone,
    handshake_of,
    headers_of,
    read_body,
    respond_text,
)
from realtime.transport.stream import BARE, EVENTS, LINES, SLOW, Stream, StreamLimits, messages_in

OCTETS: Final = "application/octet-stream"
ESCAPED: Final = 3  # times as long as it is, a message can be within JSON: `\u00e9` for two bytes of UTF-8
ENVELOPE_MAX: Final = 4096  # bytes of what is around it
ABNORMAL: Final = (1006, "")  # the connection was lost (RFC 6455, section 7.4.1)
MAX_AGE_S: Final = 300  # of what a browser knows from OPTIONS

_emulation: Final = msgspec.json.Decoder(EmulationRequest).decode
logger = logging.getLogger("realtime.stream")


class InputDelivery(Protocol):
    """Brings what clients send beside their streams to their sessions: the cluster bus."""

    async def deliver(self, worker: str, session: str, data: bytes) -> bool:
        """
        Bring input to the session with this stream id. Return whether there is one.

        Raises:
            BrokerUnavailable: the session is served by another worker, which cannot be reached now.
        """


class SessionStream(Stream):
    """The stream of one session. The session is made with it, and ends with it."""

    def __init__(
        self,
        endpoint: StreamEndpoint,
        handshake: Handshake,
        *,
        subprotocol: str | None,
        text: Framing,
        connection: RequestConnection | None,
    ) -> None:
        """
        Args:
            endpoint: counts it, and has its limits.
            handshake: what is known of the client.
            subprotocol: chooses the encoding.
            text: the framing of encodings that are text.
            connection: what brought the request; None where an ASGI server keeps it to itself.
        """
        super().__init__(text, BARE, endpoint.limits)
        self._endpoint = endpoint
        self._connection = connection
        self.session: Final[ClientSession] = endpoint.sessions(self, handshake, subprotocol)

    @property
    def is_patient(self) -> bool:
        """See `ClientSession`."""
        return self.session.is_patient

    def write(self, data: bytes) -> None:
        """See `Transport`."""
        if self._endpoint.logs_messages:
            log_sent(logger, self.session.log_fields, messages_in(data, self.framing))
        super().write(data)

    def on_drained(self) -> None:
        """Let the session know."""
        self.session.drained()

    def on_slow(self) -> None:
        """Count and log the slow client, and end its session."""
        self._endpoint.slow += 1
        log(logger, logging.WARNING, SLOW_CLIENT, **self.session.log_fields, waiting_bytes=self.buffered())
        self.session.end(*SLOW)

    def acknowledged_bytes(self) -> int:
        """See `Transport`."""
        return 0 if self._connection is None else self._connection.acknowledged_bytes()

    def limit_unsent(self, is_limited: bool) -> None:
        """See `Transport`."""
        if self._connection is not None:
            self._connection.limit_unsent(is_limited)


class StreamEndpoint:
    """What all streams of a worker share."""

    def __init__(
        self,
        sessions: SessionFactory,
        *,
        delivery: InputDelivery,
        limits: StreamLimits | None = None,
        allowed_origins: tuple[str, ...] = (),
        prefix: str = "",
    ) -> None:
        """
        Args:
            sessions: makes the session of each stream.
            delivery: takes what clients send beside their streams.
            limits: the settings' defaults unless given.
            allowed_origins: as for WebSockets.
            prefix: the path below which `ENDPOINTS.http_paths` are served, as in `Endpoints.below`.
        """
        self._prefix = prefix
        self.sessions = sessions
        self.limits = limits or StreamLimits()
        self._delivery = delivery
        self._allowed_origins = allowed_origins
        self._open: set[SessionStream] = set()
        self.logs_messages = logger.isEnabledFor(logging.DEBUG)  # what is sent and received
        self.slow = 0
        self.too_big = 0

    @property
    def open(self) -> list[ClientSession]:
        """The sessions whose streams are not ending."""
        return [stream.session for stream in self._open if stream.ended is None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request to one of `ENDPOINTS.http_paths`, below the prefix."""
        path, method = scope["path"].removeprefix(self._prefix), scope["method"]
        headers = headers_of(scope)
        origin = headers.get("origin") or None  # an empty one is none
        if origin is not None and not origin_matches(origin, headers.get("host"), self._allowed_origins):
            await respond_text(send, 403, b"This origin may not connect.\n")
            return
        cors = _cors(origin, headers)
        if method == "OPTIONS":
            allowed = b"GET, POST, OPTIONS" if path in (SSE, UNI_SSE) else b"POST, OPTIONS"
            fields = [(b"access-control-allow-methods", allowed), (b"access-control-max-age", b"%d" % MAX_AGE_S)]
            await respond_text(send, 204, b"", [*cors, *fields])
            return
        if method not in ("GET", "POST") or (method == "GET" and path not in (SSE, UNI_SSE)):
            await respond_text(send, 405, b"POST.\n", [*cors, (b"allow", b"POST, OPTIONS")])
            return
        most = self.limits.message_bytes
        if path == EMULATION:  # where a message is a text within a text
            most = ESCAPED * most + ENVELOPE_MAX
        body = await read_body(receive, most) if method == "POST" else b""
        if path == EMULATION:
            status = 413 if body is None else await self._emulate(body, headers)
        else:
            status = 413 if body is None else 200
        if status == 413 or body is None:
            self.too_big += 1
            address = (scope.get("client") or (None,))[0]
            log(logger, logging.WARNING, MESSAGE_TOO_LARGE, address=address, limit_bytes=self.limits.message_bytes)
            await respond_text(send, 413, b"The message is too large.\n", cors)
        elif path == EMULATION:
            await respond_text(send, status, b"", cors)
        else:
            await self._stream(scope, receive, send, headers, body, cors)

    # The stream

    async def _stream(
        self, scope: Scope, receive: Receive, send: Send, headers: Mapping[str, str], body: bytes, cors: Fields
    ) -> None:
        path = scope["path"].removeprefix(self._prefix)
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        parameters = self.sessions.read_parameters(path, query)
        is_sse = path in (SSE, UNI_SSE)
        body = body or parameters.first or b""
        if not body and not parameters.is_one_way:
            await respond_text(send, 400, b"The first message, `connect`, is missing.\n", cors)
            return
        is_binary = not is_sse and _kind(headers) == OCTETS
        kind = b"text/event-stream; charset=utf-8" if is_sse else b"application/octet-stream"
        handshake = handshake_of(
            scope,
            headers,
            parameters,
            transport=path.rpartition("/")[2],
            is_emulated=not parameters.is_one_way,
        )
        fields = [(b"content-type", kind), *UNCACHED, *cors]
        await begin_response(send, 200, fields)
        if is_sse:
            await send({"type": "http.response.body", "body": b"\r\n", "more_body": True})
        connection = connection_of(scope)
        stream = SessionStream(
            self,
            handshake,
            subprotocol="centrifuge-protobuf" if is_binary else None,
            text=EVENTS if is_sse else LINES,
            connection=connection,
        )
        if connection is not None:
            connection.expect_peer()
        takes_nothing = await self._run(stream, body, receive, send)
        if takes_nothing:
            cut(scope)
        else:
            await send({"type": "http.response.body", "body": b""})

    async def _run(self, stream: SessionStream, first: bytes, receive: Receive, send: Send) -> bool:
        """
        Serve a stream until it ends, its client leaves, or the request is cancelled. The session ends in every case.

        Returns:
            Whether the client takes nothing any more: then what is still to be sent would never leave.
        """
        session = stream.session
        self._open.add(stream)
        left = asyncio.ensure_future(gone(receive))
        pumping = asyncio.ensure_future(stream.pump(send))
        try:
            if self.logs_messages:
                log_received(logger, session.log_fields, as_shown(first, is_text=stream.framing is not BARE))
            session.receive(first)
            await asyncio.wait((left, pumping), return_when=asyncio.FIRST_COMPLETED)
            takes_nothing = pumping.done() and isinstance(pumping.exception(), TimeoutError)
            if takes_nothing and stream.ended != SLOW:
                stream.on_slow()
        finally:
            for task in (left, pumping):
                task.cancel()
            await asyncio.gather(left, pumping, return_exceptions=True)
            self._open.discard(stream)
            stream.close(*ABNORMAL)
            assert stream.ended is not None, "a stream that was closed knows how"
            session.connection_lost(*stream.ended)
        return takes_nothing

    def statistics(self) -> dict[str, int]:
        """Count the streams now, and what happened to those before."""
        return {"streams": len(self._open), "slow": self.slow, "too_big": self.too_big}

    # The other half

    async def _emulate(self, body: bytes, headers: Mapping[str, str]) -> int:
        """Bring what a client sent to its session. Return the HTTP status."""
        try:
            if _kind(headers) == OCTETS:
                request = protobuf.decode_emulation(body)
                data = b"" if request.data is UNSET else bytes(request.data)
            else:
                request = read_repaired(_emulation, body)
                data = b"" if request.data is UNSET else msgspec.json.decode(request.data, type=str).encode()
        except (BadFrame, msgspec.MsgspecError, UnicodeError, RecursionError):
            return 400 if len(body) <= self.limits.message_bytes else 413
        if not request.node or not request.session or not data:
            return 400
        if len(data) > self.limits.message_bytes:
            return 413
        try:
            return 204 if await self._delivery.deliver(request.node, request.session, data) else 404
        except BrokerUnavailable as error:
            log(logger, logging.WARNING, "input not delivered", worker=request.node, reason=error)
            return 503


def _kind(headers: Mapping[str, str]) -> str:
    """Return the media type of a request, without its parameters (RFC 9110, section 8.3)."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _cors(origin: str | None, headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """
    Return the fields by which a browser lets a page read the answer (Fetch, section 3.2). The origin was allowed.
    Cookies are, too: with `--sticky session` they bring a client's requests to its worker.
    """
    if origin is None:
        return []
    fields = [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-allow-credentials", b"true"),
        (b"vary", b"Origin"),
    ]
    asked = headers.get("access-control-request-headers")
    return [*fields, (b"access-control-allow-headers", asked.encode("latin-1"))] if asked else fields
