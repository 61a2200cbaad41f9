"""
A failover to a replica that lacks the last publications: no client gets a false `recovered: true`.

A replica that lacks the last removals shows removed members only for a short time.

Two real servers, one a replica of the other. A broker reaches the first one through a path in the file system. The
failover changes that path, as Sentinel or a moved address would. Offsets are used again for other publications, so a
client with a lost one holds a position that looks right and is not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import realtime.broker.redis
from realtime import App
from realtime.broker.base import Room, WorkerId
from realtime.broker.redis import RedisBroker
from tests.support.aio import run_async
from tests.support.client import ProtocolClient
from tests.support.one_worker import OneWorker, until
from tests.support.processes import free_port
from tests.support.redis_cluster import wait
from tests.support.redis_server import RedisServer
from tests.support.require import require

ROOM = "kept"


class Pair:
    """A master, its replica, and the one address by which both are reached in turn."""

    def __init__(self, directory: Path) -> None:
        self.master, self.replica = RedisServer(free_port()), RedisServer(free_port())
        self.path = directory / "redis.sock"
        self.url = f"unix://{self.path}"

    def start(self) -> None:
        self.master.start()
        self.replica.start()
        self.replica.command("REPLICAOF", "127.0.0.1", str(self.master.port))
        os.symlink(self.master.path, self.path)

    def wait_for_replica(self) -> None:
        """Wait until it has everything."""
        wait(lambda: self.replica.follows(self.master))

    def part(self) -> None:
        """The replica receives nothing more, and will be the master; no worker knows yet."""
        assert self.replica.command("REPLICAOF", "NO", "ONE") == b"+OK\r\n"

    def fail_over(self) -> None:
        """The master dies; from now on the address leads to the replica."""
        self.path.unlink()
        os.symlink(self.replica.path, self.path)
        self.master.stop()

    def stop(self) -> None:
        self.master.close()
        self.replica.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    require("redis")
    pair = Pair(tmp_path)
    pair.start()
    yield pair
    pair.stop()


def make_app() -> App:
    app = App()
    app.room(ROOM, open=True, history=100)
    return app


async def data(client: ProtocolClient, count: int) -> list[Any]:
    return [(await client.push("pub"))["pub"]["data"] for _ in range(count)]


async def came_back(worker: OneWorker) -> None:
    """Wait until the worker's link is up, at the other server."""
    await until(lambda: worker.hub.statistics()["broker"]["link"] == "up")


@run_async
async def test_a_client_that_lost_publications_gets_no_recovered(pair: Pair) -> None:
    app = make_app()
    async with OneWorker(app, broker=RedisBroker(pair.url, WorkerId("one"))) as worker:
        client = await worker.join()
        await client.ask("subscribe", channel=ROOM)
        for n in range(5):
            await app.room(ROOM).publish(n)
        pair.wait_for_replica()
        pair.part()
        for n in range(5, 8):
            await app.room(ROOM).publish(n)
        assert await data(client, 8) == list(range(8))
        position = worker.hub._rooms[Room(ROOM)].machine.position
        assert position.offset == 8
        await client.close()

        pair.fail_over()
        await until(lambda: worker.hub.statistics()["broker"]["links_lost"] == 1)
        await came_back(worker)
        for n in ("other 5", "other 6", "other 7"):
            await app.room(ROOM).publish(n)
        page = await app.room(ROOM).history(100)
        assert [each.data for each in page.publications][5:] == ["other 5", "other 6", "other 7"]
        assert page.top.offset == 8, "the offsets are handed out again"

        back = await worker.join()
        told = await back.ask("subscribe", channel=ROOM, recover=True, epoch=position.epoch, offset=position.offset)
        assert told["was_recovering"] is True
        assert not told.get("recovered")
        assert told["epoch"] != position.epoch


@run_async
async def test_a_client_that_stayed_must_resubscribe_and_gets_no_recovered(pair: Pair) -> None:
    app = make_app()
    async with OneWorker(app, broker=RedisBroker(pair.url, WorkerId("one"))) as worker:
        client = await worker.join()
        first = await client.ask("subscribe", channel=ROOM)
        for n in range(3):
            await app.room(ROOM).publish(n)
        pair.wait_for_replica()
        assert await data(client, 3) == [0, 1, 2]
        pair.fail_over()
        pair.part()
        assert (await client.push("unsubscribe"))["unsubscribe"]["code"] == 2500
        told = await client.ask("subscribe", channel=ROOM, recover=True, epoch=first["epoch"], offset=3)
        assert not told.get("recovered"), "nothing was lost, but no server can know that"
        await app.room(ROOM).publish("after")
        assert await data(client, 1) == ["after"]


@run_async
async def test_a_master_that_was_a_replica_in_between_is_another_one(pair: Pair) -> None:
    app = make_app()
    async with OneWorker(app, broker=RedisBroker(pair.url, WorkerId("one"))) as worker:
        client = await worker.join()
        await client.ask("subscribe", channel=ROOM)
        for n in range(5):
            await app.room(ROOM).publish(n)
        pair.wait_for_replica()
        pair.part()
        for n in range(5, 8):
            await app.room(ROOM).publish(n)
        assert await data(client, 8) == list(range(8))
        position = worker.hub._rooms[Room(ROOM)].machine.position
        await client.close()
        await until(lambda: not worker.hub.statistics()["rooms"])

        assert pair.master.command("REPLICAOF", "127.0.0.1", str(pair.replica.port)) == b"+OK\r\n"
        await until(lambda: b"master_link_status:up" in pair.master.command("INFO", "replication"))
        assert pair.master.command("REPLICAOF", "NO", "ONE") == b"+OK\r\n", "the same process, without the last three"
        pair.master.command("CLIENT", "KILL", "TYPE", "normal")
        await until(lambda: worker.hub.statistics()["broker"]["links_lost"] >= 1)
        await came_back(worker)
        for n in ("other 5", "other 6", "other 7"):
            await app.room(ROOM).publish(n)
        assert (await app.room(ROOM).history(100)).top.offset == 8, "the offsets are handed out again"

        back = await worker.join()
        told = await back.ask("subscribe", channel=ROOM, recover=True, epoch=position.epoch, offset=position.offset)
        assert not told.get("recovered")
        assert told["epoch"] != position.epoch


@run_async
async def test_a_link_that_was_cut_is_no_failover(pair: Pair) -> None:
    one, other = RedisBroker(pair.url, WorkerId("one")), RedisBroker(pair.url, WorkerId("other"))
    app = make_app()
    async with OneWorker(app, broker=one) as worker:
        client = await worker.join()
        first = await client.ask("subscribe", channel=ROOM)
        await app.room(ROOM).publish(0)
        assert pair.master.command("CLIENT", "KILL", "TYPE", "normal").startswith(b":")
        await until(lambda: worker.hub.statistics()["broker"]["links_lost"] == 1)
        await came_back(worker)
        await app.room(ROOM).publish(1)
        assert await data(client, 2) == [0, 1]
        async with OneWorker(make_app(), broker=other) as second:
            back = await second.join()
            told = await back.ask("subscribe", channel=ROOM, recover=True, epoch=first["epoch"], offset=1)
            assert told["recovered"] is True
            assert [pub["data"] for pub in told["publications"]] == [1]


@run_async
async def test_a_member_that_a_failover_brings_back_leaves_again(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(realtime.broker.redis, "ROUND_S", 0.05)
    app = App()
    heard: list[str] = []
    app.room("plain", open=True, presence=True)

    @app.room("told", presence=True)
    class Told:
        async def on_leave(self, member: Any) -> None:
            heard.append(f"leave {member.connection_id}")

        async def on_empty(self) -> None:
            heard.append("empty")

    app.room("kind", open=True, presence=True, grace_s=0.1)
    rooms = ["plain", "kind"]
    async with OneWorker(app, broker=RedisBroker(pair.url, WorkerId("one"))) as worker:
        watcher, leaver = await worker.join(user="wim"), await worker.join(user="ana")
        for room in rooms:
            await watcher.ask("subscribe", channel=room, join_leave=True)
        for room in (*rooms, "told"):
            await leaver.ask("subscribe", channel=room)
        pair.wait_for_replica()
        pair.part()
        left = leaver.connected["client"]
        await leaver.close()
        for _ in rooms:
            assert (await watcher.push("leave"))["leave"]["info"]["client"] == left
        await until(lambda: heard == [f"leave {left}", "empty"])
        await until(lambda: worker.broker.statistics()["own_members"] == len(rooms))

        pair.fail_over()
        await until(lambda: worker.hub.statistics()["broker"]["links_lost"] == 1)
        await came_back(worker)
        for _ in rooms:
            assert (await watcher.push("leave"))["leave"]["info"]["client"] == left
        await until(lambda: heard == [f"leave {left}", "empty"] * 2)
        await until(lambda: worker.broker.statistics()["own_members"] == len(rooms))
        for room in rooms:
            assert set(await app.room(room).presence()) == {watcher.connected["client"]}
        assert await app.room("told").presence() == {}
