"""
uvicorn's protocols in small steps: how much of what one read brought is parsed before others have their turn.

Over a real socket pair, with uvicorn's own classes below ours. What is counted is what the application was given, and
what waits parsed; never how long that takes.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from realtime.transport.flood import FRAMES_AT_ONCE, FloodLimits
from realtime.transport.paced import PIPELINED, STEP, PacedHttptools, PacedWebSocket
from tests.realtime.transport.wire import CONT, FIN, HEAD, PING, TEXT, Client, Rig, close, frame, text
from tests.support.aio import run_async

REQUESTS = 3000


class Application:
    """Answers with the path, once it may; and keeps the events of a WebSocket, which it takes one by one."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.events: list[Any] = []
        self.grown = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await self.may.wait()
            body = scope["path"].encode()
            await send(
                {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}
            )
            await send({"type": "http.response.body", "body": body})
            return
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            await self.may.wait()
            self.events.append(await receive())
            self.grown.set()
            if self.events[-1]["type"] == "websocket.disconnect":
                return

    async def wait_for(self, count: int) -> list[Any]:
        """Wait until it has taken so many events."""
        while len(self.events) < count:
            self.grown.clear()
            await self.grown.wait()
        return self.events


def config(app: Application) -> Config:
    made = Config(
        app, lifespan="off", interface="asgi3", http=HttpToolsProtocol, ws=WebSocketsSansIOProtocol, log_config=None
    )
    made.load()
    return made


async def joined(protocol: asyncio.Protocol) -> tuple[asyncio.Transport, Client]:
    """Give the protocol one end of a socket; return that, and a client at the other."""
    ours, theirs = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, ours)
    reader, writer = await asyncio.open_connection(sock=theirs, limit=2**24)
    return transport, Client(reader, writer)


@run_async
async def test_of_pipelined_requests_few_are_parsed_ahead_and_all_are_answered_in_order() -> None:
    app = Application()
    protocol = PacedHttptools(config(app), ServerState(), {})
    transport, client = await joined(protocol)
    requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number for number in range(REQUESTS))
    protocol.data_received(requests)
    most = PIPELINED + STEP // len(b"GET /0 HTTP/1.1\r\nHost: h\r\n\r\n") + 1
    assert len(protocol.pipeline) <= most
    assert not transport.is_reading(), "and nothing more is read"
    client.send(b"POST /last HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000))
    app.may.set()
    for number in range(REQUESTS):
        assert b"200" in (await client.head()).split(b"\r\n")[0]
        assert await client.reader.readexactly(len(b"/%d" % number)) == b"/%d" % number
    assert b"200" in await client.head(), "then the socket is read again"
    assert await client.reader.readexactly(5) == b"/last"
    transport.abort()
    client.writer.transport.abort()


async def opened(app: Application, **limits: int) -> tuple[PacedWebSocket, Client, Rig]:
    rig = Rig(flood=FloodLimits(**limits))
    protocol = PacedWebSocket(config(app), ServerState(), rig.endpoint)
    _, client = await joined(protocol)
    protocol.data_received(HEAD)
    assert (await client.head()).startswith(b"HTTP/1.1 101 ")
    return protocol, client, rig


@run_async
async def test_of_a_hosted_websockets_messages_few_wait_and_all_come_in_order() -> None:
    app = Application()
    protocol, client, _ = await opened(app)
    messages = [str(number) for number in range(10 * FRAMES_AT_ONCE + 1)]
    protocol.data_received(b"".join(map(text, messages)))
    for _ in range(5):
        await asyncio.sleep(0)
    assert protocol.queue.qsize() <= FRAMES_AT_ONCE
    assert not protocol.transport.is_reading()
    client.send(text("last"), close(4000))
    app.may.set()
    events = await app.wait_for(len(messages) + 2)
    assert [each.get("text") for each in events[:-1]] == [*messages, "last"]
    assert events[-1] == {"type": "websocket.disconnect", "code": 4000, "reason": ""}
    assert await client.close_frame() == (4000, "")
    client.writer.transport.abort()


@run_async
async def test_a_hosted_websocket_that_floods_is_closed_and_its_application_is_told() -> None:
    app = Application()
    app.may.set()
    _, client, rig = await opened(app, fragments_per_second=10)
    client.send(text("before"), frame(TEXT), frame(CONT) * 300, frame(FIN | CONT), text("after it"))
    assert await client.close_frame() == (1008, "too many short fragments")
    assert await client.end() == b""
    events = await app.wait_for(2)
    assert [each["type"] for each in events] == ["websocket.receive", "websocket.disconnect"]
    assert events[1]["code"] == 1008
    assert rig.endpoint.statistics()["flooding"] == 1
    client.writer.transport.abort()


@run_async
async def test_a_hosted_websocket_is_read_on_while_its_application_waits() -> None:
    """Pings behind more frames than a turn has are answered, also where no message is among them."""
    app = Application()
    _, client, _ = await opened(app, control_frames_per_second=1000)
    client.send(*[frame(FIN | PING, b"%d" % number) for number in range(5 * FRAMES_AT_ONCE)])
    for number in range(5 * FRAMES_AT_ONCE):
        assert (await client.frame())[1] == b"%d" % number
    client.writer.transport.abort()
