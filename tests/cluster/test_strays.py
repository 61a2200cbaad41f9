"""
A worker receives no publication of a room in which it has no member: four workers over one Redis, and over a cluster.

Every client is in a room of its own. The workers count what their brokers bring them: together exactly what was
published, and nothing that belongs to nobody there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.aio import run_async_for
from tests.support.client import ProtocolClient
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer
from tests.support.require import require
from tests.support.server import RunningServer

CLIENTS, EACH = 24, 20
APP = """
from realtime import App

app = App()
app.room("own:{name}", history=100, open=True)
"""


@pytest.fixture(params=["redis", "cluster"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningServer]:
    require("redis")
    app = tmp_path / "app.py"
    app.write_text(APP)
    with contextlib.ExitStack() as stack:
        shared = stack.enter_context(RedisServer() if request.param == "redis" else RedisCluster())
        server = stack.enter_context(RunningServer(app, "--redis", shared.url, workers=4))
        server.wait_until_full()
        yield server


def test_a_worker_hears_only_of_rooms_that_it_hosts(server: RunningServer) -> None:
    publish_each_in_his_own(server)


@run_async_for(60)
async def publish_each_in_his_own(server: RunningServer) -> None:
    async def work(number: int) -> ProtocolClient:
        client = await ProtocolClient.join(server.websocket_url, f"127.0.76.{number + 1}")
        room = f"own:{number}"
        await client.ask("subscribe", channel=room)
        for value in range(EACH):
            await client.ask("publish", channel=room, data=value)
        for value in range(EACH):
            assert (await client.push("pub"))["pub"]["data"] == value
        return client

    clients = await asyncio.gather(*[work(number) for number in range(CLIENTS)])
    while received(hubs := hubs_of(server)) < CLIENTS * EACH:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.1)  # workers say how they are once a second
    assert received(hubs) == CLIENTS * EACH
    assert [hub["unrouted"] for hub in hubs] == [0] * 4
    assert sum(hub["received"] > 0 for hub in hubs) > 1, "several workers took part"
    for hub in hubs:
        assert hub["broker"]["received"] == hub["received"], "and nothing else was brought there"
    for client in clients:
        await client.close()


def received(hubs: list[dict[str, Any]]) -> int:
    return sum(hub["received"] for hub in hubs)


def hubs_of(server: RunningServer) -> list[dict[str, Any]]:
    """Return what each worker's rooms counted; nothing before all have said it."""
    found = [(worker.get("statistics") or {}).get("hub") for worker in server.status()["workers"]]
    return found if len(found) == 4 and all(found) else []
