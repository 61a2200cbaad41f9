"""
A crowd: clients in one room of a running server, one that publishes and one that watches who comes and goes.

None of them comes back after a cut. So a client that is there at the end has had one connection all along, and what it
got is all that was pushed on that connection.
"""

from __future__ import annotations

import asyncio
from typing import Any

from sticky.keys.affinity import Affinity, AffinitySettings
from sticky.keys.away import home_of
from sticky.keys.hashing import Hashing
from tests.support.aio import eventually
from tests.support.client import ProtocolClient
from tests.support.server import RunningServer

SECRET = "a secret of the tests, of 32 bytes or more"
ROOM = "load"
PAUSE_S = 0.01  # between two publications: the load that is asked for

APP = """
import asyncio
import logging
import os
import resource
import time
from pathlib import Path

from realtime import App, Reject

NEW_VERSION_REFUSES = False
HERE = Path(__file__)

while HERE.with_suffix(".wait").exists():  # a worker is not ready before that file is gone
    time.sleep(0.02)

app = App()
app.room("load", history=20_000, presence=True, join_leave=True, open=True)
app.room("more", open=True)


@app.on_startup
def on_startup():
    if HERE.with_suffix(".few").exists():  # descriptors
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 8, hard))


@app.on_connect
def on_connect(conn, data: dict | None):
    conn.user = (data or {}).get("user", "")


@app.rpc("act")
async def act(conn):
    await app.user("ann").subscribe("more")
    await app.user("ann").unsubscribe("load")
    await app.user("bob").disconnect(4321, "enough")


@app.rpc("where")
def where(conn):
    return {"slot": conn.slot, "moves": conn.state.get("moves", 0), "from": conn.state.get("from")}


@app.rpc("stay")
def stay(conn):
    conn.state["stays"] = True


@app.on_migrate
async def on_migrate(conn, when):
    if when == "before":
        if conn.state.get("stays"):
            raise Reject("it stays")
        conn.state["from"] = conn.slot
        conn.state["pid"] = os.getpid()
        return
    if HERE.with_suffix(".hold").exists():  # the target has the connection, and does not serve it yet
        logging.getLogger("realtime.app").warning("move held")
    while HERE.with_suffix(".hold").exists():
        await asyncio.sleep(0.02)
    if NEW_VERSION_REFUSES:
        raise Reject("the new version refuses it")
    if conn.state["pid"] != os.getpid():  # else its target has died, and it is back where it was
        conn.state["moves"] = conn.state.get("moves", 0) + 1
"""

HELD = "move held"


def home(address: str, slots: int) -> int:
    """Return the slot where an address is at home under `--sticky ip`."""
    hashing = Hashing(SECRET.encode())
    key = Affinity(AffinitySettings(), hashing).key_for(address)
    assert key is not None, "every address is a key"
    return home_of(hashing, key, slots)


async def join(
    server: RunningServer, address: str, *, compression: str | None = None, user: str = ""
) -> ProtocolClient:
    """Connect a client that may have its messages compressed."""
    client = await ProtocolClient.open(server.websocket_url, address, compression=compression)
    client.connected = await client.ask("connect", data={"user": user})
    return client


async def where(client: ProtocolClient) -> dict[str, Any]:
    """Ask the worker that serves a client which one it is, and how often the client moved."""
    answer = await client.ask("rpc", method="where", data={})
    found: dict[str, Any] = answer["data"]
    return found


class Crowd:
    """The clients, by their addresses. `publisher` and `watcher` move like all others."""

    def __init__(self, server: RunningServer, clients: dict[str, ProtocolClient], watcher: ProtocolClient) -> None:
        self.server = server
        self.clients = clients
        self.watcher = watcher
        self.published = 0
        self._publishers: set[str] = set()  # they leave when they are stopped
        self._grown = asyncio.Condition()
        self._publishing: asyncio.Task[None] | None = None

    @classmethod
    async def gather(cls, server: RunningServer, count: int) -> Crowd:
        """Have clients enter the room. Every third of them has its messages compressed."""
        clients = {}
        for number in range(count):
            address = f"127.0.61.{number + 1}"
            clients[address] = await join(server, address, compression=None if number % 3 else "deflate")
            await clients[address].ask("subscribe", channel=ROOM)
        watcher = await join(server, "127.0.62.1")
        await watcher.ask("subscribe", channel=ROOM, join_leave=True)
        return cls(server, clients, watcher)

    def publish(self, address: str = "127.0.62.2") -> None:
        """Begin to publish numbers. A publication that gets no answer fails the test."""
        self._publishing = asyncio.create_task(self._publish(address))

    async def _publish(self, address: str) -> None:
        publisher = await join(self.server, address)
        self._publishers.add(publisher.connected["client"])
        await publisher.ask("subscribe", channel=ROOM)
        try:
            while True:
                await publisher.ask("publish", channel=ROOM, data=self.published)
                async with self._grown:
                    self.published += 1
                    self._grown.notify_all()
                await asyncio.sleep(PAUSE_S)
        finally:
            publisher.abort()

    async def wait_for_more(self, count: int) -> None:
        """Wait until so many more were acknowledged, or one was not."""
        assert self._publishing is not None, "`publish` comes first"
        wanted = self.published + count
        async with self._grown:
            while self.published < wanted and not self._publishing.done():
                await asyncio.wait_for(self._grown.wait(), 30)
        if self._publishing.done():
            self._publishing.result()

    async def stop_publishing(self) -> None:
        assert self._publishing is not None, "`publish` comes first"
        self._publishing.cancel()
        await asyncio.gather(self._publishing, return_exceptions=True)

    async def slots(self) -> dict[str, int]:
        """Return which slot serves each client."""
        found = await asyncio.gather(*map(where, self.clients.values()))
        return {address: each["slot"] for address, each in zip(self.clients, found, strict=True)}

    async def wait_until_settled(self, slots: int) -> None:
        """Wait until each slot has one worker, which serves."""

        async def is_settled() -> bool:
            status = await asyncio.to_thread(self.server.status)
            states = sorted((each["slot"], each["state"]) for each in status["workers"])
            return not status["reload"]["left"] and states == [(slot, "ready") for slot in range(slots)]

        await eventually(is_settled, every_s=0.1)

    async def check(self, *, may_be_reaped: bool = False) -> None:
        """
        See that every client is on its connection, got each publication once and in order, and was seen by the watcher
        without a break. `may_be_reaped`: a worker died, so members may be seen to leave, and then to join again. A
        watcher that is on its way itself at that moment sees the second alone.
        """
        for client in self.clients.values():
            await check_ledger(client, self.published)
        events = []
        while not self.watcher.pushes.empty():
            events.append(self.watcher.pushes.get_nowait())
        assert self.watcher.closed is None
        own = {self.watcher.connected["client"], *self._publishers}
        seen: dict[str, list[str]] = {}
        for kind, each in ((kind, each) for each in events for kind in ("leave", "join") if kind in each):
            seen.setdefault(each[kind]["info"]["client"], []).append(kind)
        found = [kinds for client, kinds in seen.items() if client not in own]
        assert all(kinds in (["leave", "join"], ["join"]) for kinds in found), found
        assert may_be_reaped or not found, "no other client is seen to leave or to join"


async def check_ledger(client: ProtocolClient, published: int) -> None:
    """See that a client got all of `published` numbers, in order, and perhaps some that were not acknowledged."""
    got: list[int] = []
    while len(got) < published:
        got.append((await client.push("pub"))["pub"]["data"])
    assert got == list(range(published)), "each once, in order"
    assert client.closed is None, "its connection is the one it began with"
