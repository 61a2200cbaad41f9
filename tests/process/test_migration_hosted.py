"""
Hosted connections and a reload with a long drain: the old worker has them, and gets the new hosted requests of their
keys. Native connections go to the successor.

Real processes, with a hosted ASGI application beside rooms.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect

from realtime.transport.asgi_host import REQUEST_CUT
from sticky.process.control import ControlFailed
from tests.process.test_migration import pids, running
from tests.process.test_migration_faults import addresses_of
from tests.support.aio import eventually, run_async_for
from tests.support.client import ProtocolClient
from tests.support.log_lines import exited
from tests.support.server import RunningServer

pytestmark = pytest.mark.slow

APP = """
import asyncio
import os
import random

from realtime import App

app = App()


@app.rpc("pid")
def pid(conn):
    return os.getpid()


async def hosted(scope, receive, send):
    body = str(os.getpid()).encode()
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": body.decode()})
    elif scope["type"] == "http":
        if scope["path"] == "/slow":
            await asyncio.sleep(random.uniform(1.5, 3))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


app.mount("/", hosted)
"""


class Person:
    """A client address, or a sticky id, with all that it does."""

    def __init__(self, server: RunningServer, address: str, sticky_id: str | None) -> None:
        self.server = server
        self.address = address
        self.headers = {"Cookie": f"rt_session={sticky_id}"} if sticky_id else {}

    async def get(self, *, path: str = "/page") -> int:
        """Send a request on a connection of its own. Return the process that has answered."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port, local_addr=(self.address, 0))
        try:
            cookie = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
            writer.write(f"GET {path} HTTP/1.1\r\nHost: h\r\n{cookie}\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            assert " 200 " in head.partition("\r\n")[0], head
            length = re.search(r"content-length: (\d+)", head)
            assert length is not None
            return int(await reader.readexactly(int(length[1])))
        finally:
            writer.close()

    async def open(self) -> ClientConnection:
        """Open a WebSocket of the hosted application."""
        url = f"ws{self.server.url.removeprefix('http')}/socket"
        return await connect(
            url, local_addr=(self.address, 0), additional_headers=self.headers, compression=None, ping_interval=None
        )

    async def native(self) -> int:
        """Connect natively. Return the process that serves the connection."""
        client = await ProtocolClient.open(self.server.websocket_url, self.address, **self.headers)
        try:
            await client.ask("connect")
            found: int = (await client.ask("rpc", method="pid", data={}))["data"]
            return found
        finally:
            await client.close()


async def pid_of(socket: ClientConnection) -> int:
    await socket.send("which")
    return int(await socket.recv())


async def people(server: RunningServer, sticky: str) -> list[Person]:
    """Return two clients of slot 0."""
    if sticky == "ip":
        return [Person(server, address, None) for address in addresses_of(0, 2)]
    found: list[Person] = []
    while len(found) < 2:
        client = await ProtocolClient.join(server.websocket_url)
        person = Person(server, "127.0.0.1", client.sticky_id)
        await client.close()
        if await person.get() == pids(server)[0]:
            found.append(person)
    return found


@contextlib.asynccontextmanager
async def served(tmp_path: Path, sticky: str, drain: str = "24h") -> AsyncIterator[RunningServer]:
    path = tmp_path / "app.py"
    await asyncio.to_thread(path.write_text, APP)
    with running(path, "--sticky", sticky, "--drain", drain) as server:
        yield server


async def replace(server: RunningServer) -> tuple[int, int]:
    """Reload. Return the old worker of slot 0, and its successor."""
    old = pids(server)
    server.send_signal(signal.SIGHUP)
    for slot, pid in old.items():
        await asyncio.to_thread(server.log.wait_for, f"worker draining slot={slot} pid={pid}")
    [successor] = [pid for pid in processes_of(server, 0) if pid != old[0]]
    return old[0], successor


def processes_of(server: RunningServer, slot: int) -> list[int]:
    return [each["pid"] for each in server.status()["workers"] if each["slot"] == slot]


async def wait_until(person: Person, pid: int) -> None:
    """Wait until a process gets the requests of a client: what stays is reported a moment after the drain begins."""

    async def is_so() -> bool:
        return await person.get() == pid

    await eventually(is_so, every_s=0.05)


@pytest.mark.parametrize("sticky", ["ip", "session"])
@run_async_for(120)
async def test_hosted_requests_follow_a_hosted_connection_and_native_ones_go_to_the_successor(
    tmp_path: Path, sticky: str
) -> None:
    async with served(tmp_path, sticky) as server:
        staying, free = await people(server, sticky)
        socket = await staying.open()
        old, successor = await replace(server)
        await wait_until(staying, old)
        assert {await staying.get() for _ in range(10)} == {old}
        second = await staying.open()
        assert await pid_of(second) == old, "WebSockets as well"
        assert await staying.native() == successor
        assert {await free.get() for _ in range(5)} == {successor}, "another key has nothing there"
        await socket.close()
        assert await staying.get() == old, "one of its connections is left"
        await second.close()
        await asyncio.to_thread(server.log.wait_for, exited(slot=0, pid=old))
        assert await staying.get() == successor


@run_async_for(120)
async def test_when_the_last_hosted_connection_of_a_key_has_ended_its_requests_go_to_the_successor(
    tmp_path: Path,
) -> None:
    async with served(tmp_path, "ip") as server:
        leaving, staying = await people(server, "ip")
        sockets = [await each.open() for each in (leaving, staying)]
        old, successor = await replace(server)
        for each in (leaving, staying):
            await wait_until(each, old)
        await sockets[0].close()
        await wait_until(leaving, successor)
        assert await staying.get() == old
        assert await pid_of(sockets[1]) == old


@run_async_for(120)
async def test_no_request_is_cut_at_the_end_of_the_drain_because_it_went_to_the_old_worker(tmp_path: Path) -> None:
    async with served(tmp_path, "ip", drain="10s") as server:
        [person, _] = await people(server, "ip")
        socket = await person.open()
        seen: list[int] = []
        is_over = asyncio.Event()

        async def ask() -> None:
            while not is_over.is_set():
                seen.append(await person.get(path="/slow"))

        asking = [asyncio.create_task(ask()) for _ in range(8)]
        old, successor = await replace(server)
        await asyncio.to_thread(server.log.wait_for, exited(slot=0, pid=old))
        is_over.set()
        await asyncio.gather(*asking)
        assert set(seen) == {old, successor}
        assert socket.close_code == 1012
        assert server.log.find_all(REQUEST_CUT) == []


@run_async_for(120)
async def test_the_next_primary_learns_which_keys_stay(tmp_path: Path) -> None:
    async with served(tmp_path, "ip") as server:
        staying, free = await people(server, "ip")
        socket = await staying.open()
        old, successor = await replace(server)
        await wait_until(staying, old)
        before = server.status()["pid"]
        os.kill(before, signal.SIGKILL)

        async def has_followed() -> bool:
            with contextlib.suppress(ControlFailed):
                return bool((await asyncio.to_thread(server.status))["pid"] != before)
            return False

        await eventually(has_followed, every_s=0.05)
        await wait_until(staying, old)
        assert await free.get() == successor
        assert await pid_of(socket) == old
