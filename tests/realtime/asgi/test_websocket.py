"""The WebSocket over ASGI with a client that does not read: it is closed as slow, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from realtime import App
from realtime.asgi.websocket import WebSocketOverASGI
from realtime.testing import TestServer
from realtime.transport.stream import StreamLimits
from tests.support.aio import eventually, run_async

SCOPE: dict[str, Any] = {
    "type": "websocket",
    "scheme": "ws",
    "path": "/connection/websocket",
    "query_string": b"",
    "headers": [(b"host", b"here")],
    "client": ("127.0.0.1", 1),
    "subprotocols": [],
}


class Peer:
    """The other side of one ASGI connection, which takes what is sent only while `takes` is set."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        self.takes = asyncio.Event()
        self.takes.set()
        self.inbox.put_nowait({"type": "websocket.connect"})

    async def receive(self) -> dict[str, Any]:
        return await self.inbox.get()

    async def send(self, message: dict[str, Any]) -> None:
        await self.takes.wait()
        self.sent.append(message)

    def say(self, *commands: dict[str, Any]) -> None:
        self.inbox.put_nowait({"type": "websocket.receive", "text": "\n".join(map(json.dumps, commands))})

    async def has_sent(self, part: str) -> bool:
        return any(part in message.get("text", "") for message in self.sent)


def make_app() -> App:
    app = App()
    app.room("news", open=True)
    return app


async def begin(server: TestServer, limits: StreamLimits) -> tuple[Peer, asyncio.Task[None]]:
    """Connect a client and subscribe it."""
    peer = Peer()
    endpoint = WebSocketOverASGI(server._parts.protocol, limits=limits)
    serving = asyncio.create_task(endpoint(dict(SCOPE), peer.receive, peer.send))
    peer.say({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "news"}})
    await eventually(lambda: peer.has_sent('"subscribe"'))
    return peer, serving


@run_async
async def test_a_client_for_which_too_much_waits_is_closed_as_slow() -> None:
    app = make_app()
    async with TestServer(app) as server:
        peer, serving = await begin(server, StreamLimits(outbound_bytes=10_000))
        peer.takes.clear()
        for _ in range(30):
            await app.room("news").publish("x" * 1000)
            await asyncio.sleep(0)
        peer.takes.set()
        await serving
        assert peer.sent[-1] == {"type": "websocket.close", "code": 3008, "reason": "slow"}
        assert len(peer.sent) < 30, "what waited was dropped"
        assert not server._parts.registry


@run_async
async def test_a_client_that_takes_nothing_for_too_long_is_let_go() -> None:
    app = make_app()
    async with TestServer(app) as server:
        peer, serving = await begin(server, StreamLimits(outbound_s=0.05))
        peer.takes.clear()
        await app.room("news").publish("x")
        await serving
        assert not server._parts.registry


@run_async
async def test_a_client_that_leaves_is_a_member_no_more() -> None:
    app = make_app()
    async with TestServer(app) as server:
        peer, serving = await begin(server, StreamLimits())
        peer.inbox.put_nowait({"type": "websocket.disconnect", "code": 1001})
        await serving
        assert not server._parts.registry


@run_async
async def test_ping_frames_cannot_be_had() -> None:
    async with TestServer(make_app()) as server:
        peer = Peer()
        endpoint = WebSocketOverASGI(server._parts.protocol, limits=StreamLimits())
        await endpoint({**SCOPE, "query_string": b"cf_ws_frame_ping_pong=true"}, peer.receive, peer.send)
        assert peer.sent == [{"type": "websocket.close", "code": 1008}]
