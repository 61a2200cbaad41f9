"""
The drain with real connections of every kind: each is closed with what its client understands, before anything is cut.

How the closes are spread is shown without processes as well, by a clock of the test's: in
tests/realtime/process/test_drain.py.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from realtime.process.drain import FEW
from realtime.transport.asgi_host import REQUEST_CUT
from tests.support.aio import run_async
from tests.support.client import ProtocolClient
from tests.support.server import RunningServer
from tests.support.uniform import CHI_SQUARE_MAX, chi_square

SHUTDOWN = 3001
RESTART = 1012
EVENTS = "application/json, text/event-stream"
LONG_S = 20.0
EACH = FEW + 1  # of each kind: so many that they are spread
APP = """
import asyncio
from realtime import App

app = App()


async def web(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass


app.mount("/web", web)
"""


class Response:
    """An answer that does not end by itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def begin(cls, port: int, path: str, accept: str, begun: bytes) -> Response:
        """Send a request, and read until its answer has begun."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: h\r\nAccept: {accept}\r\n\r\n".encode())
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(begun)
        return cls(reader, writer)

    async def rest(self) -> bytes:
        """Read to the end, and close."""
        try:
            return await self._reader.read()
        except ConnectionResetError:
            return b"reset"
        finally:
            self._writer.close()


@run_async
async def test_connections_of_every_kind_are_closed_and_only_a_download_is_cut(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    options = ("--drain", "2s", "--anonymous")
    with RunningServer(tmp_path / "app.py", *options, workers=1) as server:
        await asyncio.to_thread(server.wait_until_full)
        url = f"ws{server.url.removeprefix('http')}/web/socket"
        native = [await ProtocolClient.join(server.websocket_url, "127.0.44.1") for _ in range(EACH)]
        hosted = [await connect(url, compression=None) for _ in range(EACH)]
        command = json.dumps({"id": 1, "connect": {}}).replace(" ", "")
        path = f"/connection/sse?cf_connect={command}"
        streams = [await Response.begin(server.port, path, EVENTS, b'"client"') for _ in range(EACH)]
        events = [await Response.begin(server.port, "/web/events", EVENTS, b"begun") for _ in range(EACH)]
        download = await Response.begin(server.port, "/web/download", "*/*", b"begun")
        server.process.terminate()
        for client in native:
            assert (await client.wait_closed())[0] == SHUTDOWN
        for socket in hosted:
            await socket.wait_closed()
            assert socket.close_code == RESTART
        for stream in streams:
            assert b'"code":3001' in await stream.rest()
        for event_stream in events:
            assert await event_stream.rest() != b"reset"
        await download.rest()
        assert await asyncio.to_thread(server.wait) == 0
        cut = [match[1] for match in server.log.find_all(f"{REQUEST_CUT} .*method=GET path=(.*)")]
        assert cut == ["/web/download"]
        assert not server.log.find_all("Traceback")


@run_async
async def test_a_few_clients_do_not_keep_a_server_from_its_end() -> None:
    with RunningServer(None, "--drain", "24h", workers=1) as server:
        await asyncio.to_thread(server.wait_until_full)
        clients = [await ProtocolClient.join(server.websocket_url, "127.0.44.1") for _ in range(FEW)]
        server.process.terminate()
        for client in clients:
            assert (await client.wait_closed())[0] == SHUTDOWN
        assert await asyncio.to_thread(server.wait) == 0


@pytest.mark.slow
@run_async
async def test_400_clients_of_a_server_that_stops_are_closed_evenly_over_the_drain() -> None:
    """
    Judge all times together, and none by itself. A drain is long beside what a busy machine delays: a tenth of it,
    which is one bin of the test, is two seconds.
    """
    loop = asyncio.get_running_loop()

    async def closed_at(client: ProtocolClient) -> float:
        assert (await client.wait_closed())[0] == SHUTDOWN
        return loop.time()

    with RunningServer(None, "--drain", f"{LONG_S:g}s", workers=2) as server:
        await asyncio.to_thread(server.wait_until_full)
        clients = [await ProtocolClient.join(server.websocket_url, f"127.0.45.{1 + n % 250}") for n in range(400)]
        server.process.terminate()
        begin_s = loop.time()
        times = await asyncio.gather(*map(closed_at, clients))
        assert await asyncio.to_thread(server.wait) == 0
    length_s = max(LONG_S, max(times) - begin_s)
    found = chi_square(times, begin_s, length_s)
    print(f"chi-square {found:.2f} over {length_s:.1f} s")
    assert found < CHI_SQUARE_MAX
