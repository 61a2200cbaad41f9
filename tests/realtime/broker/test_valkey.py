"""
Valkey, which speaks as Redis does: what is most particular of the contract, on one server and on a cluster of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from realtime.broker.base import ClientInfo
from tests.realtime.broker.workers import KEPT, Place, flushed
from tests.support.aio import run_async
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer

ANN = ClientInfo("ann", "c1")
PROGRAM = shutil.which("valkey-server")  # without it this file is not collected


@pytest.fixture(params=["one", "cluster"])
def at_valkey(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "one":
        with RedisServer(program=PROGRAM) as server:
            yield Place("redis", server.url)
    else:
        with RedisCluster(program=PROGRAM) as cluster:
            yield Place("cluster", cluster.url)


@run_async
async def test_valkey_is_a_redis(at_valkey: Place) -> None:
    room = at_valkey.room()
    async with at_valkey.worker("a") as a, at_valkey.worker("b") as b:
        await a.broker.subscribe(room)
        await b.broker.add_member(room, ANN, announce=True)
        positions = await b.publish(room, b"1", b"2")
        await flushed(a, room)
        assert [each.data for each in a.heard.publications[room]] == [b"1", b"2"]
        assert a.heard.told("join") == [("join", (room, ANN))]
        assert await a.broker.positions([room]) == {room: positions[-1]}
        page = await a.broker.history(room, retention=KEPT, limit=9)
        assert [each.offset for each in page.publications] == [1, 2]
        await a.broker.reap(b.id)
        await flushed(a, room)
        assert a.heard.told("leave") == [("leave", (room, ANN))]
        assert await a.broker.members(room) == {}
