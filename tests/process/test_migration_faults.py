"""
Faults in the middle of a move: whatever dies or is missing, each connection has one owner, or its client recovers.

Real processes. The application holds a move where the target has the connections and does not serve them yet: then a
test kills a process, or takes something away.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sticky.loop.log_lines import WORKER_HUNG
from tests.process.test_migration import CLIENTS, MORE, pids, running
from tests.process.test_migration import app as app  # the fixture
from tests.support.aio import eventually, run_async_for
from tests.support.client import Follower
from tests.support.crowd import APP, HELD, ROOM, Crowd, home, join, where
from tests.support.redis_server import RedisServer
from tests.support.server import RunningServer

pytestmark = pytest.mark.slow


def addresses_of(slot: int, count: int) -> list[str]:
    return [each for each in (f"127.0.64.{n}" for n in range(1, 250)) if home(each, 2) == slot][:count]


@asynccontextmanager
async def held(app: Path, crowd: Crowd, slot: int = 0) -> AsyncIterator[dict[str, int]]:
    """Begin a reload and hold it in the middle of its first move; gives the pids of source and target."""
    server = crowd.server
    source = pids(server)[slot]
    app.with_suffix(".hold").touch()
    since = server.log.mark()
    server.send_signal(signal.SIGHUP)
    await asyncio.to_thread(server.log.wait_for, HELD, since=since)
    line = await asyncio.to_thread(server.log.wait_for, rf"worker ready slot={slot} pid=(\d+)", since=since)
    try:
        yield {"source": source, "target": int(line[1])}
    finally:
        app.with_suffix(".hold").unlink(missing_ok=True)


async def everyone_has_an_owner(crowd: Crowd, others: int = 2) -> None:
    """Wait until the workers count as many connections as there are: the crowd, its publisher and its watcher."""

    async def is_so() -> bool:
        workers = (await asyncio.to_thread(crowd.server.status))["workers"]
        return sum(each["connections"] for each in workers) == len(crowd.clients) + others

    await eventually(is_so, every_s=0.1)


async def finish(crowd: Crowd, moves: int, *, may_be_reaped: bool = False) -> None:
    """Wait until each client has moved so often; then see that none has noticed anything."""

    async def have_moved() -> bool:
        return {(await where(each))["moves"] for each in crowd.clients.values()} == {moves}

    await eventually(have_moved, every_s=0.2)
    await everyone_has_an_owner(crowd)
    await crowd.wait_for_more(MORE)
    await crowd.stop_publishing()
    await crowd.check(may_be_reaped=may_be_reaped)


@asynccontextmanager
async def crowded(server: RunningServer) -> AsyncIterator[Crowd]:
    crowd = await Crowd.gather(server, CLIENTS)
    crowd.publish()
    await crowd.wait_for_more(MORE)
    yield crowd


@run_async_for(170)
async def test_the_source_takes_back_what_a_target_had_that_is_killed(app: Path) -> None:
    with running(app, "--sticky", "ip", "--drain", "120s") as server:
        async with crowded(server) as crowd:
            async with held(app, crowd) as who:
                os.kill(who["target"], signal.SIGKILL)
                app.with_suffix(".hold").unlink()
            await finish(crowd, 1)


@run_async_for(170)
async def test_a_target_that_hangs_is_killed_after_two_seconds_and_the_source_takes_back_what_it_had(app: Path) -> None:
    with running(app, "--sticky", "ip", "--drain", "120s", "--hung", "600s") as server:
        async with crowded(server) as crowd:
            async with held(app, crowd) as who:
                os.kill(who["target"], signal.SIGSTOP)
                await asyncio.to_thread(server.log.wait_for, f"worker hung slot=0 pid={who['target']}")
                app.with_suffix(".hold").unlink()
            await finish(crowd, 1)


@run_async_for(170)
async def test_the_target_goes_on_with_what_a_killed_source_had_sent(app: Path) -> None:
    with running(app, "--sticky", "ip") as server:
        async with crowded(server) as crowd:
            async with held(app, crowd) as who:
                os.kill(who["source"], signal.SIGKILL)
                await asyncio.to_thread(server.log.wait_for, f"worker exited slot=0 pid={who['source']}")
            await finish(crowd, 1, may_be_reaped=True)


@run_async_for(170)
async def test_a_move_ends_well_without_the_primary(app: Path) -> None:
    with running(app, "--sticky", "ip") as server:
        addresses = addresses_of(0, 6)
        clients = [await join(server, address) for address in addresses]
        app.with_suffix(".hold").touch()
        server.send_signal(signal.SIGHUP)
        await asyncio.to_thread(server.log.wait_for, HELD)
        os.kill(server.pid, signal.SIGKILL)
        app.with_suffix(".hold").unlink()
        assert [await where(client) for client in clients] == [{"slot": 0, "moves": 1, "from": 0}] * len(clients)
        for client in clients:  # else the next primary, which serves on, would drain them as long as it may
            await client.close()


@run_async_for(170)
async def test_what_the_new_version_refuses_reconnects_and_recovers(app: Path) -> None:
    with running(app, "--sticky", "ip", "--drain", "2s") as server:
        followers = [Follower(server.websocket_url, ROOM, address) for address in addresses_of(0, 6)]
        await asyncio.gather(*[each.subscribed.wait() for each in followers])
        crowd = Crowd(server, {}, await join(server, "127.0.62.1"))
        crowd.publish(addresses_of(1, 1)[0])
        await crowd.wait_for_more(MORE)
        refusing = APP.replace("NEW_VERSION_REFUSES = False", "NEW_VERSION_REFUSES = True")
        await asyncio.to_thread(app.write_text, refusing)
        server.send_signal(signal.SIGHUP)
        await asyncio.to_thread(
            server.log.wait_for, 'connection not moved .*reason="the new version refuses it', times=len(followers)
        )
        await crowd.wait_for_more(MORE)
        await crowd.stop_publishing()  # slot 1 comes next, and refuses the publisher too
        await eventually(lambda: _all_back(followers), every_s=0.1)
        crowd.publish("127.0.62.2")
        await crowd.wait_for_more(MORE)
        for follower in followers:
            await follower.wait_for(crowd.published)
            assert follower.got == list(range(len(follower.got))), "each once, in order"
            assert follower.unrecovered == 0
        await crowd.stop_publishing()
        await asyncio.gather(*[each.stop() for each in followers])


async def _all_back(followers: list[Follower]) -> bool:
    return all(each.cuts for each in followers)


@run_async_for(170)
async def test_a_target_without_descriptors_refuses_and_the_clients_recover(app: Path) -> None:
    with running(app, "--sticky", "ip", "--drain", "2s") as server:
        followers = [Follower(server.websocket_url, ROOM, address) for address in addresses_of(0, 20)]
        await asyncio.gather(*[each.subscribed.wait() for each in followers])
        app.with_suffix(".few").touch()
        since = server.log.mark()
        server.send_signal(signal.SIGHUP)
        await asyncio.to_thread(server.log.wait_for, "move refused", since=since)
        app.with_suffix(".few").unlink()
        line = server.log.wait_for(r"worker ready slot=0 pid=(\d+)", since=since)
        _, hard = resource.prlimit(int(line[1]), resource.RLIMIT_NOFILE)
        resource.prlimit(int(line[1]), resource.RLIMIT_NOFILE, (hard, hard))
        await eventually(lambda: _all_back(followers), every_s=0.1)
        crowd = Crowd(server, {}, await join(server, "127.0.62.1"))
        crowd.publish(addresses_of(1, 1)[0])
        await crowd.wait_for_more(MORE)
        for follower in followers:
            await follower.wait_for(crowd.published)
            assert follower.got == list(range(len(follower.got)))
            assert follower.unrecovered == 0
        await crowd.stop_publishing()
        await asyncio.gather(*[each.stop() for each in followers])


@pytest.mark.redis
@run_async_for(170)
async def test_a_move_waits_for_a_broker_that_is_silent(app: Path) -> None:
    with RedisServer() as redis, running(app, "--sticky", "ip", "--redis", redis.url) as server:
        assert redis.process is not None
        async with crowded(server) as crowd:
            async with held(app, crowd):
                os.kill(redis.process.pid, signal.SIGSTOP)
                app.with_suffix(".hold").unlink()
                await asyncio.to_thread(server.log.wait_for, "reload started")
                os.kill(redis.process.pid, signal.SIGCONT)
            await finish(crowd, 1)


@run_async_for(170)
async def test_a_large_move_leaves_the_loop_of_the_target_responsive(app: Path) -> None:
    with running(app, "--sticky", "none", "--hung", "2s", "--heartbeat", "250ms", workers=1) as server:
        clients = [await join(server, "127.0.0.1") for _ in range(600)]
        for client in clients:
            await client.ask("subscribe", channel=ROOM)
        server.send_signal(signal.SIGHUP)

        async def have_moved() -> bool:
            found = await asyncio.gather(*map(where, clients))
            return {each["moves"] for each in found} == {1}

        await eventually(have_moved, every_s=0.2)
        assert [client.closed for client in clients] == [None] * len(clients)
        assert server.log.find_all(WORKER_HUNG) == []


# Messages to users


@run_async_for(120)
async def test_what_is_asked_for_while_a_connection_moves_is_done_to_it(app: Path) -> None:
    with running(app, "--sticky", "ip") as server:
        here, there = addresses_of(0, 2), addresses_of(1, 1)[0]
        ann, bob = [await join(server, address, user=user) for address, user in zip(here, ("ann", "bob"), strict=True)]
        await ann.ask("subscribe", channel=ROOM)
        other = await join(server, there)
        app.with_suffix(".hold").touch()
        since = server.log.mark()
        server.send_signal(signal.SIGHUP)
        await asyncio.to_thread(server.log.wait_for, HELD, since=since, times=2)
        await other.ask("rpc", method="act", data={})
        app.with_suffix(".hold").unlink()
        found = {}
        while len(found) < 2:
            push = await asyncio.wait_for(ann.pushes.get(), 30)
            found |= {kind: push["channel"] for kind in ("subscribe", "unsubscribe") if kind in push}
        assert found == {"subscribe": "more", "unsubscribe": ROOM}
        assert (await where(ann))["moves"] == 1
        assert await bob.wait_closed() == (4321, "enough")
