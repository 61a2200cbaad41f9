"""`App` as an ASGI callable: one process under uvicorn, and mounted in another application."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from realtime import App, Connection
from realtime.errors import BrokerUnavailable
from tests.support.aio import eventually, run_async
from tests.support.client import ProtocolClient


class Served(uvicorn.Server):
    """A server that leaves the test's signals alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


@contextlib.asynccontextmanager
async def serving(app: Any, lifespan: Any = "on", **options: Any) -> AsyncIterator[str]:
    """Serve an application by uvicorn, with options of its own; give the server's address."""
    server = Served(uvicorn.Config(app, port=0, lifespan=lifespan, log_config=None, **options))
    task = asyncio.create_task(server.serve())

    async def is_started() -> bool:
        assert not task.done(), "it could not start"
        return server.started

    await eventually(is_started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


async def get(address: str, path: str) -> tuple[int, str]:
    """Ask for a page; return status and body."""
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


def make_app() -> App:
    app = App()

    @app.on_connect
    async def connect(conn: Connection, data: Any) -> Any:
        conn.user = "ann"
        return {"from": conn.address, "transport": conn.transport, "agent": conn.headers.get("user-agent", "")}

    @app.on_message
    async def message(conn: Connection, data: Any) -> None:
        conn.disconnect(4501, "asked for")

    @app.rpc("double")
    def double(conn: Connection, data: int) -> int:
        return data * 2

    app.room("chat:{name}", open=True, presence=True, history=10)
    return app


async def page(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse(f"page {scope['path']} {scope['root_path']}")(scope, receive, send)


async def converse(address: str, prefix: str = "") -> None:
    """Do with two clients what clients do."""
    url = f"ws://{address}{prefix}/connection/websocket"
    one, two = [await ProtocolClient.join(url) for _ in range(2)]
    assert one.connected["data"]["from"] == "127.0.0.1"
    assert one.connected["data"]["transport"] == "websocket"
    for client in (one, two):
        await client.ask("subscribe", channel="chat:a")
    assert await two.ask("rpc", method="double", data=21) == {"data": 42}
    for number in range(20):
        await one.ask("publish", channel="chat:a", data={"number": number})
    got: list[int] = []
    while len(got) < 20:
        push = await two.pushes.get()
        if "pub" in push:
            got.append(push["pub"]["data"]["number"])
    assert got == list(range(20))
    assert len((await one.ask("presence", channel="chat:a"))["presence"]) == 2
    assert len((await one.ask("history", channel="chat:a", limit=100))["publications"]) == 10
    await one.send_raw(json.dumps({"send": {"data": 1}}))
    await eventually(lambda: is_closed(one))
    assert one.closed == (4501, "asked for")
    await two.close()


async def is_closed(client: ProtocolClient) -> bool:
    return client.closed is not None


@run_async
async def test_under_uvicorn_it_serves_rooms_mounts_files_and_its_client(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a file")
    app = make_app()
    app.mount("/pages", page)
    app.static("/files", tmp_path)
    begun: list[str] = []
    app.on_startup(lambda: begun.append("begun"))
    app.on_shutdown(lambda: begun.append("ended"))
    async with serving(app) as address:
        assert begun == ["begun"]
        await converse(address)
        assert await get(address, "/pages/x") == (200, "page /pages/x /pages")
        assert await get(address, "/files/a.txt") == (200, "a file")
        assert (await get(address, "/realtime.js"))[0] == 200
        assert json.loads((await get(address, "/health"))[1])["status"] == "ok"
        await app.room("chat:a").publish("from the server")
        assert (await app.room("chat:a").history(limit=1, reverse=True)).publications[0].data == "from the server"
    assert begun == ["begun", "ended"]


@run_async
async def test_mounted_in_another_application_it_starts_with_the_first_request() -> None:
    app = make_app()

    async def home(request: Any) -> PlainTextResponse:
        return PlainTextResponse("home")

    outer = Starlette(routes=[Route("/", home), Mount("/live", app)])
    async with serving(outer) as address:
        assert await get(address, "/") == (200, "home")
        await converse(address, "/live")
        assert json.loads((await get(address, "/live/health"))[1])["status"] == "ok"


@run_async
async def test_when_the_server_ends_clients_get_a_code_by_which_they_come_back() -> None:
    async with serving(make_app()) as address:
        client = await ProtocolClient.join(f"ws://{address}/connection/websocket")
    await eventually(lambda: is_closed(client))
    assert client.closed is not None
    assert client.closed[0] in (1012, 3001), "of uvicorn, which closes first, or ours: a client comes back by both"


@run_async
async def test_the_page_of_another_host_may_not_connect() -> None:
    async with serving(make_app()) as address:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://{address}/connection/websocket", origin="https://evil.example")  # type: ignore[arg-type]
        assert refused.value.response.status_code == 403


@run_async
async def test_protobuf_is_spoken_where_it_is_asked_for() -> None:
    async with (
        serving(make_app()) as address,
        connect(f"ws://{address}/connection/websocket", subprotocols=["centrifuge-protobuf"]) as socket,  # type: ignore[list-item]
    ):
        assert socket.subprotocol == "centrifuge-protobuf"
        await socket.send(b"\x04\x08\x01\x22\x00")  # Command{id: 1, connect: {}}, after its length
        assert isinstance(await socket.recv(), bytes)


@run_async
async def test_a_message_that_is_too_big_ends_the_connection() -> None:
    async with serving(make_app()) as address:
        client = await ProtocolClient.join(f"ws://{address}/connection/websocket")
        await client.send_raw("x" * 70_000)
        await eventually(lambda: is_closed(client))
        assert client.closed == (1009, "message too big")


@run_async
async def test_what_cannot_start_fails_the_lifespan_with_its_reason() -> None:
    app, sent = App(), []

    @app.on_startup
    async def begin() -> None:
        raise BrokerUnavailable("redis://x", "nobody answers")

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "lifespan"}, receive, send)
    assert sent == [{"type": "lifespan.startup.failed", "message": "broker at redis://x: nobody answers"}]
