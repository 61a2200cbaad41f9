"""
Faults of the backplane: what workers share goes away, stops, lies about memory, or is cut off in silence.

Four workers, clients on all of them, publishers that never stop. In each fault sockets stay open, publishers are told
of a temporary error and never of a success that was none, `/health` says how it is, and afterwards everything goes on
by itself. The checker then says whether anybody was told something untrue. In another room guests come and go all the
time; those who watch know at last who is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from json import loads
from pathlib import Path
from typing import Any

import pytest

from realtime.broker.hash_slots import hash_slot_of
from realtime.broker.keys import HOME
from realtime.rooms.hub import LINK_LOST
from tests.support.aio import eventually, run_async_for
from tests.support.checker import Event, check
from tests.support.client import ProtocolClient
from tests.support.observers import Guest, Host, Publisher, Watcher
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
app.room("seen", presence=True, open=True)
"""
SEEN = "seen"
ROOMS = [f"kept:{number}" for number in range(3)]
WORKERS = 4
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

    async def healths(self) -> list[dict[str, Any]]:
        """Ask every worker how it is."""

        def ask(address: str) -> dict[str, Any]:
            sock = socket.create_connection(("127.0.0.1", self.server.port), 10, (address, 0))
            with sock:
                sock.sendall(b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                received = b""
                while data := sock.recv(65536):
                    received += data
            told: dict[str, Any] = loads(received.partition(b"\r\n\r\n")[2])
            return told

        addresses = [f"127.0.70.{number}" for number in range(1, 17)]
        return await asyncio.gather(*[asyncio.to_thread(ask, address) for address in addresses])

    async def brokers(self) -> list[dict[str, Any]]:
        """Return what every worker says of its broker."""
        status = await asyncio.to_thread(self.server.status)
        return [worker["statistics"]["hub"]["broker"] for worker in status["workers"]]

    async def wait_for_losses(self, wanted: int, times: int) -> None:
        """Wait until at least so many workers have lost their link so often."""
        async with asyncio.timeout(PATIENCE_S):
            await eventually(lambda: self._have_lost(wanted, times), every_s=0.1)

    async def _have_lost(self, wanted: int, times: int) -> bool:
        return sum(each["links_lost"] >= times for each in await self.brokers()) >= wanted

    async def wait_for_links(self) -> None:
        """Wait until every worker has its link: those who answer for their health may not be all."""
        async with asyncio.timeout(PATIENCE_S):
            await eventually(self._are_linked, every_s=0.1)

    async def _are_linked(self) -> bool:
        return all(each["link"] == "up" for each in await self.brokers())

    async def wait_for_health(self, wanted: set[str]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await eventually(lambda: self._say(wanted), every_s=0.1)

    async def _say(self, wanted: set[str]) -> bool:
        return {each["status"] for each in await self.healths()} == wanted


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
    """Redis answers nobody, first for less time than a probe is waited for, then for more."""
    for pause_ms, health in ((3000, "ok"), (15_000, "degraded")):
        assert scene.redis.command("CLIENT", "PAUSE", str(pause_ms), "ALL") == b"+OK\r\n"
        await scene.wait_for_health({health})
        await asyncio.to_thread(scene.redis.command, "PING")  # answered when the pause has ended


async def stopped(scene: Scene) -> None:
    assert scene.redis.process is not None
    os.kill(scene.redis.process.pid, signal.SIGSTOP)
    try:
        await scene.wait_for_health({"degraded"})
    finally:
        os.kill(scene.redis.process.pid, signal.SIGCONT)


async def pubsub_killed(scene: Scene) -> None:
    for times in (1, 2, 3):
        assert scene.redis.command("CLIENT", "KILL", "TYPE", "pubsub").startswith(b":")
        await scene.wait_for_losses(WORKERS, times)
        await scene.wait_for_links()
        await scene.wait_for_health({"ok"})


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
    await scene.wait_for_losses(1, 1)
    await scene.wait_for_health({"ok"})


def channels(redis: RedisServer) -> list[str]:
    return [word.decode() for word in redis.command("PUBSUB", "CHANNELS", "*kept*").split(b"\r\n") if b"kept" in word]


def listeners(redis: RedisServer) -> int:
    return redis.command("CLIENT", "LIST", "TYPE", "pubsub").count(b"id=")


async def out_of_memory(scene: Scene) -> None:
    """Redis answers, and takes no writes."""
    assert scene.redis.command("CONFIG", "SET", "maxmemory", "1") == b"+OK\r\n"
    await scene.wait_for_health({"degraded"})
    told = [each["broker"] for each in await scene.healths()]
    assert {(each["link"], each["refuses"].partition(" ")[0]) for each in told} == {("up", "OOM")}
    assert scene.redis.command("CONFIG", "SET", "maxmemory", "0") == b"+OK\r\n"


async def black_hole(scene: Scene) -> None:
    assert scene.relay is not None
    scene.relay.swallow()
    try:
        await scene.wait_for_health({"degraded"})
    finally:
        scene.relay.release()


async def local_broker_killed(scene: Scene) -> None:
    os.kill(scene.server.local_broker(), signal.SIGKILL)
    await scene.wait_for_losses(WORKERS, 1)


async def failed_over_by_sentinel(scene: Scene) -> None:
    assert scene.sentinels is not None
    scene.sentinels.master.stop()
    await scene.wait_for_health({"degraded"})


async def cluster_node_killed(scene: Scene) -> None:
    cluster = scene.cluster
    assert cluster is not None
    cluster.owner(hash_slot_of(ROOMS[0])).stop()
    await scene.wait_for_health({"degraded"})


async def rooms_moved(scene: Scene) -> None:
    """Every room, and what belongs to none, goes round the nodes of the cluster while it is in use."""
    cluster = scene.cluster
    assert cluster is not None
    for tag in (*ROOMS, HOME):
        for target in cluster.masters:
            if target is not cluster.owner(hash_slot_of(tag)):
                await asyncio.to_thread(cluster.move, hash_slot_of(tag), target)
        await scene.wait_for_health({"ok"})


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
        server = stack.enter_context(RunningServer(app, *options, workers=WORKERS))
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
    addresses = itertools.cycle(f"127.0.72.{number}" for number in range(1, 200))

    def join() -> Awaitable[ProtocolClient]:
        return ProtocolClient.join(url, next(addresses))

    publishers = [Publisher(f"p{number}", ROOMS, join, events) for number in range(2)]
    watchers = [Watcher(f"{room}-{number}", room, join, events) for room in ROOMS for number in range(4)]
    for each in (*publishers, *watchers):
        await each.enter()
    for publisher in publishers:
        publisher.start()
        await publisher.wait_for_acks(10)
    hosts, guests = [Host(SEEN, join) for _ in range(4)], [Guest(SEEN, join) for _ in range(6)]
    for host in hosts:
        await host.enter()
    for guest in guests:
        guest.start()
    await scene.wait_for_health({"ok"})

    await fault(scene)

    await scene.wait_for_health({"ok"})
    for publisher in publishers:
        await publisher.wait_for_acks(20)
        await publisher.stop()
    for guest in guests:
        await guest.stop()
        assert guest.visits > 0
    await wait_until_all_know(hosts)
    last = {room: await publishers[0].last(room) for room in ROOMS}
    came = [await watcher.end(last[watcher.room], PATIENCE_S) for watcher in watchers]
    assert all(came), "everybody hears again what is published"
    for each in (*publishers, *watchers, *hosts):
        assert each.client.closed is None, "sockets stay open"
    told = [error for publisher in publishers for error in publisher.errors]
    assert {(error.code, error.temporary) for error in told} <= {(100, True)}, "temporary errors"
    assert bool(told) or fault not in TOLD, "publishers are told"
    assert check(events) == []
    resumed = [each for watcher in watchers for each in watcher.resumed]
    print(
        f"{fault.__name__}: {len(events)} events, {len(told)} errors, {len(resumed)} resumed, {sum(resumed)} recovered"
    )
    for each in (*publishers, *watchers, *hosts):
        await each.client.close()


@pytest.mark.parametrize("fault", [restarted_empty, local_broker_killed], ids=lambda fault: fault.__name__)
def test_who_leaves_while_the_backplane_is_away_is_told_to_have_left(fault: Fault, tmp_path: Path) -> None:
    with scene_of(fault, tmp_path) as scene:
        leave_meanwhile(scene, fault)


@run_async_for(60)
async def leave_meanwhile(scene: Scene, fault: Fault) -> None:
    host = Host(SEEN, lambda: ProtocolClient.join(scene.server.websocket_url, "127.0.73.1"))
    await host.enter()
    guests = [await ProtocolClient.join(scene.server.websocket_url, f"127.0.73.{number}") for number in range(2, 14)]
    for guest in guests:
        await guest.ask("subscribe", channel=SEEN)
    under_way = asyncio.create_task(fault(scene))
    await asyncio.to_thread(scene.server.log.wait_for, LINK_LOST)
    for guest in guests:
        guest.abort()
    await asyncio.gather(under_way, *[guest.wait_closed() for guest in guests])
    await scene.wait_for_health({"ok"})
    await wait_until_all_know([host])
    assert host.client.closed is None
    await host.client.close()


async def wait_until_all_know(hosts: list[Host]) -> None:
    """Wait until what each of them was told is who is there."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            present = await hosts[0].present()
            if len(present) == len(hosts) and all(host.known == present for host in hosts):
                return
            await asyncio.sleep(0.2)  # nobody tells that there is nothing more to be told
