"""
What only a Redis can do to its workers: close one of the two connections, forget scripts, hang, require a password.

The names of the broker's keys are tested here too, because other programs may share the server.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import realtime.broker.redis
from realtime.broker.base import ClientInfo, Position, PublishRequest, Room, WorkerId
from realtime.broker.redis import RedisBroker
from realtime.broker.scripts import PUBLISH
from realtime.errors import BrokerUnavailable, SettingsError
from tests.realtime.broker.cable import cable
from tests.realtime.broker.workers import KEPT, NOT_KEPT, Heard, Place, flushed
from tests.support.aio import run_async
from tests.support.redis_server import RedisServer

ANN = ClientInfo("ann", "c1")


@pytest.fixture
def at_redis(redis: RedisServer) -> Place:
    return Place("redis", redis.url)


def connections(redis: RedisServer, worker: WorkerId, kind: str) -> list[str]:
    """Return the ids of a worker's connections to that Redis."""
    clients = redis.command("CLIENT", "LIST", "TYPE", kind).decode().splitlines()
    return [line.split()[0].removeprefix("id=") for line in clients if f" name=realtime-{worker} " in line]


@pytest.mark.parametrize("kind", ["pubsub", "normal"])
@run_async
async def test_a_killed_connection_is_seen_and_what_was_missed_can_be_read(
    redis: RedisServer, at_redis: Place, kind: str
) -> None:
    room = at_redis.room()
    async with at_redis.worker("a") as a, at_redis.worker("b") as b:
        await a.broker.subscribe(room)
        await b.publish(room, b"1")
        (last,) = await a.heard.count(room, 1)
        (id_,) = connections(redis, a.id, kind)
        assert redis.command("CLIENT", "KILL", "ID", id_) == b":1\r\n"
        await b.publish(room, b"2")
        await a.heard.until(lambda: a.heard.how_often("link restored"))
        await b.publish(room, b"3")
        await a.heard.until(lambda: a.heard.publications[room][-1].offset == 3)
        page = await a.broker.history(room, retention=KEPT, since=Position(last.epoch, last.offset), limit=9)
        assert [each.data for each in page.publications] == [b"2", b"3"]
        assert [event for event, _ in a.heard.events if event.startswith("link")] == ["link lost", "link restored"]
        if kind == "pubsub":
            assert [each.offset for each in a.heard.publications[room]] == [1, 3], "the hole shows"
        assert b.heard.events == [], "no other worker is touched"
        assert len(connections(redis, a.id, "pubsub") + connections(redis, a.id, "normal")) == 2, "none is left over"


@run_async
async def test_scripts_that_redis_forgot_are_sent_again(redis: RedisServer, at_redis: Place) -> None:
    room = at_redis.room()
    async with at_redis.worker() as worker:
        await worker.broker.subscribe(room)
        for count in range(1, 3):
            redis.command("SCRIPT", "FLUSH")
            await asyncio.gather(*[worker.publish(room, b"1") for _ in range(10)])
            await worker.broker.add_member(room, ANN, announce=True)
            assert len((await worker.broker.history(room, retention=KEPT, limit=99)).publications) == 10 * count
            await worker.broker.remove_member(room, ANN.connection_id, announce=True)
        await flushed(worker, room)
        assert [each.offset for each in worker.heard.publications[room]] == list(range(1, 21))


@run_async
async def test_a_redis_that_was_emptied_under_way_begins_another_epoch(redis: RedisServer, at_redis: Place) -> None:
    room = at_redis.room()
    async with at_redis.worker() as worker:
        await worker.broker.subscribe(room)
        *_, before = await worker.publish(room, b"1", b"2")
        redis.command("FLUSHALL")
        assert await worker.broker.positions([room]) == {}
        (after,) = await worker.publish(room, b"3")
        assert after.offset == 1
        assert after.epoch != before.epoch
        assert (await worker.heard.count(room, 3))[-1].epoch == after.epoch


@run_async
async def test_evicted_publications_leave_the_position(redis: RedisServer, at_redis: Place) -> None:
    room = at_redis.room()
    async with at_redis.worker() as worker:
        *_, top = await worker.publish(room, b"1", b"2")
        redis.command("DEL", f"{at_redis.own}:{{{room}}}:s")
        page = await worker.broker.history(room, retention=KEPT, limit=9)
        assert (list(page.publications), page.top) == ([], top)


@run_async
async def test_a_stream_without_its_position_begins_anew(redis: RedisServer, at_redis: Place) -> None:
    room = at_redis.room()
    async with at_redis.worker() as worker:
        *_, before = await worker.publish(room, b"1", b"2")
        redis.command("DEL", f"{at_redis.own}:{{{room}}}:o")
        (after,) = await worker.publish(room, b"3")
        page = await worker.broker.history(room, retention=KEPT, limit=9)
        assert after.epoch != before.epoch
        assert [(each.offset, each.data) for each in page.publications] == [(1, b"3")], "the old epoch's are gone"


@run_async
async def test_a_link_on_which_nothing_comes_back_is_cut(
    at_redis: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realtime.broker.redis, "ROUND_S", 0.05)
    room = at_redis.room()
    async with cable(at_redis, tmp_path) as (laid, near), near.worker() as worker:
        await worker.publish(room, b"1")  # Redis knows the script from now on: one question is enough
        with monkeypatch.context() as briefly:  # and no longer: a busy machine is no lost link
            briefly.setattr(realtime.broker.redis, "PROBE_LOST_S", 0.5)
            laid.keep_answers()
            asked = asyncio.create_task(worker.publish(room, b"2"))
            await worker.heard.until(lambda: worker.heard.how_often("link lost"))
        with pytest.raises(BrokerUnavailable):
            await asked
        await laid.pull_out()
        await laid.plug_in()
        await worker.heard.until(lambda: worker.heard.how_often("link restored"))
        assert (await worker.broker.positions([room]))[room].offset == 2, "it had happened"


# Names and addresses


@run_async
async def test_every_key_and_channel_begins_with_the_prefix(redis: RedisServer, at_redis: Place) -> None:
    room = at_redis.room()
    async with at_redis.worker() as worker:
        await worker.broker.subscribe(room)
        await worker.broker.publish(PublishRequest(room, b"1", retention=KEPT, idempotency_key="key"))
        await worker.broker.add_member(room, ANN, announce=True)
        for command in (("KEYS", "*"), ("PUBSUB", "CHANNELS")):
            names = [line for line in redis.command(*command).decode().split("\r\n") if line and line[0] not in "*$"]
            assert names
            assert all(name.startswith(f"{at_redis.own}:") for name in names), names
        expiring = [f"{at_redis.own}:{{{room}}}:{kind}" for kind in ("s", "o", "i:key")]
        assert all(redis.command("PTTL", name) not in (b":-1\r\n", b":-2\r\n") for name in expiring)


@run_async
async def test_two_prefixes_are_two_clusters(redis: RedisServer) -> None:
    room = Room("room")
    one, other = Place("redis", redis.url), Place("redis", redis.url)
    async with one.worker() as a, other.worker() as b:
        await asyncio.gather(a.broker.subscribe(room), b.broker.subscribe(room))
        await a.broker.add_member(room, ANN, announce=True)
        await a.publish(room, b"1", retention=KEPT)
        await flushed(a, room)
        await flushed(b, room)
        assert b.heard.events == []
        assert await b.broker.members(room) == {}
        assert await b.broker.positions([room]) == {}


@run_async
async def test_a_password_logs_in_and_a_missing_one_is_named(redis: RedisServer) -> None:
    redis.command("CONFIG", "SET", "requirepass", "s3cret")
    for url, problem in (
        (redis.url, "NOAUTH"),
        (redis.url.replace("unix://", "unix://:wrong@"), "WRONGPASS"),
    ):
        with pytest.raises(BrokerUnavailable, match=problem) as caught:
            await RedisBroker(url, WorkerId("a")).start(Heard())
        assert caught.value.address == f"unix:{redis.path}"
        assert "wrong" not in str(caught.value).replace("WRONGPASS", ""), "no password is shown"
    broker = RedisBroker(redis.url.replace("unix://", "unix://:s3cret@"), WorkerId("a"))
    await broker.start(Heard())
    await broker.publish(PublishRequest(Room("room"), b"1", retention=NOT_KEPT))
    await broker.close()


@run_async
async def test_a_database_is_a_place_of_its_own(redis: RedisServer) -> None:
    room, tops = Room("room"), []
    for url in (redis.url, f"{redis.url}?db=3"):
        broker = RedisBroker(url, WorkerId("a"))
        await broker.start(Heard())
        tops.append((await broker.publish(PublishRequest(room, b"1", retention=KEPT))).position)
        await broker.close()
    assert [top.offset for top in tops] == [1, 1]
    assert tops[0].epoch != tops[1].epoch


@run_async
async def test_what_is_no_redis_is_named_at_once() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BrokerUnavailable, match=f"127.0.0.1:{port}"):
            await RedisBroker(f"redis://127.0.0.1:{port}", WorkerId("a")).start(Heard())


@pytest.mark.parametrize("url", ["http://localhost", "redis://localhost:port", "redis//localhost", ""])
def test_what_is_no_redis_url_is_no_setting(url: str) -> None:
    with pytest.raises(SettingsError):
        RedisBroker(url, WorkerId("a"))


@run_async
async def test_a_burst_into_a_redis_that_learns_the_script_meanwhile_keeps_its_order(
    redis: RedisServer, at_redis: Place
) -> None:
    room = at_redis.room()
    async with at_redis.worker("a") as a:
        assert a.broker.in_order

        def publish(numbers: range) -> list[asyncio.Task[object]]:
            publishing = [a.broker.publish(PublishRequest(room, b"%d" % number, retention=KEPT)) for number in numbers]
            return [asyncio.ensure_future(each) for each in publishing]

        under_way = publish(range(25))
        for _ in range(3):
            await asyncio.sleep(0)  # until they are written
        redis.command("SCRIPT", "LOAD", PUBLISH.text)  # as another worker does by its first publication
        under_way += publish(range(25, 50))
        await asyncio.gather(*under_way)
        page = await a.broker.history(room, retention=KEPT, limit=100)
        assert [each.data for each in page.publications] == [b"%d" % number for number in range(50)]
