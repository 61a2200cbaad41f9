"""
The broker goes away in the middle of a move, or a channel takes no more: no false `recovered`, and each connection has
one owner.

Real processes, and the checker for what clients saw. The application holds a move where the target has the connections
and does not serve them yet; then the broker is killed, or stopped until both workers have lost it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from realtime.rooms.hub import LINK_LOST, LINK_RESTORED
from tests.process.test_migration import app as app  # the fixture
from tests.process.test_migration import command, pids, running
from tests.process.test_migration_faults import addresses_of
from tests.support.aio import eventually, run_async_for
from tests.support.checker import Event, Kind, check
from tests.support.client import Refused
from tests.support.crowd import APP, HELD, ROOM, join, where
from tests.support.log_lines import exited
from tests.support.observers import AGAIN_S, Publisher, Watcher
from tests.support.redis_server import RedisServer
from tests.support.server import RunningServer

pytestmark = pytest.mark.slow

MOVING, STAYING = 8, 2  # watchers
MORE = 20  # publications
PATIENCE_S = 60.0
SOURCE_HELD = "source held"
CHANNEL_FULL = "channel full"


class Returning(Watcher):
    """A watcher whose connection may be closed as well: it connects again, and resumes."""

    cuts = 0

    async def _read(self) -> None:
        while True:
            push = await self.client.pushes.get()
            if "pub" in push:
                self._take(push["pub"])
            elif not push or "unsubscribe" in push:
                self.tell(Kind.AWAY)
                await self._resume()

    async def _resume(self) -> None:
        """Subscribe again, on another connection where the first one has ended."""
        while True:
            try:
                if self.client.closed is not None:
                    self.cuts += 1
                    self.client = await self.join()
                await self._subscribe_again()
            except (OSError, Refused):  # ConnectionResetError: closed once more
                await asyncio.sleep(AGAIN_S)
            else:
                return


class Scene:
    """A server with watchers on both slots, and a publisher on slot 1."""

    def __init__(self, server: RunningServer, redis: RedisServer | None) -> None:
        self.server = server
        self.redis = redis
        self.events: list[Event] = []
        there = addresses_of(1, STAYING + 1)
        self.publisher = Publisher("p", [ROOM], self._joiner(there[-1]), self.events)
        self.moving = [self._watcher(each) for each in addresses_of(0, MOVING)]
        self.watchers = [*self.moving, *(self._watcher(each) for each in there[:STAYING])]

    def _joiner(self, address: str) -> Callable[[], Any]:
        return lambda: join(self.server, address)

    def _watcher(self, address: str) -> Returning:
        return Returning(address, ROOM, self._joiner(address), self.events)

    @property
    def broker(self) -> int:
        """The process id of the broker."""
        if self.redis is None:
            return self.server.local_broker()
        assert self.redis.process is not None, "it runs"
        return self.redis.process.pid

    async def end(self) -> None:
        """See that each connection has an owner, that publications arrive, and that nothing untrue was seen."""
        await self.publisher.wait_for_acks(MORE)
        await self.publisher.stop()
        last = await self.publisher.last(ROOM)
        assert all(await asyncio.gather(*(each.end(last, PATIENCE_S) for each in self.watchers)))
        assert check(self.events) == []
        assert [each.cuts for each in self.watchers] == [0] * len(self.watchers), "the broker came back in time"

        async def has_owners() -> bool:
            workers = (await asyncio.to_thread(self.server.status))["workers"]
            return sum(each["connections"] for each in workers) == len(self.watchers) + 1

        await eventually(has_owners, every_s=0.1)
        assert {(await where(each.client))["slot"] for each in self.moving} == {0}


@contextlib.asynccontextmanager
async def scene(app: Path, redis: RedisServer | None) -> AsyncIterator[Scene]:
    options = () if redis is None else ("--redis", redis.url)
    with running(app, "--sticky", "ip", "--drain", "60s", *options) as server:
        found = Scene(server, redis)
        await found.publisher.enter()
        await asyncio.gather(*(each.enter() for each in found.watchers))
        found.publisher.start()
        await found.publisher.wait_for_acks(MORE)
        yield found


async def killed(scene: Scene, release: Callable[[], None]) -> None:
    """Kill the broker, have the move go on without it, and start it again. The local one is started by the primary."""
    if scene.redis is None:
        os.kill(scene.broker, signal.SIGKILL)
        release()
        return
    scene.redis.stop()
    await asyncio.to_thread(scene.server.log.wait_for, LINK_LOST, times=2)
    release()
    await asyncio.to_thread(scene.server.log.wait_for, "connection not moved", times=MOVING)
    scene.redis.start()


async def stopped(scene: Scene, release: Callable[[], None]) -> None:
    """Stop the broker in the middle, for so long that the workers give the link up."""
    broker = scene.broker
    os.kill(broker, signal.SIGSTOP)
    try:
        release()
        await asyncio.to_thread(scene.server.log.wait_for, LINK_LOST, times=2)
    finally:
        os.kill(broker, signal.SIGCONT)


FAULTS = {"killed": killed, "stopped": stopped}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("broker", ["local", pytest.param("redis", marks=pytest.mark.redis)])
@run_async_for(170)
async def test_a_broker_that_goes_away_in_a_move_costs_no_publication_and_no_connection_is_lost(
    app: Path, broker: str, fault: str
) -> None:
    with RedisServer(is_durable=True) if broker == "redis" else contextlib.nullcontext() as redis:
        async with scene(app, redis) as found:
            source = pids(found.server)[0]
            hold = app.with_suffix(".hold")
            hold.touch()
            since = found.server.log.mark()
            command(found.server, "drain", slot=0)
            await asyncio.to_thread(found.server.log.wait_for, HELD, since=since)
            await FAULTS[fault](found, lambda: hold.unlink(missing_ok=True))
            await asyncio.to_thread(found.server.log.wait_for, LINK_RESTORED, since=since, times=2)
            await asyncio.to_thread(found.server.log.wait_for, exited(slot=0, pid=source), since=since)
            await found.end()


# A channel that takes no more

# The source can be held, and its channel to the target has room for one batch alone. The application says when it is
# full.
NARROW = f'''
import fcntl
import socket
import termios


def move_channel():
    """Return a copy of the socket on which connections move: the one with the largest send buffer."""
    for name in os.listdir("/proc/self/fd"):
        try:
            sock = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        if sock.family == socket.AF_UNIX and sock.type == socket.SOCK_SEQPACKET:
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) > 500_000:
                return sock
        sock.close()


async def watch(sock):
    size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    while int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), "little") < size:
        await asyncio.sleep(0.02)
    logging.getLogger("realtime.app").warning("{CHANNEL_FULL}")
    sock.close()


watching = []


async def narrow():
    if not watching:
        watching.append(None)
        sock = move_channel()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        watching.append(asyncio.create_task(watch(sock)))
        logging.getLogger("realtime.app").warning("{SOURCE_HELD}")
    while HERE.with_suffix(".source").exists():
        await asyncio.sleep(0.02)
'''
NARROWED = APP.replace("app = App()\n", NARROW + "\napp = App()\n", 1).replace(
    '    if when == "before":\n', '    if when == "before":\n        await narrow()\n', 1
)


@pytest.mark.parametrize("end", ["goes on", "dies"])
@run_async_for(170)
async def test_a_full_channel_to_the_target_makes_connections_wait_and_none_is_without_an_owner(
    app: Path, end: str
) -> None:
    await asyncio.to_thread(app.write_text, NARROWED)
    with running(app, "--sticky", "ip", "--hung", "60s") as server:
        clients = [await join(server, each, user="x" * 1000) for each in addresses_of(0, 90)]
        app.with_suffix(".source").touch()
        since = server.log.mark()
        command(server, "drain", slot=0)
        await asyncio.to_thread(server.log.wait_for, SOURCE_HELD, since=since)
        line = server.log.wait_for(r"worker ready slot=0 pid=(\d+)", since=since)
        target = int(line[1])
        os.kill(target, signal.SIGSTOP)
        app.with_suffix(".source").unlink()
        await asyncio.to_thread(server.log.wait_for, CHANNEL_FULL, since=since)
        os.kill(target, signal.SIGCONT if end == "goes on" else signal.SIGKILL)

        async def have_moved() -> bool:
            found = [await where(each) for each in clients]
            return all(each == {"slot": 0, "moves": 1, "from": 0} for each in found)

        await eventually(have_moved, every_s=0.2)
        assert [each.closed for each in clients] == [None] * len(clients)
        await owned(server, len(clients))


@run_async_for(170)
async def test_a_full_channel_to_the_source_delays_its_move_and_loses_nothing(app: Path) -> None:
    with running(app, "--sticky", "ip", "--hung", "60s") as server:
        addresses = addresses_of(0, 90)
        clients = [await join(server, each) for each in addresses[:10]]
        source = pids(server)[0]
        os.kill(source, signal.SIGSTOP)
        requests = [ask_health(server, addresses[number % len(addresses)]) for number in range(500)]

        async def is_full() -> bool:
            workers = (await asyncio.to_thread(server.status))["workers"]
            return any(each["pid"] == source and each["waiting"] for each in workers)

        await eventually(is_full, every_s=0.05)
        since = server.log.mark()
        command(server, "drain", slot=0)
        await asyncio.to_thread(server.log.wait_for, "worker ready slot=0", since=since)
        os.kill(source, signal.SIGCONT)
        answers = await asyncio.gather(*(asyncio.to_thread(answer, each) for each in requests))
        assert set(answers) == {b"HTTP/1.1 200 OK"}

        async def have_moved() -> bool:
            return {(await where(each))["moves"] for each in clients} == {1}

        await eventually(have_moved, every_s=0.1)
        assert [each.closed for each in clients] == [None] * len(clients)
        await asyncio.to_thread(server.log.wait_for, exited(slot=0, pid=source), since=since)
        await owned(server, len(clients))


def ask_health(server: RunningServer, address: str) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", server.port), 30, (address, 0))
    sock.sendall(b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    return sock


def answer(sock: socket.socket) -> bytes:
    with sock, sock.makefile("rb") as stream:
        return stream.readline().rstrip()


async def owned(server: RunningServer, clients: int) -> None:
    """Wait until the workers count just these clients."""

    async def is_so() -> bool:
        workers = (await asyncio.to_thread(server.status))["workers"]
        return sum(each["connections"] for each in workers) == clients

    await eventually(is_so, every_s=0.1)
