"""
Clients without a WebSocket: a stream of answers, and requests beside it.

Runs in the worker, as ASGI below the router. `/connection/http_stream` and `/connection/sse` are one long answer each;
what such a client sends after its first message comes as POST requests to `/emulation`, which may reach any worker: the
one that is named in it gets it, through the broker where that is another process (Centrifuge client protocol, sections
2.2 to 2.6). The one-way endpoints are the same streams without the second half. HTTP itself is uvicorn's.

A stream owns no task but its request's, which sleeps until there is something to write.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from msgspec import UNSET

from realtime import codes
from realtime.errors import BrokerUnavailable
from realtime.protocol.base import Endpoints
from realtime.protocol.centrifuge import protobuf
from realtime.protocol.centrifuge.codec import BadFrame
from realtime.protocol.centrifuge.messages import EmulationRequest
from realtime.surrogates import read_repaired
from realtime.transport.asgi import Receive, Scope, Send
from realtime.transport.base import ClientSession, Handshake, SessionFactory
from realtime.transport.handshake import origin_matches
from realtime.transport.http import (
    UNCACHED,
    Fields,
    begin_response,
    connection_of,
    cut,
    gone,
    headers_of,
    read_body,
    respond_text,
)
from realtime.transport.stream import BARE, EVENTS, LINES, SLOW, Limits, Stream
from sticky.handoff.journal import NO_MARK

HTTP_STREAM: Final = "/connection/http_stream"
SSE: Final = "/connection/sse"
UNI_HTTP_STREAM: Final = "/connection/uni_http_stream"
UNI_SSE: Final = "/connection/uni_sse"
EMULATION: Final = "/emulation"
WEBSOCKET: Final = "/connection/websocket"
UNI_WEBSOCKET: Final = "/connection/uni_websocket"
ENDPOINTS: Final = Endpoints(
    websocket_paths=frozenset((WEBSOCKET, UNI_WEBSOCKET)),
    http_paths=frozenset((HTTP_STREAM, SSE, UNI_HTTP_STREAM, UNI_SSE, EMULATION)),
    shutdown=codes.SHUTDOWN,
)

OCTETS: Final = "application/octet-stream"
ESCAPED: Final = 3  # times as long as it is, a message can be within JSON: `\u00e9` for two bytes of UTF-8
ENVELOPE_MAX: Final = 4096  # bytes of what is around it
MAX_AGE_S: Final = 300  # of what a browser knows from OPTIONS

_emulation: Final = msgspec.json.Decoder(EmulationRequest).decode
logger = logging.getLogger("realtime.stream")

Deliver = Callable[[str, str, bytes], Awaitable[bool]]
"""Brings what a client sent to the process of that name and the session of that id; says whether there is one."""


class StreamEndpoint:
    """What all streams of a worker share."""

    def __init__(
        self,
        sessions: SessionFactory,
        *,
        deliver: Deliver,
        limits: Limits | None = None,
        allowed_origins: tuple[str, ...] = (),
    ) -> None:
        """
        Args:
            sessions: makes the session of each stream.
            deliver: takes what clients send beside their streams.
            limits: the settings' defaults unless given.
            allowed_origins: as for WebSockets.
        """
        self._sessions = sessions
        self._deliver = deliver
        self._limits = limits or Limits()
        self._allowed_origins = allowed_origins
        self._open: dict[Stream, ClientSession] = {}
        self.slow = 0
        self.too_big = 0

    @property
    def open(self) -> list[ClientSession]:
        """The sessions whose streams are not ending."""
        return [session for stream, session in self._open.items() if stream.ended is None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request to one of `ENDPOINTS.http_paths`."""
        path, method = scope["path"], scope["method"]
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
        most = self._limits.message_bytes
        if path == EMULATION:  # where a message is a text within a text
            most = ESCAPED * most + ENVELOPE_MAX
        body = await read_body(receive, most) if method == "POST" else b""
        if path == EMULATION:
            status = 413 if body is None else await self._emulate(body, headers)
        else:
            status = 413 if body is None else 200
        if status == 413 or body is None:
            self.too_big += 1
            client = (scope.get("client") or ("",))[0]
            logger.warning("x %s: a message of more than %d bytes", client, self._limits.message_bytes)
            await respond_text(send, 413, b"The message is too large.\n", cors)
        elif path == EMULATION:
            await respond_text(send, status, b"", cors)
        else:
            await self._stream(scope, receive, send, headers, body, cors)

    # The stream

    async def _stream(
        self, scope: Scope, receive: Receive, send: Send, headers: Mapping[str, str], body: bytes, cors: Fields
    ) -> None:
        path = scope["path"]
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        is_sse, is_one_way = path in (SSE, UNI_SSE), path in (UNI_SSE, UNI_HTTP_STREAM)
        asked = query.pop("cf_connect", "")  # it may have a token, so it is kept nowhere
        if is_sse and not body:
            body = asked.encode()
        if not body and not is_one_way:
            await respond_text(send, 400, b"The first message, `connect`, is missing.\n", cors)
            return
        is_binary = not is_sse and _kind(headers) == OCTETS
        stream = Stream(EVENTS if is_sse else LINES, BARE, self._limits)
        kind = b"text/event-stream; charset=utf-8" if is_sse else b"application/octet-stream"
        handshake = _handshake(scope, headers, query, is_one_way=is_one_way)
        fields = [(b"content-type", kind), *UNCACHED, *cors]
        await begin_response(send, 200, fields)
        if is_sse:
            await send({"type": "http.response.body", "body": b"\r\n", "more_body": True})
        session = self._sessions(stream, handshake, "centrifuge-protobuf" if is_binary else None)
        self._open[stream] = session
        if (connection := connection_of(scope)) is not None:
            connection.expect_peer()
            stream.taken, stream.hold_little = connection.taken, connection.hold_little
        stream.is_patient = lambda: session.is_patient
        stream.on_drained = session.drained
        stream.on_slow = lambda: self._end_slow(stream, session)
        left = asyncio.ensure_future(gone(receive))
        pumping = asyncio.ensure_future(stream.pump(send))
        try:
            session.receive(body)
            await asyncio.wait((left, pumping), return_when=asyncio.FIRST_COMPLETED)
            takes_nothing = pumping.done() and isinstance(pumping.exception(), TimeoutError)
            if takes_nothing and stream.ended != SLOW:
                self._end_slow(stream, session)
        finally:
            for task in (left, pumping):
                task.cancel()
            await asyncio.gather(left, pumping, return_exceptions=True)
            del self._open[stream]
            stream.close(1006, "")
            session.connection_lost(*(stream.ended or (1006, "")))
        if takes_nothing:
            cut(scope)
        else:
            await send({"type": "http.response.body", "body": b""})

    def _end_slow(self, stream: Stream, session: ClientSession) -> None:
        self.slow += 1
        logger.warning("x %s: slow: %d bytes wait for it", session.log_name, stream.buffered())
        session.end(*SLOW)

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
            return 400 if len(body) <= self._limits.message_bytes else 413
        if not request.node or not request.session or not data:
            return 400
        if len(data) > self._limits.message_bytes:
            return 413
        try:
            return 204 if await self._deliver(request.node, request.session, data) else 404
        except BrokerUnavailable as error:
            logger.warning("! what a client sent is not delivered: %s", error)
            return 503


def _kind(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _cors(origin: str | None, headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    if origin is None:
        return []
    fields = [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-allow-credentials", b"true"),
        (b"vary", b"Origin"),
    ]
    asked = headers.get("access-control-request-headers")
    return [*fields, (b"access-control-allow-headers", asked.encode("latin-1"))] if asked else fields


def _handshake(scope: Scope, headers: Mapping[str, str], query: Mapping[str, str], *, is_one_way: bool) -> Handshake:
    client = scope.get("client") or ("", 0)
    place: dict[str, Any] = scope.get("state", {}).get("realtime", {})
    return Handshake(
        address=client[0],
        client_port=client[1],
        scheme=scope.get("scheme", "http"),
        path=scope["path"],
        query=query,
        headers=headers,
        sticky_id=place.get("session"),
        transport=scope["path"].rpartition("/")[2],
        is_one_way=is_one_way,
        is_emulated=not is_one_way,
        mark=getattr(connection_of(scope), "mark", NO_MARK),
    )
