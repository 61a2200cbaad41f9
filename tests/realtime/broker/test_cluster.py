"""
What only a cluster can do to its workers: move rooms between nodes while they are in use, and lose a node.

Real processes: three masters, and one more without hash slots or a replica of each. An acknowledged publication is in
the stream exactly once, whatever moved meanwhile. A publication that a subscription missed shows as a gap.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from itertools import count

import pytest

import realtime.broker.redis
from realtime.broker.base import ClientInfo, ConnectionId, PublishRequest, Room, WorkerId
from realtime.broker.redis import RedisBroker
from realtime.errors import BrokerUnavailable
from tests.realtime.broker.workers import KEPT, NOT_KEPT, Heard, Place, Worker, flushed
from tests.support.aio import eventually, run_async, run_async_for
from tests.support.processes import free_port
from tests.support.redis_cluster import RedisCluster, ok, wait
from tests.support.redis_server import RedisServer
from tests.support.require import require

ANN, BEN, CEM = (ClientInfo(user, client) for user, client in (("ann", "c1"), ("ben", "c2"), ("cem", "c3")))
LONG = realtime.broker.base.Retention(size=10_000, ttl_s=600.0)


@pytest.fixture(scope="module")
def moving() -> Iterator[RedisCluster]:
    """Three masters and a node that has no slots; its tests put every slot back."""
    require("redis")
    with RedisCluster(empty=1) as cluster:
        yield cluster


@pytest.fixture
def failing() -> Iterator[RedisCluster]:
    """Three masters, each with a replica; of the test's own."""
    require("redis")
    with RedisCluster(replicas=True) as cluster:
        yield cluster


def at(cluster: RedisCluster) -> Place:
    return Place("cluster", cluster.url)


def slot_of(cluster: RedisCluster, room: Room) -> int:
    return cluster.slot_of(f"{{{room}}}")


def room_of(cluster: RedisCluster, place: Place, node: RedisServer) -> Room:
    """Return a room whose keys are at that node."""
    rooms = (place.room(str(number)) for number in count())
    return next(room for room in rooms if cluster.owner(slot_of(cluster, room)) is node)


@run_async
async def test_a_room_that_moves_while_it_is_published_in_loses_and_doubles_nothing(moving: RedisCluster) -> None:
    place = at(moving)
    async with place.worker("a") as a, place.worker("b") as b:
        room, going = place.room(), True
        slot = slot_of(moving, room)
        source = moving.owner(slot)
        await a.broker.subscribe(room)

        async def publish(worker: Worker, name: str) -> list[bytes]:
            done = []
            for number in count():
                if not going:
                    return done
                data = f"{name}{number}".encode()
                await worker.broker.publish(PublishRequest(room, data, retention=LONG))
                done.append(data)
            return done

        publishing = [asyncio.create_task(publish(each, name)) for each in (a, b) for name in (f"{each.id}-", "x")]
        for target in (*moving.masters, *moving.empty, source):
            if target is not moving.owner(slot):
                seen = len(a.heard.publications.get(room, ()))
                await asyncio.to_thread(moving.move, slot, target)
                await a.heard.count(room, seen + 10)  # it is heard there, too
        going = False
        acknowledged = [each for done in await asyncio.gather(*publishing) for each in done]
        assert a.heard.how_often("gap"), "a slot that moved is a gap"
        assert not a.heard.how_often("link lost")
        page = await b.broker.history(room, retention=LONG, limit=LONG.size)
        kept = [each.data for each in page.publications]
        assert sorted(kept) == sorted(acknowledged)
        assert [each.offset for each in page.publications] == list(range(1, len(kept) + 1))
        heard = {each.offset: each for each in a.heard.publications[room]}
        assert len({each.epoch for each in heard.values()}) == 1, "nothing was lost: it is the same stream"
        assert all(page.publications[offset - 1].data == each.data for offset, each in heard.items())
        await eventually(lambda: is_up(a))


@pytest.mark.parametrize("retention", [KEPT, NOT_KEPT], ids=["kept", "not kept"])
@run_async
async def test_what_is_published_while_a_hash_slot_moves_reaches_subscribers(
    moving: RedisCluster, retention: realtime.broker.base.Retention
) -> None:
    place, (target,) = at(moving), moving.empty
    async with place.worker("a") as a, place.worker("b") as b:
        room = place.room()
        slot = slot_of(moving, room)
        await a.broker.subscribe(room)
        await b.publish(room, b"1", retention=retention)
        source = moving.begin_to_move(slot, target)
        moving.move_keys(slot, source, target)
        await b.publish(room, b"2", b"3", retention=retention)  # made at the target, by ASK
        assert [each.data for each in await a.heard.count(room, 3)] == [b"1", b"2", b"3"]
        moving.end_to_move(slot, target)
        await a.heard.until(lambda: a.heard.how_often("gap"))
        await b.publish(room, b"4", retention=retention)
        assert [each.data for each in await a.heard.count(room, 4)] == [b"1", b"2", b"3", b"4"]
        moving.move(slot, source)


@run_async
async def test_commands_wait_for_a_hash_slot_that_has_half_moved(moving: RedisCluster) -> None:
    place, (target,) = at(moving), moving.empty
    async with place.worker("a") as a:
        room = place.room()
        slot = slot_of(moving, room)
        (first,) = await a.publish(room, b"1")
        source = moving.begin_to_move(slot, target)
        moving.move_keys(slot, source, target, at_most=1)
        asked = asyncio.create_task(a.publish(room, b"2"))
        done, _ = await asyncio.wait([asked], timeout=0.2)
        assert not done, "its keys are at two nodes"
        moving.move_keys(slot, source, target)
        (second,) = await asked
        assert (second.epoch, second.offset) == (first.epoch, 2)
        moving.end_to_move(slot, target)
        assert (await a.broker.positions([room]))[room] == second
        moving.move(slot, source)


@run_async
async def test_every_operation_follows_a_room_that_has_moved(moving: RedisCluster) -> None:
    place, (target,) = at(moving), moving.empty
    async with place.worker("a") as a, place.worker("b") as b:
        for tag in (place.room(), Room("~")):  # the second is where leases are
            slot = slot_of(moving, tag)
            source = moving.owner(slot)
            room = place.room("there") if tag == Room("~") else tag
            await a.broker.subscribe(room)
            await a.broker.add_member(room, ANN, announce=True)
            (top,) = await a.publish(room, b"1")
            await asyncio.to_thread(moving.move, slot, target)
            assert await b.broker.members(room) == {ANN.connection_id: ANN}
            assert await b.broker.positions([room]) == {room: top}
            assert (await b.broker.history(room, retention=KEPT, limit=1)).publications[0].data == b"1"
            assert b.id in await b.broker.workers()
            await flushed(a, room)
            await b.broker.reap(a.id)
            assert await b.broker.members(room) == {}
            await a.heard.until(lambda: a.heard.told("leave"))
            a.heard.events.clear()
            await asyncio.to_thread(moving.move, slot, source)


@run_async
async def test_what_is_sent_to_a_room_reaches_only_the_node_that_has_it(moving: RedisCluster) -> None:
    place = at(moving)
    async with place.worker("a") as a, place.worker("b") as b:
        rooms = [room_of(moving, place, node) for node in moving.masters]
        await asyncio.gather(*[a.broker.subscribe(room) for room in rooms])
        for node, room in zip(moving.masters, rooms, strict=True):
            channels = node.command("PUBSUB", "SHARDCHANNELS", f"{place.own}:*").decode()
            assert [other for other in rooms if f"{{{other}}}:c" in channels] == [room]
            assert node.command("PUBSUB", "CHANNELS", f"{place.own}:*") == b"*0\r\n", "nothing goes to all nodes"
        await b.publish(rooms[0], b"1")
        await flushed(a, *rooms)
        assert set(a.heard.publications) == set(rooms)
        assert b.heard.events == []
        assert b.broker.statistics()["received"] == 0


# One node of several is lost


@pytest.mark.slow
@run_async_for(90)
async def test_a_node_that_fails_takes_only_its_rooms_away_until_its_replica_has_them(failing: RedisCluster) -> None:
    place, victim = at(failing), failing.masters[1]
    async with place.worker("a") as a, place.worker("b") as b:
        gone, here = (room_of(failing, place, node) for node in failing.masters[1:])
        await asyncio.gather(*[a.broker.subscribe(room) for room in (gone, here)])
        await a.broker.add_member(gone, ANN, announce=True)
        (before,) = await b.publish(gone, b"1")
        (other,) = await b.publish(here, b"1")
        await a.heard.count(gone, 1)
        victim.stop()
        await eventually(lambda: is_down(a))
        with pytest.raises(BrokerUnavailable):
            await a.publish(gone, b"never")
        assert not a.heard.how_often("gap")
        await eventually(lambda: is_up(a))
        await eventually(lambda: is_up(b))
        gaps = [what for kind, what in a.heard.events if kind == "gap"]
        assert gaps == [(gone,)], "only the rooms of that node"
        assert not a.heard.how_often("link lost")
        assert gone not in await a.broker.positions([gone]), "the replica may lack what was acknowledged"
        (after,) = await b.publish(gone, b"2")
        assert after.epoch != before.epoch
        assert (await a.heard.count(gone, 2))[-1].data == b"2"
        assert await b.broker.members(gone) == {ANN.connection_id: ANN}
        assert (await b.broker.positions([here]))[here] == other, "what did not move proves what it proved"


@pytest.mark.slow
@run_async_for(90)
async def test_a_member_that_a_failover_brings_back_leaves_again(
    failing: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realtime.broker.redis, "ROUND_S", 0.05)
    place, home = at(failing), failing.owner(slot_of(failing, Room("~")))
    victim, replica = next(
        each for each in zip(failing.masters, failing.replicas, strict=True) if each[0] is not home
    )  # the set of the worker's members stays as it is
    room = room_of(failing, place, victim)
    async with place.worker("a") as a, place.worker("b") as b:
        await a.broker.subscribe(room)
        await a.broker.add_member(room, ANN, announce=True)
        await a.broker.add_member(room, BEN, announce=True, lasting=True)
        await b.broker.add_member(room, CEM, announce=True)
        wait(lambda: replica.follows(victim))
        assert replica.process is not None
        replica.process.send_signal(signal.SIGSTOP)
        assert victim.command("CLIENT", "KILL", "TYPE", "replica") == b":1\r\n", "it does not get what comes now"
        for each in (ANN, BEN):
            await a.broker.remove_member(room, ConnectionId(each.connection_id), announce=True)
        await a.heard.until(lambda: len(a.heard.told("leave")) == 2)
        victim.stop()
        replica.process.send_signal(signal.SIGCONT)
        ok(replica.command("CLUSTER", "FAILOVER", "TAKEOVER"))
        await a.heard.until(lambda: a.heard.departed)
        assert {(each.info, each.inherited) for each in a.heard.departed} == {(ANN, False), (BEN, True)}
        await a.broker.remove_member(room, ConnectionId(BEN.connection_id), announce=True)
        await a.heard.until(lambda: len(a.heard.told("leave")) == 4)
        await eventually(lambda: is_up(b))
        assert await b.broker.members(room) == {CEM.connection_id: CEM}


@pytest.mark.slow
@run_async_for(90)
async def test_a_cluster_that_is_away_as_a_whole_is_a_lost_link(failing: RedisCluster) -> None:
    place = at(failing)
    async with place.worker("a") as a:
        room = place.room()
        await a.broker.subscribe(room)
        for node in failing.nodes:
            node.stop()
        await a.heard.until(lambda: a.heard.how_often("link lost"))
        with pytest.raises(BrokerUnavailable):
            await a.publish(room, b"never")
        assert await asyncio.gather(a.broker.subscribe(room), return_exceptions=True)
        await asyncio.to_thread(failing.start_again)
        await a.heard.until(lambda: a.heard.how_often("link restored"))
        (position,) = await a.publish(room, b"1")
        assert position.offset == 1


async def is_up(worker: Worker) -> bool:
    return worker.broker.statistics()["link"] == "up"


async def is_down(worker: Worker) -> bool:
    return worker.broker.statistics()["link"] == "down"


# What is no cluster


@run_async
async def test_a_url_of_the_wrong_kind_says_which_is_right(moving: RedisCluster, redis_url: str) -> None:
    port = moving.masters[0].port
    with pytest.raises(BrokerUnavailable, match=r"redis\+cluster://"):
        await RedisBroker(f"redis://127.0.0.1:{port}", WorkerId("a")).start(Heard())
    with RedisServer(free_port()) as alone:
        url = f"redis+cluster://127.0.0.1:{alone.port}"
        with pytest.raises(BrokerUnavailable, match="cluster support disabled"):
            await RedisBroker(url, WorkerId("a")).start(Heard())
