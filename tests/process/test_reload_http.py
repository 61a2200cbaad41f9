"""
Reloads while clients come: requests and handshakes that are on their way meet an answer, never a closed connection.

Sixteen clients connect anew for every request or WebSocket, as fast as they can, while every worker is replaced again
and again. Whoever has connected is answered; whoever is in a hosted WebSocket is told 1012, and the rest spread out.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from pathlib import Path

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from realtime.transport.asgi_host import REQUEST_CUT
from tests.support.aio import run_async_for
from tests.support.log_lines import exited
from tests.support.server import RunningServer

APP = """
import asyncio
from realtime import App

app = App()
app.room("room", open=True)


async def hosted(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        return
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    if scope["path"] == "/slow":
        await asyncio.sleep(0.2)
    if scope["path"] == "/stuck":
        await asyncio.Event().wait()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


app.mount("/", hosted)
"""
CLIENTS, RELOADS = 16, 3


class Comers:
    """Clients that connect anew each time. `seen` counts what they met."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.seen: Counter[str] = Counter()
        self.enough = asyncio.Event()

    async def get(self, path: str, address: str) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port, local_addr=(address, 0))
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            return f"{path} {head.split()[1].decode()} {(await reader.readexactly(2)).decode()}"
        finally:
            writer.close()

    async def join(self, address: str) -> str:
        async with connect(self.server.websocket_url, local_addr=(address, 0), compression=None) as socket:
            try:
                await socket.send(json.dumps({"id": 1, "connect": {}}))
                return "joined" if "connect" in json.loads(await socket.recv()) else "not joined"
            except ConnectionClosed as closed:
                return f"told {closed.rcvd.code if closed.rcvd else 1006}"

    async def come(self, number: int) -> None:
        address = f"127.0.8.{number + 1}"
        while not self.enough.is_set():
            try:
                self.seen[await self.get("/", address)] += 1
                self.seen[await self.join(address)] += 1
                self.seen[await self.get("/slow", address)] += 1
            except (OSError, EOFError, ConnectionClosed) as error:
                self.seen[f"{type(error).__name__}: {error}"] += 1


@run_async_for(120)
async def test_who_comes_while_workers_are_replaced_is_answered(tmp_path: Path) -> None:
    path = tmp_path / "app.py"
    path.write_text(APP)
    with RunningServer(path, "--drain", "3", workers=3) as server:
        await asyncio.to_thread(server.wait_until_full)
        comers = Comers(server)
        tasks = [asyncio.create_task(comers.come(number)) for number in range(CLIENTS)]
        for _ in range(RELOADS):
            mark = server.log.mark()
            server.send_signal(signal.SIGHUP)
            for slot in range(3):
                await asyncio.to_thread(server.log.wait_for, exited(slot=slot), since=mark)
        comers.enough.set()
        await asyncio.gather(*tasks)
        assert set(comers.seen) <= {"/ 200 ok", "/slow 200 ok", "joined", "told 3001"}, comers.seen
        assert min(comers.seen["/ 200 ok"], comers.seen["/slow 200 ok"], comers.seen["joined"]) > 50, comers.seen
        assert not server.log.find_all(REQUEST_CUT)


@run_async_for(60)
async def test_hosted_websockets_are_told_1012_and_a_stuck_request_is_cut_by_name(tmp_path: Path) -> None:
    path = tmp_path / "app.py"
    path.write_text(APP)
    with RunningServer(path, "--drain", "8", workers=1) as server:
        comers = Comers(server)
        url = f"ws{server.url.removeprefix('http')}/anything"
        sockets = [await connect(url, compression=None) for _ in range(120)]
        stuck = asyncio.create_task(comers.get("/stuck", "127.0.0.1"))
        slow = asyncio.create_task(comers.get("/slow", "127.0.0.1"))
        assert await comers.get("/", "127.0.0.1") == "/ 200 ok", "those before it have been read"
        server.send_signal(signal.SIGTERM)
        for socket in sockets:
            await socket.wait_closed()
            assert socket.close_code == 1012
        assert await slow == "/slow 200 ok"
        try:
            await stuck
        except (OSError, EOFError):
            pass
        else:
            raise AssertionError("it was stuck")
        assert await asyncio.to_thread(server.wait) == 0
        cut = [match[0] for match in server.log.find_all(f"{REQUEST_CUT} .*")]
        assert cut == [f"{REQUEST_CUT} address=127.0.0.1 method=GET path=/stuck"]
