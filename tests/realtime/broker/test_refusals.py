"""
A Redis that answers and takes no writes: the broker reports it for as long as that is the case, even without
publishers.

Each way into that state is tried with a real server.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import realtime.broker.redis
from realtime.broker.base import ClientInfo, ConnectionId
from realtime.errors import BrokerUnavailable
from tests.realtime.broker.workers import NOT_KEPT, Place, Worker, flushed
from tests.support.aio import eventually, run_async
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer
from tests.support.require import require

ANN = ClientInfo("ann", "c1")


@pytest.fixture(autouse=True)
def _short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(realtime.broker.redis, "ROUND_S", 0.05)


def configure(redis: RedisServer, name: str, value: str) -> None:
    assert redis.command("CONFIG", "SET", name, value) == b"+OK\r\n"


async def says(worker: Worker, code: str) -> None:
    """Wait until that is what Redis said to the last write; nothing: that it took it."""

    async def is_so() -> bool:
        told = str(worker.broker.statistics()["refuses"])
        return told.partition(" ")[0] == code

    await eventually(is_so)


@pytest.mark.parametrize(
    ("name", "bad", "good", "code"),
    [("maxmemory", "1", "0", "OOM"), ("min-replicas-to-write", "1", "0", "NOREPLICAS")],
    ids=["memory", "replicas"],
)
@run_async
async def test_a_worker_without_writes_learns_when_writes_are_refused_and_when_taken_again(
    redis: RedisServer, name: str, bad: str, good: str, code: str
) -> None:
    async with Place("redis", redis.url).worker() as worker:
        assert worker.broker.statistics()["refuses"] == ""
        configure(redis, name, bad)
        await says(worker, code)
        assert worker.broker.statistics()["link"] == "up", "it answers"
        assert not worker.heard.how_often("link lost")
        configure(redis, name, good)
        await says(worker, "")


@run_async
async def test_a_failing_disk_is_reported(redis: RedisServer) -> None:
    dump = Path(redis.path).with_name("dump.rdb")
    dump.mkdir()  # no file takes its place
    async with Place("redis", redis.url).worker() as worker:
        configure(redis, "save", "3600 1000000")
        assert redis.command("BGSAVE").startswith(b"+")
        await says(worker, "MISCONF")
        configure(redis, "save", "")
        await says(worker, "")
    dump.rmdir()


@run_async
async def test_a_refused_publication_is_reported_at_once_and_one_that_needs_no_memory_clears_nothing(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realtime.broker.redis, "ROUND_S", 3600.0)
    place = Place("redis", redis.url)
    room = place.room()
    async with place.worker() as worker:
        await worker.broker.subscribe(room)
        await worker.broker.add_member(room, ANN, announce=False)
        await worker.publish(room, b"1")
        configure(redis, "maxmemory", "1")
        with pytest.raises(BrokerUnavailable, match="OOM"):
            await worker.publish(room, b"2")
        assert str(worker.broker.statistics()["refuses"]).startswith("OOM ")
        assert await worker.broker.remove_member(room, ConnectionId(ANN.connection_id), announce=False) == 0
        await worker.publish(room, b"heard, and not kept", retention=NOT_KEPT)
        await flushed(worker, room)
        assert str(worker.broker.statistics()["refuses"]).startswith("OOM ")
        configure(redis, "maxmemory", "0")


@run_async
async def test_a_room_that_no_longer_is_what_it_was_is_no_server_that_takes_no_writes(redis: RedisServer) -> None:
    place = Place("redis", redis.url)
    room = place.room()
    async with place.worker() as worker:
        redis.command("SET", f"{place.own}:{{{room}}}:o", "a value of another program")
        with pytest.raises(BrokerUnavailable, match="WRONGTYPE"):
            await worker.publish(room, b"1")
        assert worker.broker.statistics()["refuses"] == ""


@run_async
async def test_each_node_of_a_cluster_that_takes_no_writes_is_reported() -> None:
    require("redis")
    with RedisCluster() as cluster:
        async with Place("cluster", cluster.url).worker() as worker:
            for node in cluster.masters:
                configure(node, "maxmemory", "1")
                await says(worker, "OOM")
                configure(node, "maxmemory", "0")
                await says(worker, "")
