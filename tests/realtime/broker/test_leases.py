"""
Leases: a killed worker loses its members without any call, and a worker that only stood still gets them back.

The workers that die are processes and are killed. The waits of the product (a lease of six seconds) are made short: the
local broker's in its own process, the Redis broker's in its modules.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import realtime.broker.members
import realtime.broker.redis
from realtime.broker.base import ClientInfo, ConnectionId, Room, WorkerId
from realtime.broker.keys import HOME, tag_of
from realtime.broker.redis import RedisBroker
from tests.realtime.broker.conftest import LocalProcess, place_of
from tests.realtime.broker.mortal import info_of, mortal
from tests.realtime.broker.workers import Place, Worker, flushed
from tests.support.aio import eventually, run_async

ANN, BOB = ClientInfo("ann", "c1"), ClientInfo("bob", "c2")


@pytest.fixture(params=["local", "fakeredis", "redis", "cluster"])
def brief(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Any broker that workers share, with short leases."""
    if request.param == "local":
        process = LocalProcess(tmp_path, lease_s=0.2)
        process.start()
        yield Place("local", process.url)
        process.stop()
        return
    monkeypatch.setattr(realtime.broker.members, "LEASE_S", 1.5)
    monkeypatch.setattr(realtime.broker.redis, "ROUND_S", 0.05)
    yield place_of(request.param, request)


@pytest.mark.parametrize("brief", ["fakeredis", "redis", "cluster"], indirect=True)
@run_async
async def test_removed_members_are_forgotten(brief: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(realtime.broker.members, "LEFT_S", 0.0)
    async with brief.worker("a") as a:
        assert isinstance(a.broker, RedisBroker)
        for name in ("one", "other"):
            await a.broker.add_member(brief.room(name), ANN, announce=True)
        await a.broker.remove_member(brief.room("other"), ConnectionId(ANN.connection_id), announce=True)
        await eventually(lambda: is_all_that_it_has(a, brief.room("one")))
        assert not a.broker._members._left


async def is_all_that_it_has(worker: Worker, room: Room) -> bool:
    assert isinstance(worker.broker, RedisBroker)
    return await worker.broker._members._owned_by(worker.id) == [(room, ANN.connection_id, False)]


async def is_empty(worker: Worker, room: Room) -> bool:
    return not await worker.broker.members(room)


@run_async
async def test_the_members_of_a_worker_that_was_killed_leave(brief: Place) -> None:
    room, quiet = brief.room(), brief.room("quiet")
    async with brief.worker("b") as b, brief.worker("c") as c:
        await asyncio.gather(*[each.broker.subscribe(name) for each in (b, c) for name in (room, quiet)])
        await b.broker.add_member(room, ANN, announce=True)
        async with mortal(brief, "a", room, quiet) as process:
            gone = info_of(brief, "a")
            assert await b.broker.members(room) == {ANN.connection_id: ANN, gone.connection_id: gone}
            process.kill()
            await asyncio.gather(*[each.heard.until(lambda each=each: each.heard.told("leave")) for each in (b, c)])
            await eventually(lambda: is_empty(b, quiet))
        for each in (b, c):
            await flushed(each, room, quiet)
            assert each.heard.told("leave") == [("leave", (room, gone))], "told once, and not where it was quiet"
            assert await each.broker.members(room) == {ANN.connection_id: ANN}
        departed = b.heard.departed + c.heard.departed
        assert len(departed) == 2, "by one of them, once"
        assert {(each.room, each.info) for each in departed} == {(room, gone), (quiet, gone)}


@run_async
async def test_reap_needs_no_lease_to_end(shared: Place) -> None:
    room, quiet = shared.room(), shared.room("quiet")
    async with shared.worker("b") as b:
        await b.broker.subscribe(room)
        async with mortal(shared, "a", room, quiet) as process:
            process.kill()
            process.wait()
            await b.broker.reap(shared.make("a").id)
        assert b.heard.departed
        assert await b.broker.members(room) == {}
        assert await b.broker.members(quiet) == {}
        await flushed(b, room)
        assert b.heard.told("leave") == [("leave", (room, info_of(shared, "a")))]


@pytest.mark.parametrize("brief", ["fakeredis", "redis", "cluster"], indirect=True)
@run_async
async def test_a_worker_that_stood_still_registers_its_members_again(brief: Place) -> None:
    room, quiet = brief.room(), brief.room("quiet")
    async with brief.worker("b") as b:
        await b.broker.subscribe(room)
        async with mortal(brief, "a", room, quiet) as process:
            info = info_of(brief, "a")
            process.send_signal(signal.SIGSTOP)
            await b.heard.until(lambda: b.heard.told("leave") and b.heard.told("departed"))
            assert await b.broker.members(room) == {}
            process.send_signal(signal.SIGCONT)
            for name in (room, quiet):
                await eventually(lambda name=name: is_present(b, name, info))
        await flushed(b, room)
        assert [kind for kind, _ in b.heard.told("join", "leave")] == ["join", "leave", "join"]


@pytest.mark.parametrize("brief", ["redis"], indirect=True)
@run_async
async def test_a_worker_that_stood_still_while_redis_lost_everything_announces_its_members(brief: Place) -> None:
    room = brief.room()
    async with brief.worker("b") as b:
        await b.broker.subscribe(room)
        async with mortal(brief, "a", room, brief.room("quiet")) as process:
            process.send_signal(signal.SIGSTOP)
            assert isinstance(b.broker, RedisBroker)
            await eventually(lambda: has_no_lease(b, brief.make("a").id))
            await b.broker._commands.request(HOME, "FLUSHALL")
            process.send_signal(signal.SIGCONT)
            await eventually(lambda: is_present(b, room, info_of(brief, "a")))
        await flushed(b, room)
        kinds = [kind for kind, _ in b.heard.told("join", "leave")]
        assert kinds[:3] == ["join", "leave", "join"]
        assert kinds == ["join", "leave"] * (len(kinds) // 2) + ["join"], "a busy machine may end its lease once more"


@run_async
async def test_lasting_members_of_a_worker_that_was_killed_are_inherited_once(brief: Place) -> None:
    room, quiet = brief.room(), brief.room("quiet")
    async with brief.worker("b") as b, brief.worker("c") as c:
        await asyncio.gather(*[each.broker.subscribe(room) for each in (b, c)])
        async with mortal(brief, "a", room, quiet, lasting=True) as process:
            gone = info_of(brief, "a")
            process.kill()
            await asyncio.gather(*[each.broker.reap(brief.make("a").id) for each in (b, c)])
        await eventually(lambda: heard_of(b, c, 2))
        told = [(each.room, each.info, each.announce, each.inherited) for each in b.heard.departed + c.heard.departed]
        assert sorted(told) == sorted([(room, gone, True, True), (quiet, gone, False, True)])
        for each in (b, c):
            await flushed(each, room)
            assert each.heard.told("leave") == [], "it is there still"
            assert await each.broker.members(room) == {gone.connection_id: gone}
        for name in (room, quiet):
            heirs = [each for each in (b, c) if any(departed.room == name for departed in each.heard.departed)]
            for each in (b, c):
                removed = await each.broker.remove_member(
                    name, ConnectionId(gone.connection_id), announce=True, mine=True
                )
                assert (removed is not None) is (each in heirs)
            assert await b.broker.members(name) == {}


@pytest.mark.parametrize("brief", ["fakeredis", "redis", "cluster"], indirect=True)
@run_async
async def test_a_member_that_is_being_inherited_is_not_stale(brief: Place) -> None:
    rooms = [brief.room(str(number)) for number in range(20)]
    async with brief.worker("b") as b:
        assert isinstance(b.broker, RedisBroker)
        async with mortal(brief, "a", *rooms, lasting=True) as process:
            process.kill()
            reaping = asyncio.create_task(b.broker.reap(brief.make("a").id))
            while not reaping.done():
                await b.broker._members._reap_stale()
            await reaping
        await b.heard.until(lambda: len(b.heard.departed) >= len(rooms))
        assert sorted(each.room for each in b.heard.departed) == sorted(rooms), "each once"


@pytest.mark.parametrize("brief", ["redis", "cluster"], indirect=True)
@run_async
async def test_many_members_are_registered_in_batches(brief: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(realtime.broker.members, "BATCH", 3)
    rooms = [brief.room(str(number)) for number in range(10)]
    async with brief.worker("b") as b:
        async with mortal(brief, "a", *rooms, lasting=True) as process:
            process.kill()
            await b.broker.reap(brief.make("a").id)
        assert sorted(each.room for each in b.heard.departed) == sorted(rooms)
        assert isinstance(b.broker, RedisBroker)
        for room in rooms:
            await b.broker._commands.request(tag_of(room), "DEL", b.broker._keys.members(room))
        await b.broker._members._register(b.broker._nodes.route, lambda _: True)
        gone = info_of(brief, "a")
        assert [set(await b.broker.members(room)) for room in rooms] == [{gone.connection_id}] * len(rooms)


@run_async
async def test_another_worker_inherits_the_lasting_members_of_one_that_ends(brief: Place) -> None:
    room = brief.room()
    async with brief.worker("b") as b:
        async with brief.worker("a") as a:
            await a.broker.add_member(room, ANN, announce=True, lasting=True)
        await b.heard.until(lambda: b.heard.departed)
        assert [(each.info, each.announce, each.inherited) for each in b.heard.departed] == [(ANN, True, True)]
        assert await b.broker.remove_member(room, ConnectionId(ANN.connection_id), announce=True, mine=True) == 0


@run_async
async def test_lasting_members_wait_for_a_worker_where_there_is_none(brief: Place) -> None:
    room = brief.room()
    async with brief.worker("a") as a:
        await a.broker.add_member(room, ANN, announce=False, lasting=True)
    async with brief.worker("b") as b:
        await b.heard.until(lambda: b.heard.departed)
        assert [(each.room, each.info, each.inherited) for each in b.heard.departed] == [(room, ANN, True)]


async def heard_of(b: Worker, c: Worker, count: int) -> bool:
    return len(b.heard.departed) + len(c.heard.departed) >= count


@pytest.mark.parametrize("brief", ["redis"], indirect=True)
@run_async
async def test_no_worker_is_reaped_because_redis_wrote_nothing_for_longer_than_a_lease(brief: Place) -> None:
    room = brief.room()
    async with brief.worker("a") as a, brief.worker("b") as b:
        await asyncio.gather(*[each.broker.subscribe(room) for each in (a, b)])
        await a.broker.add_member(room, ANN, announce=True)
        await b.broker.add_member(room, BOB, announce=True)
        await flushed(a, room)
        assert isinstance(a.broker, RedisBroker)
        commands = a.broker._commands
        try:
            await commands.request(HOME, "CONFIG", "SET", "maxmemory", "1")
            await eventually(lambda: has_only_leases_that_ended(a))
        finally:
            await commands.request(HOME, "CONFIG", "SET", "maxmemory", "0")
        await eventually(lambda: has_lease(a, a.id))
        await eventually(lambda: has_lease(a, b.id))
        for each in (a, b):
            await flushed(each, room)
            assert each.heard.told("leave", "departed") == []
        assert await a.broker.members(room) == {ANN.connection_id: ANN, BOB.connection_id: BOB}


async def has_only_leases_that_ended(worker: Worker) -> bool:
    return list(await worker.broker.workers()) == []


async def has_lease(worker: Worker, other: WorkerId) -> bool:
    return other in await worker.broker.workers()


async def has_no_lease(worker: Worker, other: WorkerId) -> bool:
    """Return whether another worker was reaped, to the end: then its lease is removed."""
    assert isinstance(worker.broker, RedisBroker)
    return await worker.broker._commands.request(HOME, "ZSCORE", worker.broker._keys.leases, other) is None


async def is_present(worker: Worker, room: Room, info: ClientInfo) -> bool:
    return await worker.broker.members(room) == {info.connection_id: info}
