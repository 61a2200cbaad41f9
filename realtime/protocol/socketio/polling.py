"""
Long polling: the requests of Engine.IO clients that have no WebSocket yet, as an ASGI application.

Runs in the worker, below the router. A GET without `sid` begins a connection; with it, it is a poll, which is held
until there is something to fetch. A POST brings packets. It decides nothing about packets: engine.py does.

Theory of operation
===================

**A held poll costs its request's task, which waits for the end of the client.** What is written to the connection wakes
the poll; a task that lives for one answer takes everything that waits, so that packets of one turn of the loop leave
together. The request's own task returns once the answer has been written, or the client is gone.

**One poll, one POST.** A second poll ends the connection: the first one gets a close packet, the second one 400. So
does a second POST while the first one is being read, whose connection is cut. No client of this protocol does either.

**A poll whose client goes away ends the connection**, unless a WebSocket is just taking over: then what the poll was to
bring waits for the WebSocket.

**Back pressure.** The answer to a POST waits while the user reads nothing, and a client sends the next one after that.

Every answer carries `no-store` and what CORS wants, refusals included.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl

from realtime.log_lines import log
from realtime.protocol.socketio.base import TRANSPORT_ERROR, Polling
from realtime.protocol.socketio.endpoints import (
    UNSTORED,
    EngineRefusal,
    cors,
    of_application,
    preflight,
    refusal_of_request,
)
from realtime.protocol.socketio.engine import EngineConnection, Engines
from realtime.protocol.socketio.packets import NOOP, BadPacket, packets_in, payload
from realtime.transport.asgi import Receive, Scope, Send
from realtime.transport.base import ClientSession, Handshake, Parameters, Transport
from realtime.transport.client_log import MESSAGE_TOO_LARGE, SESSION_FAILED, log_received, log_sent
from realtime.transport.frames import messages_in
from realtime.transport.handshake import origin_matches
from realtime.transport.http import JSON, Fields, connection_of, cut, gone, handshake_of, headers_of, respond

PLAIN: Final = "text/plain; charset=UTF-8"
HTML: Final = "text/html"  # of the answer to a POST, as in the reference server
OCTETS: Final = "application/octet-stream"
POST_S: Final = 30.0  # for the body of a POST, as in the reference server
PROBED_POLL_S: Final = 0.1  # for a poll while a WebSocket is being tried: its client ends polling before it goes on
PACKETS_AT_ONCE: Final = 64  # of one POST in a turn of the loop

logger = logging.getLogger("realtime.socketio")


class EngineFactory(Protocol):
    """What begins connections (`server.SocketIO`)."""

    @property
    def engines(self) -> Engines:
        """All connections of the worker."""

    def begin(self, handshake: Handshake, websocket: Transport | None) -> EngineConnection:
        """Begin a connection, and have its user made."""


class Poll:
    """One poll. Is engine.py's `HeldPoll`."""

    __slots__ = ("_connection", "_fields", "_polling", "_send", "_taken", "_task")

    def __init__(self, connection: EngineConnection, polling: Polling, send: Send, fields: Fields) -> None:
        """
        Args:
            connection: which is polled.
            polling: its; the connection itself forgets it in an upgrade.
            send: of the request.
            fields: headers of the answer.
        """
        assert polling.held is None, "one poll at a time"
        polling.held = self
        self._connection = connection
        self._polling = polling
        self._send = send
        self._fields = fields
        self._task: asyncio.Task[None] | None = None
        self._taken = b""  # frames whose answer is being written

    def wake(self) -> None:
        """See `HeldPoll`."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._answer())

    def end_for_upgrade(self) -> None:
        """End the poll with nothing in it, unless it is over: a client that has found a WebSocket waits for that."""
        if self._polling.held is self and self._task is None:
            self._polling.put(NOOP)

    async def hold(self, scope: Scope, receive: Receive) -> None:
        """Serve the poll: return once its answer was written, or its client is gone."""
        if self._polling.waiting:
            self.wake()
        elif self._polling.is_probed:
            asyncio.get_running_loop().call_later(PROBED_POLL_S, self.end_for_upgrade)
        if (connection := connection_of(scope)) is not None:
            connection.expect_peer()
        try:
            await gone(receive)  # it is, too, when its answer was written
        finally:
            if self._polling.held is self:
                self._gone()

    def _gone(self) -> None:
        """The client went away before the answer was written."""
        if self._task is not None:
            self._task.cancel()
        self._polling.put_back(self._taken)
        self._polling.held = None
        if self._polling.on_answered is not None:
            self._polling.on_answered()
        else:
            self._connection.lost(TRANSPORT_ERROR)

    async def _answer(self) -> None:
        polling, connection = self._polling, self._connection
        frames = polling.take()
        if frames:
            if logger.isEnabledFor(logging.DEBUG):
                log_sent(logger, connection.log_fields, messages_in(frames))
            body, rest = payload(frames, connection.message_bytes)
            self._taken = frames[: len(frames) - len(rest)]
            polling.put_back(rest)
            answer = respond(self._send, 200, body, PLAIN, self._fields)
        else:  # the worker ends: a close packet would keep some clients from coming back
            rest = b""
            answer = respond(self._send, 400, EngineRefusal.UNKNOWN_SID.body, JSON, self._fields)
        try:
            await answer
        except OSError:  # some ASGI servers raise where the client is gone; `hold` learns of that, too
            return
        polling.held = None
        if polling.on_answered is not None:
            polling.on_answered()
        elif not rest:
            connection.fetched()


class PollingEndpoint:
    """Serves the requests of clients that poll. Is gateway and router's `Streams`."""

    def __init__(self, factory: EngineFactory, *, allowed_origins: tuple[str, ...]) -> None:
        """
        Args:
            factory: begins connections, and has them.
            allowed_origins: of web pages, as for WebSockets.
        """
        self._factory = factory
        self._engines = factory.engines
        self._allowed_origins = allowed_origins

    @property
    def open(self) -> list[ClientSession]:
        """The connections that poll."""
        return [each for each in self._engines.connections.values() if each.polling is not None]

    def statistics(self) -> dict[str, int]:
        """Count the connections now, and what happened to those before."""
        polling = sum(each.polling is not None for each in self._engines.connections.values())
        return {"polling": polling, "slow": self._engines.slow, "too_big": self._engines.too_big}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers, method = headers_of(scope), scope["method"]
        origin = headers.get("origin") or None  # an empty one is none
        if origin is not None and not origin_matches(origin, headers.get("host"), self._allowed_origins):
            await _refuse(send, EngineRefusal.FORBIDDEN, [UNSTORED], status=403)
            return
        if method == "OPTIONS" and origin is not None:  # of a browser, before a request that it may not send unasked
            await respond(send, 204, fields=preflight(origin, headers.get("access-control-request-headers")))
            return
        fields: Fields = [UNSTORED, *cors(origin)]
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        refusal = refusal_of_request(method, query, self._engines.transport_of)
        if refusal is not None:
            await _refuse(send, refusal, fields, is_head=method == "HEAD")
            return
        sid = query.get("sid")
        if not sid:
            await self._begin(scope, send, headers, query, fields)
            return
        connection = self._engines.connections[sid]
        polling = connection.polling
        assert polling is not None, "a request for a session on a WebSocket was refused"
        if method == "GET":
            await self._poll(connection, polling, scope, receive, send, fields)
        else:
            await self._post(connection, polling, scope, receive, send, headers, fields)

    async def _begin(
        self, scope: Scope, send: Send, headers: Mapping[str, str], query: Mapping[str, str], fields: Fields
    ) -> None:
        """Answer a handshake."""
        parameters = Parameters(of_application(query))
        handshake = handshake_of(scope, headers, parameters, transport="polling", is_emulated=True)
        connection = self._factory.begin(handshake, None)
        body = self._engines.open_packet(connection.sid, ["websocket"])
        await respond(send, 200, body, PLAIN, fields)

    async def _poll(
        self,
        connection: EngineConnection,
        polling: Polling,
        scope: Scope,
        receive: Receive,
        send: Send,
        fields: Fields,
    ) -> None:
        """Serve a poll."""
        if polling.held is not None:
            connection.lost(TRANSPORT_ERROR)  # the first one gets a close packet
            await respond(send, 400, fields=[*fields, (b"content-length", b"0")])
            return
        await Poll(connection, polling, send, fields).hold(scope, receive)

    async def _post(
        self,
        connection: EngineConnection,
        polling: Polling,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: Mapping[str, str],
        fields: Fields,
    ) -> None:
        """Take packets."""
        empty: Fields = [*fields, (b"content-length", b"0")]
        if polling.post is not None:
            cut(polling.post)
            connection.lost(TRANSPORT_ERROR)
            await respond(send, 400, fields=empty)
            return
        if headers.get("content-type", "").lower().startswith(OCTETS):  # of protocol 3
            connection.lost(TRANSPORT_ERROR)
            await respond(send, 400, fields=empty)
            return
        polling.post = scope
        try:
            body = await _read(receive, headers, connection.message_bytes)
            if isinstance(body, int):
                self._note_unread(connection, body)
                connection.lost(TRANSPORT_ERROR)
                if body:
                    await respond(send, body, fields=empty)
                return
            await self._take(connection, body)
        except BadPacket as error:
            connection.fail(error)
            await _refuse(send, EngineRefusal.BAD_REQUEST, fields)
            return
        finally:
            polling.post = None
        await respond(send, 200, b"ok", HTML, fields)

    def _note_unread(self, connection: EngineConnection, status: int) -> None:
        if status == 413:
            self._engines.too_big += 1
            log(
                logger,
                logging.WARNING,
                MESSAGE_TOO_LARGE,
                **connection.log_fields,
                limit_bytes=connection.message_bytes,
            )

    async def _take(self, connection: EngineConnection, body: bytes) -> None:
        """
        Give the connection the packets of a POST, in order.

        Raises:
            BadPacket: no client sends this. The packets before it were given.
        """
        logs = logger.isEnabledFor(logging.DEBUG)
        for number, (kind, data) in enumerate(packets_in(body), 1):
            if logs:
                log_received(logger, connection.log_fields, data if isinstance(data, bytes) else f"{kind}{data}")
            try:
                connection.take(kind, data)
            except Exception:  # noqa: BLE001 - a bug: logged, and it ends this connection only
                log(logger, logging.ERROR, SESSION_FAILED, **connection.log_fields, during="message", exc_info=True)
                connection.lost(TRANSPORT_ERROR)
            if connection.is_paused:
                await connection.resumed()
            elif number % PACKETS_AT_ONCE == 0:
                await asyncio.sleep(0)
            if not connection.is_open:
                return


async def _read(receive: Receive, headers: Mapping[str, str], most: int) -> bytes | int:
    """Return the body of a POST; or the status of the answer where there is none, 0 where the client is gone."""
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length) > most:
        return 413
    body = bytearray()
    try:
        async with asyncio.timeout(POST_S):
            while True:
                message: Any = await receive()
                if message["type"] == "http.disconnect":
                    return 0
                body += message.get("body", b"")
                if len(body) > most:
                    return 413
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        return 408


async def _refuse(
    send: Send, refusal: EngineRefusal, fields: Fields, *, status: int = 400, is_head: bool = False
) -> None:
    await respond(send, status, refusal.body, JSON, fields, is_head=is_head)
