"""
A thousand clients come into one room at once: what that costs a member who watches. Real WebSockets, one worker.

The clients that come only read, and look at nothing: a thousand that take in what each is told of the others would be a
million joins in the test itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
from collections import Counter
from collections.abc import Iterator

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from realtime import App
from tests.support.aio import run_async
from tests.support.one_worker import OneWorker

CROWD, AT_ONCE = 1_000, 50  # AT_ONCE of them connect at a time: the listener's queue is not what is tested
FILES = 2 * CROWD + 200
MESSAGES_MAX = CROWD // 10


@pytest.fixture(autouse=True)
def files() -> Iterator[None]:
    """Allow both ends of every connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < FILES:
        pytest.skip(f"a process may have {hard} files here, and this takes {FILES}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, FILES), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def come(worker: OneWorker) -> tuple[ClientConnection, str]:
    """Connect. Return the socket, and the client's id."""
    socket = await connect(worker.url, compression=None, ping_interval=None)
    await socket.send('{"id":1,"connect":{}}')
    return socket, json.loads(await socket.recv())["connect"]["client"]


async def read_on(socket: ClientConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        async for _ in socket:
            pass


@run_async
async def test_a_thousand_who_join_at_once_cost_a_member_few_messages_and_each_is_told_once() -> None:
    app = App()
    app.room("hall", presence=True, open=True)
    async with OneWorker(app) as worker:
        watcher, me = await come(worker)
        crowd: list[tuple[ClientConnection, str]] = []
        while len(crowd) < CROWD:
            crowd += await asyncio.gather(*[come(worker) for _ in range(AT_ONCE)])
        await watcher.send('{"id":2,"subscribe":{"channel":"hall"}}')
        while '"join"' not in await watcher.recv():
            pass  # its own
        reading = [asyncio.create_task(read_on(socket)) for socket, _ in crowd]
        await asyncio.gather(*[socket.send('{"id":2,"subscribe":{"channel":"hall"}}') for socket, _ in crowd])
        told: Counter[str] = Counter()
        messages = 0
        while told.total() < CROWD:
            pushes = [json.loads(line)["push"] for line in str(await watcher.recv()).split("\n")]
            told.update(push["join"]["info"]["client"] for push in pushes)
            messages += 1
        await watcher.send('{"id":3,"publish":{"channel":"hall","data":"all here?"}}')
        while '"pub"' not in (message := str(await watcher.recv())):
            assert '"join"' not in message, "nobody is told of again"
        assert told == {client: 1 for _, client in crowd}
        assert me not in told
        assert messages <= MESSAGES_MAX, f"{messages} messages for {CROWD} joins"
        for socket in (watcher, *[socket for socket, _ in crowd]):
            socket.transport.abort()
        await asyncio.gather(*reading)
