"""`App` under uvicorn: clients that only listen, and clients that have no WebSocket; at the root and below a mount."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from realtime import App, Connection
from realtime.asgi.app import App as Served
from tests.realtime.asgi.test_app import serving
from tests.support.aio import eventually, run_async

CONNECT = {"id": 1, "connect": {}}


class Lives:
    """An application that keeps what becomes of its clients."""

    def __init__(self) -> None:
        self.app = App()
        self.ended: list[tuple[str, int]] = []
        self.app.room("news", open=True, history=10)

        @self.app.on_connect
        async def connect(conn: Connection, data: Any) -> dict[str, str]:
            conn.user = "ann"
            for room in (data or {}).get("rooms", ()):
                await conn.subscribe(room)
            return {"path": conn.path, "transport": conn.transport}

        @self.app.on_disconnect
        async def disconnect(conn: Connection, code: int, reason: str) -> None:
            self.ended.append((conn.transport, code))

    async def has_ended(self) -> bool:
        return bool(self.ended)


@pytest.fixture(params=["", "/live"])
def prefix(request: pytest.FixtureRequest) -> str:
    """The path below which the application is mounted."""
    return str(request.param)


@contextlib.asynccontextmanager
async def running(app: Served, prefix: str) -> AsyncIterator[str]:
    """Serve an application at the root, or mounted; give its address."""
    async with serving(Starlette(routes=[Mount(prefix, app)]) if prefix else app) as address:
        yield f"{address}{prefix}"


async def hear(client: ClientConnection) -> dict[str, Any]:
    """Return the next message, which is one object."""
    found: dict[str, Any] = json.loads(await client.recv())
    return found


@contextlib.asynccontextmanager
async def stream(address: str, path: str, request: Any, way: str = "POST") -> AsyncIterator[AsyncIterator[Any]]:
    """Open a long answer; give what comes in it, pings left out."""
    url = f"http://{address}{path}"
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        asking = (
            client.stream("GET", url, params={"cf_connect": json.dumps(request)})
            if way == "GET"
            else client.stream("POST", url, json=request)
        )
        async with asking as answer:
            assert answer.status_code == 200
            yield replies(answer)


async def replies(answer: httpx.Response) -> AsyncIterator[Any]:
    async for line in answer.aiter_lines():
        text = line.removeprefix("data: ").strip()
        if text and text != "{}":
            yield json.loads(text)


@pytest.mark.parametrize("way", ["first message", "cf_connect"])
@run_async
async def test_a_one_way_websocket_is_connected_by_its_first_words_and_then_hears_its_rooms(
    prefix: str, way: str
) -> None:
    lives, request = Lives(), json.dumps({"data": {"rooms": ["news"]}})
    async with running(lives.app, prefix) as address:
        query = f"?cf_connect={quote(request)}" if way == "cf_connect" else ""
        async with connect(f"ws://{address}/connection/uni_websocket{query}") as client:
            if not query:
                await client.send(request)
            told = (await hear(client))["connect"]
            assert told["data"] == {"path": "/connection/uni_websocket", "transport": "websocket"}
            assert told["subs"].keys() == {"news"}
            await client.send('{"id":2,"publish":{"channel":"news","data":"not heard"}}')
            for number in range(1, 4):  # in one turn: each is a message of its own all the same
                await lives.app.room("news").publish(number)
            for number in range(1, 4):
                push = await hear(client)
                assert (push["channel"], push["pub"]["data"], push["pub"]["offset"]) == ("news", number, number)
        await eventually(lives.has_ended)
    assert [transport for transport, _ in lives.ended] == ["websocket"]


@run_async
async def test_a_one_way_websocket_whose_first_words_are_no_request_is_closed() -> None:
    async with running(Lives().app, "") as address, connect(f"ws://{address}/connection/uni_websocket") as client:
        await client.send("[")
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 3501, "bad request"


@run_async
async def test_pings_in_frames_are_refused_for_asgi_has_none() -> None:
    async with running(Lives().app, "") as address:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://{address}/connection/uni_websocket?cf_ws_frame_ping_pong=true")
        assert refused.value.response.status_code == 403


@pytest.mark.parametrize(
    ("path", "way"), [("/connection/http_stream", "POST"), ("/connection/sse", "GET"), ("/connection/sse", "POST")]
)
@run_async
async def test_a_client_without_a_websocket_has_a_stream_and_requests_beside_it(
    prefix: str, path: str, way: str
) -> None:
    lives = Lives()
    async with running(lives.app, prefix) as address:
        async with stream(address, path, CONNECT, way) as heard:
            told = (await anext(heard))["connect"]
            assert told["data"] == {"path": path, "transport": path.rpartition("/")[2]}

            async def say(*commands: dict[str, Any]) -> int:
                data = "\n".join(map(json.dumps, commands))
                body = {"session": told["session"], "node": told["node"], "data": data}
                async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
                    return (await client.post(f"http://{address}/emulation", json=body)).status_code

            assert await say({"id": 2, "subscribe": {"channel": "news"}}) == 204
            assert (await anext(heard))["id"] == 2
            publishing = [{"id": 3 + at, "publish": {"channel": "news", "data": at}} for at in range(5)]
            assert await say(*publishing) == 204
            came = [await anext(heard) for _ in range(10)]
            published = [each["push"]["pub"]["data"] for each in came if "push" in each]
            assert published == [0, 1, 2, 3, 4]
        await eventually(lives.has_ended)
        assert await say({"id": 9, "ping": {}}) == 404, "its session has ended with its stream"


@pytest.mark.parametrize(
    ("path", "way"),
    [("/connection/uni_http_stream", "POST"), ("/connection/uni_sse", "GET"), ("/connection/uni_sse", "POST")],
)
@run_async
async def test_a_one_way_stream_is_connected_by_its_request(prefix: str, path: str, way: str) -> None:
    lives = Lives()
    async with running(lives.app, prefix) as address:
        async with stream(address, path, {"data": {"rooms": ["news"]}}, way) as heard:
            assert (await anext(heard))["connect"]["subs"].keys() == {"news"}
            for number in range(3):
                await lives.app.room("news").publish(number)
            assert [(await anext(heard))["pub"]["data"] for _ in range(3)] == [0, 1, 2]
        await eventually(lives.has_ended)
    assert [transport for transport, _ in lives.ended] == [path.rpartition("/")[2]]


@run_async
async def test_requests_that_make_no_sense_get_a_status() -> None:
    async with running(Lives().app, "/live") as address, httpx.AsyncClient(trust_env=False) as client:
        url = f"http://{address}"
        assert (await client.get(f"{url}/connection/websocket")).status_code == 426
        assert (await client.get(f"{url}/connection/http_stream")).status_code == 405
        assert (await client.post(f"{url}/connection/sse")).status_code == 400
        assert (await client.post(f"{url}/emulation", content=b"x")).status_code == 400
        assert (await client.post(f"{url}/connection/http_stream", content=b"x" * 70_000)).status_code == 413
        evil = {"Origin": "https://evil.example"}
        assert (await client.post(f"{url}/emulation", content=b"x", headers=evil)).status_code == 403


@run_async
async def test_the_browser_client_is_told_below_which_mount_it_was_served() -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        async with running(Lives().app, "/live") as address:
            assert 'const SERVED_BELOW = "/live";' in (await client.get(f"http://{address}/realtime.js")).text
        async with running(Lives().app, "") as address:
            assert "const SERVED_BELOW = '';" in (await client.get(f"http://{address}/realtime.js")).text


@run_async
async def test_the_settings_prefix_moves_the_endpoints_of_a_mounted_application(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REALTIME_OWN_PREFIX", "/rt")
    lives = Lives()
    async with running(lives.app, "/live") as address:
        async with connect(f"ws://{address}/rt/connection/uni_websocket?cf_connect={quote('{}')}") as client:
            assert "connect" in await hear(client)
        async with stream(address, "/rt/connection/uni_sse", {}, "GET") as heard:
            assert "connect" in await anext(heard)
        with pytest.raises(InvalidStatus):
            await connect(f"ws://{address}/connection/uni_websocket")
        async with httpx.AsyncClient(trust_env=False) as browser:
            served = await browser.get(f"http://{address}/rt/realtime.js")
            assert 'const SERVED_BELOW = "/live/rt";' in served.text


@run_async
async def test_streams_that_are_open_when_the_server_stops_are_ended() -> None:
    """uvicorn waits for them as long as it is told to, then cancels what serves them."""
    lives = Lives()
    heard: list[Any] = []

    async def listen(address: str) -> None:
        with contextlib.suppress(httpx.RemoteProtocolError):  # the answer is cut
            async with stream(address, "/connection/uni_sse", {}, "GET") as replies:
                async for reply in replies:
                    heard.append(reply)

    async def has_connected() -> bool:
        return bool(heard)

    async with serving(lives.app, timeout_graceful_shutdown=0) as address:
        listening = asyncio.create_task(listen(address))
        await eventually(has_connected)
    await listening
    assert [transport for transport, _ in lives.ended] == ["uni_sse"]
