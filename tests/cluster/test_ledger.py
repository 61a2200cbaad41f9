"""
The ledger: what publishers were told is published reaches every subscriber once, in one order, whatever the broker.

Four workers, four publishers, fifty subscribers spread over the workers, ten thousand publications into one room; over
the local broker, over a real Redis, over a Redis Cluster, and over two primaries ("two machines") on one Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.aio import run_async_for
from tests.support.client import Follower, ProtocolClient
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer
from tests.support.require import require
from tests.support.server import RunningServer

PUBLISHERS, SUBSCRIBERS, EACH = 4, 50, 2_500
APP = """
from realtime import App

app = App()
app.room("ledger", history=20_000, history_ttl_s=600, open=True)
"""


@pytest.fixture(params=["local", "redis", "redis-cluster", pytest.param("two-machines", marks=pytest.mark.slow)])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    """Where clients may connect."""
    app = tmp_path / "app.py"
    app.write_text(APP)
    with contextlib.ExitStack() as stack:
        options = ["--commands-per-second", "0"]
        if request.param == "redis-cluster":
            require("redis")
            options += ["--redis", stack.enter_context(RedisCluster()).url]
        elif request.param != "local":
            require("redis")
            options += ["--redis", stack.enter_context(RedisServer()).url]
        machines = 2 if request.param == "two-machines" else 1
        servers = [stack.enter_context(RunningServer(app, *options, workers=4 // machines)) for _ in range(machines)]
        yield [server.websocket_url for server in servers]


def test_every_subscriber_gets_every_publication_once_and_in_the_same_order(urls: list[str]) -> None:
    compare_ledgers(urls)


@run_async_for(240)
async def compare_ledgers(urls: list[str]) -> None:
    followers = [Follower(urls[n % len(urls)], "ledger", f"127.0.3.{n + 1}") for n in range(SUBSCRIBERS)]
    await asyncio.gather(*[follower.subscribed.wait() for follower in followers])
    await asyncio.gather(*[publish(urls[n % len(urls)], n) for n in range(PUBLISHERS)])
    await asyncio.gather(*[follower.wait_for(PUBLISHERS * EACH) for follower in followers])
    first = followers[0].got
    for follower in followers:
        await follower.stop()
        assert follower.cuts == 0, "nobody was cut"
        assert follower.offsets == list(range(1, PUBLISHERS * EACH + 1)), "each offset once, in order"
        assert follower.got == first, "the same order everywhere"
    for publisher in range(PUBLISHERS):
        assert [n for who, n in first if who == publisher] == list(range(EACH)), "each publisher's own order"


async def publish(url: str, number: int) -> None:
    """Publish from one connection, a hundred at a time without an answer."""
    client = await ProtocolClient.join(url, f"127.0.4.{number + 1}")
    await client.ask("subscribe", channel="ledger")
    for begin in range(0, EACH, 100):
        batch = range(begin, min(begin + 100, EACH))
        await asyncio.gather(*[client.ask("publish", channel="ledger", data=[number, n]) for n in batch])
    await client.close()
