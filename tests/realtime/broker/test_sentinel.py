"""
The master that sentinels name: found at the start, followed in a failover, and refused when it is none.

Real processes: a master, its replica, one sentinel or three. A replica may lack something; that no client then gets a
false `recovered: true` is shown here through the hub. test_failover.py shows the same without sentinels.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest

import realtime.broker.redis
from realtime import App
from realtime.broker.base import ClientInfo, PublishRequest, Room, WorkerId
from realtime.broker.redis import RedisBroker
from realtime.errors import BrokerUnavailable
from tests.realtime.broker.workers import KEPT, Heard, Place, flushed
from tests.support.aio import run_async, run_async_for
from tests.support.one_worker import OneWorker, until
from tests.support.redis_cluster import wait
from tests.support.redis_server import command_at
from tests.support.require import require
from tests.support.sentinels import SERVICE, Sentinels

ANN = ClientInfo("ann", "c1")


@pytest.fixture
def sentinels() -> Iterator[Sentinels]:
    require("redis")
    with Sentinels() as sentinels:
        yield sentinels


@pytest.mark.slow
def test_a_failover_on_which_three_sentinels_agree_is_followed() -> None:
    require("redis")
    with Sentinels(3) as sentinels:
        follow(sentinels)


def test_a_failover_is_followed_and_everything_is_there_again(sentinels: Sentinels) -> None:
    follow(sentinels)


@run_async_for(60)
async def follow(sentinels: Sentinels) -> None:
    place = Place("redis", sentinels.url)
    room = place.room()
    async with place.worker("a") as a, place.worker("b") as b:
        await a.broker.subscribe(room)
        await a.broker.add_member(room, ANN, announce=True)
        (before,) = await b.publish(room, b"1")
        await flushed(a, room)
        sentinels.master.stop()
        for each in (a, b):
            await each.heard.until(lambda each=each: each.heard.how_often("link restored"))
        (after,) = await b.publish(room, b"2")
        assert after.epoch != before.epoch, "the replica may lack what was acknowledged"
        assert (await a.heard.count(room, 2))[-1].data == b"2"
        assert await b.broker.members(room) == {ANN.connection_id: ANN}
        assert a.heard.told("leave") == []
        assert set(await b.broker.workers()) == {a.id, b.id}


@pytest.mark.slow
@run_async_for(60)
async def test_a_failover_that_was_asked_for_is_followed(sentinels: Sentinels) -> None:
    place = Place("redis", sentinels.url)
    async with place.worker() as a:
        await a.broker.subscribe(place.room())
        ask = "SENTINEL", "FAILOVER", SERVICE  # refused as long as the sentinel takes the replica for behind
        await asyncio.to_thread(wait, lambda: command_at(sentinels.ports[0], *ask) == b"+OK\r\n")
        await a.heard.until(lambda: a.heard.how_often("link restored"))
        await a.publish(place.room(), b"1")
        assert (await a.heard.count(place.room(), 1))[0].data == b"1"
        assert sentinels.replica.command("ROLE").startswith(b"*3\r\n$6\r\nmaster")


@run_async_for(60)
async def test_a_master_that_stands_still_is_left(sentinels: Sentinels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(realtime.broker.redis, "ROUND_S", 0.05)
    place = Place("redis", sentinels.url)
    async with place.worker() as a:
        (before,) = await a.publish(place.room(), b"1")
        assert sentinels.master.process is not None
        with monkeypatch.context() as briefly:  # and no longer: a busy machine is no lost link
            briefly.setattr(realtime.broker.redis, "PROBE_LOST_S", 0.5)
            sentinels.master.process.send_signal(signal.SIGSTOP)
            await a.heard.until(lambda: a.heard.how_often("link restored"))
        (after,) = await a.publish(place.room(), b"2")
        assert after.epoch != before.epoch
        sentinels.master.process.send_signal(
            signal.SIGCONT
        )  # no sentinel corrects it: it still claims to be the master


@run_async_for(60)
async def test_a_client_that_lost_publications_in_a_failover_gets_no_recovered(sentinels: Sentinels) -> None:
    app = App()
    app.room("kept", open=True, history=100)
    async with OneWorker(app, broker=RedisBroker(sentinels.url, WorkerId("one"))) as worker:
        client = await worker.join()
        await client.ask("subscribe", channel="kept")
        for n in range(5):
            await app.room("kept").publish(n)
        sentinels.wait_for_replica()
        assert sentinels.replica.process is not None
        sentinels.replica.process.send_signal(signal.SIGSTOP)  # it does not get the next ones
        for n in range(5, 8):
            await app.room("kept").publish(n)
        for n in range(8):
            assert (await client.push("pub"))["pub"]["data"] == n
        position = worker.hub._rooms[Room("kept")].machine.position
        sentinels.master.stop()
        sentinels.replica.process.send_signal(signal.SIGCONT)
        assert (await client.push("unsubscribe"))["unsubscribe"]["code"] == 2500
        assert client.closed is None, "the socket stays open"
        await until(lambda: worker.hub.statistics()["broker"]["link"] == "up")
        for n in range(3):
            await app.room("kept").publish(f"other {n}")
        told = await client.ask("subscribe", channel="kept", recover=True, epoch=position.epoch, offset=position.offset)
        assert told["was_recovering"] is True
        assert not told.get("recovered")
        assert told["epoch"] != position.epoch


@run_async
async def test_what_is_no_master_is_refused(sentinels: Sentinels) -> None:
    sentinels.master.command("REPLICAOF", "127.0.0.1", str(sentinels.replica.port))  # and the sentinel has not seen it
    with pytest.raises(BrokerUnavailable, match="it is a slave"):
        await RedisBroker(sentinels.url, WorkerId("a")).start(Heard())


@run_async
async def test_a_sentinel_that_does_not_answer_is_named(sentinels: Sentinels) -> None:
    wrong = sentinels.url.replace(f"/{SERVICE}", "/other")
    with pytest.raises(BrokerUnavailable, match="knows no other"):
        await RedisBroker(wrong, WorkerId("a")).start(Heard())
    one_is_away = sentinels.url.replace("sentinel://", "sentinel://127.0.0.1:1,")
    broker = RedisBroker(one_is_away, WorkerId("a"))
    await broker.start(Heard())
    await broker.publish(PublishRequest(Room("room"), b"1", retention=KEPT))
    await broker.close()
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1"):
        await RedisBroker(f"redis+sentinel://user:s3cret@127.0.0.1:1/{SERVICE}", WorkerId("a")).start(Heard())
