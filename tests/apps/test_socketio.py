"""
Socket.IO on four workers: the stock clients, of Python and under Node, by polling, by WebSocket, and with an upgrade.

A hundred clients at once call and are answered, are cut and come back. With `--sticky session` nobody meets a worker
that does not know him; the same run with `--sticky none` shows that many would.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
import socketio
from aiohttp import ClientSession, CookieJar, DummyCookieJar, TCPConnector
from aiohttp.abc import AbstractCookieJar

from tests.conftest import REQUIRED
from tests.support.aio import run_async, run_async_for
from tests.support.redis_server import RedisServer
from tests.support.require import require
from tests.support.server import ROOT, RunningServer

# What aiohttp's client has not closed by the time it is collected is not ours.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

APP = ROOT / "tests" / "apps" / "quick_socketio.py"
NODE_CLIENTS = ROOT / "tests" / "apps" / "socketio_clients.mjs"
CLIENTS = 100
CALLS = 5


class Guest:
    """One Socket.IO client with cookies of its own, as a browser has them."""

    def __init__(self, jar: AbstractCookieJar | None = None, *, patience_s: float = 20) -> None:
        self.patience_s = patience_s
        # Cookies of an address, not only of a name; and a connection anew for each request, as pools do at their worst.
        jar = jar or CookieJar(unsafe=True)
        self.http = ClientSession(cookie_jar=jar, connector=TCPConnector(force_close=True))
        self.client = socketio.AsyncClient(http_session=self.http, reconnection=False)
        self.heard: asyncio.Queue[object] = asyncio.Queue()
        self.client.on("shouted", self.heard.put)

    async def come(self, url: str, transports: list[str] | None) -> None:
        await self.client.connect(url, transports=transports, wait_timeout=self.patience_s)

    async def call(self) -> int:
        """Return the process that answered, which has to be the same each time."""
        answers = [await self.client.call("echo", number, timeout=self.patience_s) for number in range(CALLS)]
        assert [each["data"] for each in answers] == list(range(CALLS))
        [pid] = {each["pid"] for each in answers}
        assert isinstance(pid, int)
        return pid

    async def go(self) -> None:
        await self.client.disconnect()
        await self.http.close()


async def visit(url: str, transports: list[str] | None, *, patience_s: float = 20) -> int:
    """Come, call, be gone, come again with the same cookies, call: return the process, the same both times."""
    guest = Guest(patience_s=patience_s)
    try:
        await guest.come(url, transports)
        first = await guest.call()
        await guest.client.disconnect()
        await guest.come(url, transports)
        assert await guest.call() == first, "who comes back is at home"
        return first
    finally:
        await guest.go()


def serve(sticky: str, *options: str, **env: str) -> RunningServer:
    return RunningServer(APP, "--sticky", sticky, "--balance", "round-robin", *options, workers=4, env=env)


@pytest.fixture(scope="module")
def sticky_server() -> Iterator[RunningServer]:
    with serve("session") as server:
        server.wait_until_full()
        yield server


@pytest.fixture(scope="module")
def scattering_server() -> Iterator[RunningServer]:
    with serve("none") as server:
        server.wait_until_full()
        yield server


@pytest.mark.parametrize(
    "transports", [["polling"], ["websocket"], None], ids=["polling", "websocket", "polling, then an upgrade"]
)
@run_async_for(120)
async def test_a_hundred_clients_at_once_are_each_at_home_with_one_worker(
    sticky_server: RunningServer, transports: list[str] | None
) -> None:
    pids = await asyncio.gather(*[visit(sticky_server.url, transports) for _ in range(CLIENTS)])
    assert len(set(pids)) == 4, "all workers have their share"
    assert not sticky_server.log.find_all("Invalid session")


@run_async_for(120)
async def test_programs_that_keep_no_cookie_are_at_home_by_the_id_that_socketio_gives_them() -> None:
    with serve("session", "--session-param", "sid") as server:
        await asyncio.to_thread(server.wait_until_full)
        guests = [Guest(DummyCookieJar()) for _ in range(20)]
        await asyncio.gather(*[guest.come(server.url, ["polling"]) for guest in guests])
        assert len(set(await asyncio.gather(*[guest.call() for guest in guests]))) == 4
        await asyncio.gather(*[guest.go() for guest in guests])
        assert not server.log.find_all("Invalid session")


@run_async_for(120)
async def test_without_stickiness_most_of_them_fail(scattering_server: RunningServer) -> None:
    visits = [visit(scattering_server.url, ["polling"], patience_s=5) for _ in range(20)]
    found = await asyncio.gather(*visits, return_exceptions=True)
    assert sum(isinstance(each, BaseException) for each in found) > 10


@run_async
async def test_through_redis_everybody_hears_what_one_says() -> None:
    require("redis")
    with RedisServer() as redis, serve("session", SOCKETIO_REDIS=redis.url) as server:
        await asyncio.to_thread(server.wait_until_full)
        guests = [Guest() for _ in range(8)]
        await asyncio.gather(*[guest.come(server.url, ["polling"]) for guest in guests])
        assert len({await guest.call() for guest in guests}) > 1, "they are on several workers"
        await guests[0].client.emit("shout", "hello")
        assert [await asyncio.wait_for(guest.heard.get(), 20) for guest in guests] == ["hello"] * 8
        await asyncio.gather(*[guest.go() for guest in guests])


# Under Node


async def visit_from_node(server: RunningServer, transports: str, count: int) -> list[dict[str, Any]]:
    """Have socket.io-client's clients come, call, be cut, come back and call: return what became of each."""
    if not (ROOT / "tests" / "sdk" / "node_modules" / "socket.io-client").is_dir():
        reason = "needs `npm --prefix tests/sdk ci`"
        pytest.fail(reason) if "node" in REQUIRED else pytest.skip(reason)
    node = await asyncio.create_subprocess_exec(
        require("node"), NODE_CLIENTS, server.url, transports, str(count), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await node.communicate()
    assert node.returncode == 0
    found = [json.loads(line) for line in said.splitlines()]
    assert len(found) == count
    return found


@pytest.mark.node
@pytest.mark.parametrize("transports", ["polling", "websocket", "polling,websocket"])
@run_async_for(120)
async def test_a_hundred_clients_under_node_are_cut_and_come_back(
    sticky_server: RunningServer, transports: str
) -> None:
    found = await visit_from_node(sticky_server, transports, CLIENTS)
    assert [each for each in found if "error" in each] == []
    assert {name for each in found for name in each["transports"]} == {transports.split(",")[-1]}
    assert all(len(pids) == 1 for each in found for pids in each["pids"]), "each visit is with one worker"
    assert len({pids[0] for each in found for pids in each["pids"]}) == 4, "all workers have their share"
    assert not sticky_server.log.find_all("Invalid session")


@pytest.mark.node
@pytest.mark.parametrize("transports", ["polling", "polling,websocket"])
@run_async_for(120)
async def test_without_stickiness_clients_under_node_fail(scattering_server: RunningServer, transports: str) -> None:
    found = await visit_from_node(scattering_server, transports, CLIENTS)
    assert sum("error" in each for each in found) > CLIENTS // 2
    assert scattering_server.log.find_all("Invalid session"), "each worker logs the first ones only"
