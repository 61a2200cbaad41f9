"""
Faults of the backplane: what workers share goes away, stops, lies about memory, or is cut off in silence.

Four workers, clients on all of them, publishers that never stop. In each fault sockets stay open, publishers are told
of a temporary error and never of a success that was none, `/health` says how it is, and afterwards everything goes on
by itself. The checker then says whether anybody was told something untrue.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from json import loads
from pathlib import Path

import pytest

from realtime.broker.redis import HOME
from realtime.broker.slots import slot_of
from tests.support.aio import run_async_for
from tests.support.checker import Event, check
from tests.support.client import ProtocolClient
from tests.support.observers import Publisher, Watcher
from tests.support.processes import free_port
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer
from tests.support.relay import Relay
from tests.support.require import require
from tests.support.sentinels import Sentinels
from tests.support.server import RunningServer

APP = """
from realtime import App

app = App()
app.room("kept:{name}", history=20_000, history_ttl_s=600, open=True)
"""
ROOMS = [f"kept:{number}" for number in range(3)]
PATIENCE_S = 40.0  # for what comes by itself


class Scene:
    """A server, what it shares, and its clients."""

    def __init__(
        self,
        server: RunningServer,
        redis: RedisServer | None,
        relay: Relay | None,
        sentinels: Sentinels | None,
        cluster: RedisCluster | None,
    ) -> None:
        self.server, self.relay, self.sentinels, self.cluster = server, relay, sentinels, cluster
        self._redis = redis

    @property
    def redis(self) -> RedisServer:
        assert self._redis is not None
        return self._redis

    async def healths(self) -> set[str]:
        """Ask every worker how it is."""

        def ask(address: str) -> str:
            sock = socket.create_connection(("127.0.0.1", self.server.port), 10, (address, 0))
            with sock:
                sock.sendall(b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                received = b""
                while data := sock.recv(65536):
                    received += data
            return str(loads(received.partition(b"\r\n\r\n")[2])["status"])

        addresses = [f"127.0.70.{number}" for number in range(1, 17)]
        return set(await asyncio.gather(*[asyncio.to_thread(ask, address) for address in addresses]))

    async def wait_for_health(self, wanted: set[str]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while await self.healths() != wanted:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.1)


# The faults. Each ends with the backplane being well again.


async def restarted_empty(scene: Scene) -> None:
    scene.redis.stop()
    await scene.wait_for_health({"degraded"})
    scene.redis.start()


async def restarted_with_data(scene: Scene) -> None:
    scene.redis.stop()
    await scene.wait_for_health({"degraded"})
    scene.redis.start()


async def paused(scene: Scene) -> None:
    assert scene.redis.command("CLIENT", "PAUSE", "5000", "ALL") == b"+OK\r\n"
    await asyncio.to_thread(scene.redis.command, "PING")  # answered when the pause has ended


async def stopped(scene: Scene) -> None:
    assert scene.redis.process is not None
    os.kill(scene.redis.process.pid, signal.SIGSTOP)
    try:
        await scene.wait_for_health({"degraded"})
    finally:
        os.kill(scene.redis.process.pid, signal.SIGCONT)


async def pubsub_killed(scene: Scene) -> None:
    for _ in range(3):
        assert scene.redis.command("CLIENT", "KILL", "TYPE", "pubsub").startswith(b":")
        await asyncio.sleep(0.3)


async def output_buffer_full(scene: Scene) -> None:
    limits = "normal 0 0 0 replica 0 0 0 pubsub 65536 32768 1"
    assert scene.redis.command("CONFIG", "SET", "client-output-buffer-limit", limits) == b"+OK\r\n"
    before = listeners(scene.redis)
    pid = scene.server.status()["workers"][0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(200):  # a worker that does not read, and a room of which it hears
            for channel in channels(scene.redis):
                scene.redis.command("PUBLISH", channel, "?:" + "x" * 16_000)
            if listeners(scene.redis) < before:
                break
        assert listeners(scene.redis) < before, "Redis has cut somebody off"
    finally:
        os.kill(pid, signal.SIGCONT)


def channels(redis: RedisServer) -> list[str]:
    return [word.decode() for word in redis.command("PUBSUB", "CHANNELS", "*kept*").split(b"\r\n") if b"kept" in word]


def listeners(redis: RedisServer) -> int:
    return redis.command("CLIENT", "LIST", "TYPE", "pubsub").count(b"id=")


async def out_of_memory(scene: Scene) -> None:
    assert scene.redis.command("CONFIG", "SET", "maxmemory", "1") == b"+OK\r\n"
    await asyncio.sleep(1)
    assert scene.redis.command("CONFIG", "SET", "maxmemory", "0") == b"+OK\r\n"


async def black_hole(scene: Scene) -> None:
    assert scene.relay is not None
    scene.relay.swallow()
    try:
        await scene.wait_for_health({"degraded"})
    finally:
        scene.relay.release()


async def local_broker_killed(scene: Scene) -> None:
    [pid] = {int(word) for word in children(scene.server.process.pid) if is_broker(int(word))}
    os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(0.5)


async def failed_over_by_sentinel(scene: Scene) -> None:
    assert scene.sentinels is not None
    scene.sentinels.master.stop()
    await scene.wait_for_health({"degraded"})


async def cluster_node_killed(scene: Scene) -> None:
    cluster = scene.cluster
    assert cluster is not None
    cluster.owner(slot_of(ROOMS[0])).stop()
    await scene.wait_for_health({"degraded"})


async def rooms_moved(scene: Scene) -> None:
    """Every room, and what belongs to none, goes round the nodes of the cluster while it is in use."""
    cluster = scene.cluster
    assert cluster is not None
    for tag in (*ROOMS, HOME):
        for target in cluster.masters:
            if target is not cluster.owner(slot_of(tag)):
                await asyncio.to_thread(cluster.move, slot_of(tag), target)
                await asyncio.sleep(0)


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def is_broker(pid: int) -> bool:
    return b"local_server" in Path(f"/proc/{pid}/cmdline").read_bytes()


Fault = Callable[[Scene], Awaitable[None]]
OF_CLUSTER = [cluster_node_killed, rooms_moved]
SLOW = [restarted_with_data, paused, stopped, output_buffer_full, black_hole, cluster_node_killed]
TOLD = [  # publishers hear of an error
    restarted_empty, restarted_with_data, stopped, out_of_memory, black_hole, failed_over_by_sentinel,
    cluster_node_killed,
]  # fmt: skip


@contextlib.contextmanager
def scene_of(fault: Fault, tmp_path: Path) -> Iterator[Scene]:
    app = tmp_path / "app.py"
    app.write_text(APP)
    with contextlib.ExitStack() as stack:
        options: list[str] = []
        redis = relay = sentinels = cluster = None
        if fault is failed_over_by_sentinel:
            require("redis")
            sentinels = stack.enter_context(Sentinels())
            options = ["--redis", sentinels.url]
        elif fault in OF_CLUSTER:
            require("redis")
            cluster = stack.enter_context(RedisCluster(replicas=fault is cluster_node_killed))
            options = ["--redis", cluster.url]
        elif fault is not local_broker_killed:
            require("redis")
            port = free_port() if fault is black_hole else 0
            redis = stack.enter_context(RedisServer(port, is_durable=fault is restarted_with_data))
            url = redis.url
            if fault is black_hole:
                relay = stack.enter_context(Relay(port, "127.0.0.1"))
                url = relay.url.replace("http", "redis")
            options = ["--redis", url]
        server = stack.enter_context(RunningServer(app, *options, workers=4))
        server.wait_until_full()
        yield Scene(server, redis, relay, sentinels, cluster)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, marks=[pytest.mark.slow] if fault in SLOW else [], id=fault.__name__)
        for fault in (
            restarted_empty,
            restarted_with_data,
            paused,
            stopped,
            pubsub_killed,
            output_buffer_full,
            out_of_memory,
            black_hole,
            failed_over_by_sentinel,
            cluster_node_killed,
            rooms_moved,
            local_broker_killed,
        )
    ],
)
def test_a_fault_of_the_backplane(fault: Fault, tmp_path: Path) -> None:
    with scene_of(fault, tmp_path) as scene:
        go_through(scene, fault)


@run_async_for(180)
async def go_through(scene: Scene, fault: Fault) -> None:
    url = scene.server.websocket_url
    events: list[Event] = []
    addresses = iter(f"127.0.72.{number}" for number in range(1, 200))

    def join() -> Awaitable[ProtocolClient]:
        return ProtocolClient.join(url, next(addresses))

    publishers = [Publisher(f"p{number}", ROOMS, join, events) for number in range(2)]
    watchers = [Watcher(f"{room}-{number}", room, join, events) for room in ROOMS for number in range(4)]
    for each in (*publishers, *watchers):
        await each.enter()
    for publisher in publishers:
        publisher.start()
        await publisher.wait_for_acks(10)
    await scene.wait_for_health({"ok"})

    await fault(scene)

    await scene.wait_for_health({"ok"})
    for publisher in publishers:
        await publisher.wait_for_acks(20)
        await publisher.stop()
    last = {room: await publishers[0].last(room) for room in ROOMS}
    came = [await watcher.end(last[watcher.room], PATIENCE_S) for watcher in watchers]
    assert all(came), "everybody hears again what is published"
    for each in (*publishers, *watchers):
        assert each.client.closed is None, "sockets stay open"
    told = [error.code for publisher in publishers for error in publisher.errors]
    assert set(told) <= {100, 103}, "temporary errors; or not in the room for a moment, having been told so"
    assert bool(told) or fault not in TOLD, "publishers are told"
    assert check(events) == []
    resumed = [each for watcher in watchers for each in watcher.resumed]
    print(
        f"{fault.__name__}: {len(events)} events, {len(told)} errors, {len(resumed)} resumed, {sum(resumed)} recovered"
    )
    for each in (*publishers, *watchers):
        await each.client.close()
