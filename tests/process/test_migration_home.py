"""
After the death of a worker: the connections whose home its slot is go back to it, and a key moves as a whole.

Real processes, with each `--sticky`. The slot has no worker until the application lets it boot. So clients that come
back are served in the other slot meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.process.test_migration import app as app  # the fixture
from tests.process.test_migration import pids, running
from tests.process.test_migration_faults import addresses_of
from tests.support.aio import eventually, run_async_for
from tests.support.client import ProtocolClient
from tests.support.crowd import join, where
from tests.support.server import RunningServer

pytestmark = pytest.mark.slow

CLIENTS = 6


async def with_id(server: RunningServer, sticky_id: str) -> ProtocolClient:
    """Connect a client that has a sticky id."""
    client = await ProtocolClient.open(server.websocket_url, Cookie=f"rt_session={sticky_id}")
    client.connected = await client.ask("connect")
    return client


async def ids_of(server: RunningServer, slot: int) -> list[str]:
    """Return sticky ids that the server has given to clients of a slot. These clients are connected."""
    found = []
    while len(found) < CLIENTS:
        client = await join(server, "127.0.0.1")
        if (await where(client))["slot"] == slot:
            found.append(client.sticky_id)
        else:
            await client.close()
    return found


async def kill(server: RunningServer, app: Path, slot: int) -> None:
    """Kill the worker of a slot, which gets no other one before the file is gone."""
    app.with_suffix(".wait").touch()
    killed = pids(server)[slot]
    os.kill(killed, signal.SIGKILL)
    await asyncio.to_thread(server.log.wait_for, f"worker exited slot={slot} pid={killed}")


async def wait_until_all_are_in(slot: int, clients: list[ProtocolClient]) -> None:
    async def are_there() -> bool:
        return {(await where(client))["slot"] for client in clients} == {slot}

    await eventually(are_there, every_s=0.1)
    assert [await where(client) for client in clients] == [{"slot": slot, "moves": 1, "from": 1 - slot}] * len(clients)
    assert [client.closed for client in clients] == [None] * len(clients)


@run_async_for(120)
async def test_sticky_ids_with_the_tag_of_the_slot_go_home_again(app: Path) -> None:
    with running(app, "--sticky", "session") as server:
        ids = await ids_of(server, 0)
        await kill(server, app, 0)
        back = [await with_id(server, each) for each in ids]
        assert {(await where(client))["slot"] for client in back} == {1}, "their home has no worker"
        others = [await with_id(server, each) for each in await ids_of(server, 1)]
        app.with_suffix(".wait").unlink()
        await wait_until_all_are_in(0, back)
        assert [await where(client) for client in others] == [{"slot": 1, "moves": 0, "from": None}] * CLIENTS


@run_async_for(120)
async def test_without_keys_just_as_many_move_as_make_the_slots_equal(app: Path) -> None:
    with running(app, "--sticky", "none") as server:
        await kill(server, app, 0)
        clients = [await join(server, "127.0.0.1") for _ in range(9)]
        assert {(await where(client))["slot"] for client in clients} == {1}
        app.with_suffix(".wait").unlink()

        async def are_equal() -> bool:
            counts = Counter([(await where(client))["slot"] for client in clients])
            return sorted(counts.values()) == [4, 5]

        await eventually(are_equal, every_s=0.1)
        assert sum([(await where(client))["moves"] for client in clients]) == 4, "no more than have to"
        assert [client.closed for client in clients] == [None] * len(clients)


@pytest.mark.parametrize("sticky", ["ip", "session"])
@run_async_for(120)
async def test_while_one_connection_of_a_key_cannot_move_all_of_the_key_stay(app: Path, sticky: str) -> None:
    with running(app, "--sticky", sticky) as server:
        keys = addresses_of(0, 2) if sticky == "ip" else (await ids_of(server, 0))[:2]
        await kill(server, app, 0)
        connect = join if sticky == "ip" else with_id
        bound, free = [[await connect(server, key) for _ in range(3)] for key in keys]
        await bound[0].ask("rpc", method="stay", data={})
        app.with_suffix(".wait").unlink()
        await wait_until_all_are_in(0, free)
        await asyncio.to_thread(server.log.wait_for, 'connection not moved .*reason="on_migrate: it stays"')
        await bound[0].close()
        await wait_until_all_are_in(0, bound[1:])
