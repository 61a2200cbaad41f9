"""
An application of python-socketio, with one import changed: its stock client, over a WebSocket, by polling and with an
upgrade, has what its own server gives; and rooms reach the clients of three workers.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import socketio

from tests.docs.pages import DOCS, blocks
from tests.support.aio import run_async_for
from tests.support.server import ROOT, RunningServer

# What aiohttp's client has not closed by the time it is collected is not ours.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

APP = ROOT / "tests" / "apps" / "face_app.py"
PATIENCE_S = 30
TRANSPORTS = [["websocket"], ["polling"], None]
NAMES = ["websocket", "polling", "polling, then an upgrade"]


@pytest.fixture(scope="module")
def one_worker() -> Iterator[RunningServer]:
    with RunningServer(APP, workers=1) as one:
        one.wait_until_full()
        yield one


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(APP, "--sticky", "none", "--balance", "round-robin", workers=3) as one:
        one.wait_until_full()
        yield one


class Guest:
    """A stock client that keeps what comes."""

    def __init__(self) -> None:
        self.client = socketio.AsyncClient(reconnection=False)
        self.heard: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()

        @self.client.on("*")
        async def any_event(event: str, *args: Any) -> None:
            await self.heard.put((event, *args))

        @self.client.on("*", namespace="/admin")
        async def any_admin_event(event: str, *args: Any) -> None:
            await self.heard.put((event, *args))

        self.client.on("ask", lambda text: f"{text}?")
        self.gone: asyncio.Queue[str] = asyncio.Queue()
        self.client.on("disconnect", self.gone.put)

    async def come(self, server: RunningServer, transports: list[str] | None = None, **about: Any) -> None:
        about.setdefault("namespaces", ["/"])
        await self.client.connect(server.url, transports=transports, wait_timeout=PATIENCE_S, **about)

    async def call(self, event: str, *args: Any, **about: Any) -> Any:
        return await self.client.call(event, args, timeout=PATIENCE_S, **about)

    async def next(self) -> tuple[Any, ...]:
        return await asyncio.wait_for(self.heard.get(), PATIENCE_S)


@pytest.mark.parametrize("transports", TRANSPORTS, ids=NAMES)
@run_async_for(120)
async def test_the_stock_client_is_served(one_worker: RunningServer, transports: list[str] | None) -> None:
    guest = Guest()
    await guest.come(one_worker, transports, headers={"X-Name": "ann"})
    about = await guest.call("whoami")
    assert about["name"] == "ann"
    assert about["transport"] == (transports or ["websocket"])[0]
    assert await guest.call("question", "how") == {"answer": "how?"}
    await guest.client.emit("with_callback")
    assert await guest.next() == ("answered", "called back?")
    await guest.client.emit("later")
    assert await guest.next() == ("progress", 7)
    assert await guest.call("unforeseen", {"a": b"bytes"}) == ["unforeseen", {"a": b"bytes"}]
    assert await guest.call("begin chat", "r") == [guest.client.get_sid(), "r"]
    await guest.client.emit("go_away")
    assert await asyncio.wait_for(guest.gone.get(), PATIENCE_S) == "server disconnect"
    await guest.client.disconnect()


@run_async_for(120)
async def test_rooms_reach_the_clients_of_all_workers(server: RunningServer) -> None:
    guests = [Guest() for _ in range(6)]
    for number, guest in enumerate(guests):
        await guest.come(server, ["websocket"], headers={"X-Name": f"guest {number}"})
        await guest.call("begin chat", "chat")
    assert len({(await guest.call("whoami"))["pid"] for guest in guests}) > 1, "they are on several workers"
    assert await guests[0].call("say", "chat", {"text": "hé", "data": b"\0\1"}) == ("ok", 200)
    for guest in guests[1:]:
        assert await guest.next() == ("said", "chat", {"text": "hé", "data": b"\0\1"})
    await guests[1].call("begin chat", "watchers")
    await guests[2].client.disconnect()
    event, about = await guests[1].next()
    assert (event, about["name"]) == ("left", "guest 2")
    assert about["reason"] in ("transport close", "client disconnect")
    await guests[3].call("exit chat", "chat")
    await guests[0].call("say", "chat", "last")
    assert await guests[4].next() == ("said", "chat", "last")
    assert guests[3].heard.empty()
    await guests[0].call("close room", "chat")
    for guest in (guests[0], guests[1], guests[4], guests[5]):
        while (await guest.next())[0] != "closing":
            pass
    for guest in guests:
        await guest.client.disconnect()


@run_async_for(120)
async def test_a_client_of_another_worker_can_be_called_moved_and_put_out(server: RunningServer) -> None:
    guests = [Guest() for _ in range(3)]
    for guest in guests:
        await guest.come(server, ["websocket"])
    pids = [(await guest.call("whoami"))["pid"] for guest in guests]
    asker = guests[0]
    other = next(guest for guest, pid in zip(guests, pids, strict=True) if pid != pids[0])
    assert await asker.call("ask another", other.client.get_sid()) == "from afar?"
    while await other.call("where am I") != ["invited"]:
        pass
    await asker.call("end another", other.client.get_sid())
    assert await other.next() == ("last",)
    assert await asyncio.wait_for(other.gone.get(), PATIENCE_S) == "server disconnect"
    for guest in guests:
        await guest.client.disconnect()


@run_async_for(120)
async def test_namespaces_and_refusals(server: RunningServer) -> None:
    guest, other = Guest(), Guest()
    await guest.come(server, ["websocket"], namespaces=["/", "/admin"])
    assert await guest.next() == ("welcome",)
    await other.come(server, ["websocket"], namespaces=["/admin"])
    assert await other.next() == ("welcome",)
    assert await guest.call("shout", "hey", namespace="/admin") == "done"
    assert await guest.next() == await other.next() == ("shouted", "HEY")
    refused = Guest()
    why: asyncio.Queue[Any] = asyncio.Queue()
    refused.client.on("connect_error", why.put)
    with pytest.raises(socketio.exceptions.ConnectionError):
        await refused.come(server, ["websocket"], auth={"token": "wrong"})
    assert await why.get() == {"message": "authentication failed", "data": {"need": "a token"}}
    for each in (guest, other, refused):
        await each.client.disconnect()


@pytest.mark.parametrize("path", ["/", "/health"])
def test_the_other_application_has_all_other_paths(server: RunningServer, path: str) -> None:
    with urllib.request.urlopen(f"{server.url}{path}", timeout=PATIENCE_S) as response:
        assert response.read().decode() == f"the other application at {path}"


def test_settings_of_the_program_count_and_a_web_page_of_any_origin_may_poll(server: RunningServer) -> None:
    request = urllib.request.Request(
        f"{server.url}/socket.io/?EIO=4&transport=polling", headers={"Origin": "http://elsewhere.example"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
        assert response.headers["Access-Control-Allow-Origin"]
        text = response.read().decode()
    assert '"pingInterval":5000,"pingTimeout":20000,"maxPayload":1000000' in text


@run_async_for(120)
async def test_other_programs_emit_by_the_api_and_from_a_shell() -> None:
    key = "a key of more than sixteen bytes"
    with RunningServer(APP, workers=2, env={"REALTIME_API_KEY": key}) as server:
        guests = [Guest() for _ in range(3)]
        for guest in guests:
            await guest.come(server, ["websocket"])
        for guest in guests[:2]:
            await guest.call("begin chat", "lobby")

        def emit(**request: Any) -> Any:
            asked = urllib.request.Request(f"{server.url}/api/emit", json.dumps(request).encode(), {"X-API-Key": key})
            with urllib.request.urlopen(asked, timeout=PATIENCE_S) as response:
                return json.load(response)

        skipped = guests[1].client.get_sid()
        command = [sys.executable, "-m", "realtime", "emit", "lobby", "shell", '{"a": 1}', "text", "--except", skipped]
        environment = server.env | {"REALTIME_URL": server.url}
        said = await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, text=True, timeout=60
        )
        assert (said.returncode, said.stdout) == (0, "emitted\n"), said.stderr
        assert await asyncio.to_thread(emit, event="room", args=[1, "b"], rooms=["lobby"]) == {"result": {}}
        assert await asyncio.to_thread(emit, event="all") == {"result": {}}
        assert [await guests[0].next() for _ in range(3)] == [("shell", {"a": 1}, "text"), ("room", 1, "b"), ("all",)]
        assert [await guests[1].next() for _ in range(2)] == [("room", 1, "b"), ("all",)]
        assert await guests[2].next() == ("all",)
        wrong = (
            ({"event": "connect"}, "is Socket.IO's own"),
            ({"event": "e", "namespace": "/nope"}, "is not declared"),
            ({"event": "e", "rooms": [""]}, "a room is a text"),
            ({"event": 5}, "Expected `str`"),
        )
        for request, problem in wrong:
            error = (await asyncio.to_thread(emit, **request))["error"]
            assert error["code"] == 107
            assert problem in error["message"]
        for guest in guests:
            await guest.client.disconnect()


@run_async_for(120)
async def test_a_server_alone_is_served_and_the_operators_settings_count_first() -> None:
    with RunningServer(f"{APP}:bare", "--socketio-ping", "7s", workers=1) as server:
        guest = Guest()
        await guest.come(server)
        assert await guest.call("anything", 1) == ["anything", 1]
        assert guest.client.eio.ping_interval == 7
        await guest.client.disconnect()


@run_async_for(120)
async def test_the_application_of_the_documentation_is_served(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("\n\n".join(blocks(DOCS / "from-socketio.md", "python")))
    with RunningServer("app.py", workers=1, cwd=tmp_path) as server:
        ann, bob, mallory = Guest(), Guest(), Guest()
        await ann.come(server, auth={"name": "ann"})
        await bob.come(server)
        with pytest.raises(socketio.exceptions.ConnectionError):
            await mallory.come(server, auth={"name": "mallory"})
        assert await ann.call("say", "lobby", "hello") == "delivered"
        assert await bob.call("say", "lobby", "hi") == "delivered"
        assert await ann.next() == ("said", "guest", "hi")
        for guest in (ann, bob, mallory):
            await guest.client.disconnect()
