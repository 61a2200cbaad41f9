"""
Deploys and changes of the slots while clients are connected: nobody notices.

Real processes. Whatever is done to the workers, each client keeps its TCP connection, gets every publication once and
in order, and sees nobody leave. What an SDK sees, JSON and Protobuf, is in tests/sdk/recovery.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from realtime.cli.status import older_generations
from sticky.process.control import send_request
from tests.support.aio import eventually, run_async_for
from tests.support.client import ProtocolClient
from tests.support.crowd import APP, ROOM, SECRET, Crowd, home, join, where
from tests.support.redis_server import RedisServer
from tests.support.server import RunningServer

CLIENTS = 24
MORE = 20  # publications between two actions


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path


@contextlib.contextmanager
def running(app: Path, *options: str, workers: int = 2) -> Iterator[RunningServer]:
    env = {"REALTIME_SECRET": SECRET}
    with RunningServer(app, "--drain", "20s", *options, workers=workers, env=env) as server:
        server.wait_until_full()
        try:
            yield server
        finally:
            server.stop(signal.SIGQUIT)  # at once: clients are connected, and their drain takes its time


@contextlib.asynccontextmanager
async def crowded(app: Path, *options: str, workers: int = 2, count: int = CLIENTS) -> AsyncIterator[Crowd]:
    """A server with a crowd and publications; at the end, see that nobody has noticed anything."""
    with running(app, *options, workers=workers) as server:
        crowd = await Crowd.gather(server, count)
        crowd.publish()
        await crowd.wait_for_more(MORE)
        yield crowd
        await crowd.wait_for_more(MORE)
        await crowd.stop_publishing()
        await crowd.check()


def command(server: RunningServer, name: str, **fields: Any) -> None:
    send_request(server.control, {"command": name, **fields})


def pids(server: RunningServer) -> dict[int, int]:
    return {each["slot"]: each["pid"] for each in server.status()["workers"]}


async def reload(crowd: Crowd, slots: int) -> None:
    before = pids(crowd.server)
    crowd.server.send_signal(signal.SIGHUP)

    async def is_replaced() -> bool:
        return not set(before.values()) & set((await asyncio.to_thread(pids, crowd.server)).values())

    await eventually(is_replaced, every_s=0.1)
    await crowd.wait_until_settled(slots)


async def scale(crowd: Crowd, slots: int) -> None:
    command(crowd.server, "scale", workers=slots)
    await crowd.wait_until_settled(slots)


async def drain(crowd: Crowd, slot: int, slots: int) -> None:
    before = pids(crowd.server)[slot]
    command(crowd.server, "drain", slot=slot)

    async def is_replaced() -> bool:
        return before not in (await asyncio.to_thread(pids, crowd.server)).values()

    await eventually(is_replaced, every_s=0.1)
    await crowd.wait_until_settled(slots)


async def wait_until_home(crowd: Crowd, slots: int) -> None:
    """Wait until each address is at home. No other moves."""

    async def is_home() -> bool:
        return await crowd.slots() == {address: home(address, slots) for address in crowd.clients}

    await eventually(is_home, every_s=0.1)


async def wait_until_balanced(crowd: Crowd, slots: int) -> None:
    """Wait until all slots have the same number of connections, within one."""

    async def is_balanced() -> bool:
        workers = (await asyncio.to_thread(crowd.server.status))["workers"]
        counts = [each["connections"] for each in workers]
        return len(counts) == slots and max(counts) - min(counts) <= 1

    await eventually(is_balanced, every_s=0.1)


# Reload, scale and drain


@pytest.mark.parametrize("sticky", ["ip", "session", "none"])
@run_async_for(170)
async def test_nobody_notices_reloads_scaling_and_drains(app: Path, sticky: str) -> None:
    async with crowded(app, "--sticky", sticky) as crowd:
        began = await crowd.slots()
        await reload(crowd, 2)
        assert await crowd.slots() == began, "all go to the successor in the same slot"
        assert {(await where(each))["moves"] for each in crowd.clients.values()} == {1}, "on_migrate was called"
        for slots in (4, 3):
            await scale(crowd, slots)
            if sticky == "ip":
                await wait_until_home(crowd, slots)
            elif sticky == "none" and slots == 4:
                await wait_until_balanced(crowd, slots)
            else:
                found = await crowd.slots()
                assert {a for a in began if began[a] < slots and found[a] == began[a]} >= (
                    set(began) if sticky == "session" else set()
                ), "a sticky id with the tag of a slot stays there"
                assert max(found.values()) < slots
        before = await crowd.slots()
        await drain(crowd, 1, 3)
        assert await crowd.slots() == before, "only scaling empties a slot"
        moves = Counter({address: (await where(client))["moves"] for address, client in crowd.clients.items()})
        assert all(moves[address] >= 2 for address, slot in before.items() if slot == 1)
        if sticky == "ip":  # one for the reload, one for each change of the home, one for the drain of slot 1
            homes = {address: [home(address, slots) for slots in (2, 4, 3)] for address in crowd.clients}
            wanted = {
                address: 1 + (two != four) + (four != three) + (three == 1)
                for address, (two, four, three) in homes.items()
            }
            assert dict(moves) == wanted, "no other connection moves"
        await reload(crowd, 3)
        await reload(crowd, 3)
        assert await crowd.slots() == before


@pytest.mark.redis
@run_async_for(170)
async def test_nobody_notices_a_reload_and_scaling_with_redis(app: Path) -> None:
    with RedisServer() as redis:
        async with crowded(app, "--sticky", "ip", "--redis", redis.url) as crowd:
            await reload(crowd, 2)
            await scale(crowd, 3)
            await wait_until_home(crowd, 3)
            await scale(crowd, 2)
            await wait_until_home(crowd, 2)


@run_async_for(120)
async def test_after_the_death_of_a_worker_its_keys_go_home_again(app: Path) -> None:
    with running(app, "--sticky", "ip") as server:
        addresses = [each for each in (f"127.0.63.{number}" for number in range(1, 60)) if home(each, 2) == 0][:6]
        victims = [await join(server, address) for address in addresses]
        app.with_suffix(".wait").touch()
        os.kill(pids(server)[0], signal.SIGKILL)
        for victim in victims:
            await victim.wait_closed()
        back = [await join(server, address) for address in addresses]
        for client in back:
            await client.ask("subscribe", channel=ROOM)
            assert (await where(client))["slot"] == 1, "its home has no worker"
        app.with_suffix(".wait").unlink()

        async def is_home() -> bool:
            return {(await where(client))["slot"] for client in back} == {0}

        await eventually(is_home, every_s=0.1)
        assert [await where(client) for client in back] == [{"slot": 0, "moves": 1, "from": 1}] * len(back)
        assert [client.closed for client in back] == [None] * len(back)


# What does not move


@run_async_for(120)
async def test_a_connection_that_the_application_keeps_stays_and_then_reconnects(app: Path) -> None:
    with running(app, "--sticky", "ip") as server:
        address = next(each for each in (f"127.0.63.{n}" for n in range(1, 90)) if home(each, 3) == 2)
        client = await join(server, address)
        await client.ask("rpc", method="stay", data={})
        before = (await where(client))["slot"]
        command(server, "scale", workers=3)
        reason = "on_migrate: it stays"
        await asyncio.to_thread(server.log.wait_for, f'connection not moved .*reason="{reason}"')
        assert (await where(client))["slot"] == before

        async def is_shown() -> bool:
            workers = (await asyncio.to_thread(server.status))["workers"]
            return any((each["statistics"] or {}).get("moves", {}).get("refused", {}).get(reason) for each in workers)

        await eventually(is_shown, every_s=0.1)
        server.send_signal(signal.SIGHUP)
        code, _ = await client.wait_closed()
        assert code == 3001, "it has to reconnect"


@run_async_for(120)
async def test_status_shows_what_stays_on_an_older_generation(app: Path) -> None:
    with running(app, "--sticky", "ip") as server:
        clients = [await join(server, "127.0.63.1") for _ in range(8)]
        for client in clients:
            await client.ask("rpc", method="stay", data={})
        assert older_generations(server.status()) == []
        server.send_signal(signal.SIGHUP)

        async def is_shown() -> bool:
            lines = older_generations(await asyncio.to_thread(server.status))
            return any(re.fullmatch(r"generation 2: [1-8] connections? of generation 1", line) for line in lines)

        await eventually(is_shown, every_s=0.05)
        for client in clients:
            await client.close()

        async def is_over() -> bool:
            return older_generations(await asyncio.to_thread(server.status)) == []

        await eventually(is_over, every_s=0.1)


@run_async_for(120)
async def test_without_migration_clients_reconnect(app: Path) -> None:
    with running(app, "--sticky", "ip", "--migrate", "off") as server:
        clients = [await ProtocolClient.join(server.websocket_url, f"127.0.63.{n}") for n in range(1, 9)]
        server.send_signal(signal.SIGHUP)
        assert {(await client.wait_closed())[0] for client in clients} == {3001}
