"""
What workers see while their broker is away: a clear error at once, and afterwards everything that the contract
promises.

The local broker's process is killed, Redis restarts empty, Redis closes a connection, and the cable of one worker is
pulled out while others go on. Every test has a broker of its own.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

import pytest

import realtime.broker.local
from realtime.broker.base import ClientInfo, ConnectionId, PublishRequest, Room, WorkerId
from realtime.broker.local import LocalBroker
from realtime.broker.redis import RedisBroker
from realtime.errors import BrokerUnavailable
from tests.realtime.broker.conftest import LocalProcess
from tests.realtime.broker.workers import KEPT, Place, Worker, flushed
from tests.support.aio import eventually, run_async
from tests.support.redis_server import RedisServer

ANN, BOB = ClientInfo("ann", "c1"), ClientInfo("bob", "c2")


class Breakable:
    """A broker that dies, and comes back with nothing."""

    def __init__(self, place: Place, address: str, broker: LocalProcess | RedisServer) -> None:
        self.place, self.address, self._broker = place, address, broker

    def stand_still(self) -> None:
        assert self._broker.process is not None, "started"
        self._broker.process.send_signal(signal.SIGSTOP)

    def die(self) -> None:
        self._broker.kill() if isinstance(self._broker, LocalProcess) else self._broker.stop()

    def start(self) -> None:
        self._broker.start()


@pytest.fixture(params=["local", "redis"])
def breakable(request: pytest.FixtureRequest) -> Breakable:
    """A broker in a process of its own."""
    if request.param == "local":
        local: LocalProcess = request.getfixturevalue("local")
        return Breakable(Place("local", local.url), f"unix:{local.path}", local)
    server: RedisServer = request.getfixturevalue("redis")
    return Breakable(Place("redis", server.url), f"unix:{server.path}", server)


def operations(worker: Worker, place: Place) -> dict[str, Callable[[], Awaitable[object]]]:
    """Return everything that can be asked of a broker."""
    broker, room = worker.broker, place.room()
    return {
        "subscribe": lambda: broker.subscribe(place.room("other")),
        "unsubscribe": lambda: broker.unsubscribe(room),
        "publish": lambda: broker.publish(PublishRequest(room, b"1", retention=KEPT)),
        "position": lambda: broker.position(room, retention=KEPT),
        "positions": lambda: broker.positions([room]),
        "history": lambda: broker.history(room, retention=KEPT, limit=1),
        "forget_history": lambda: broker.forget_history(room),
        "add_member": lambda: broker.add_member(room, BOB, announce=True),
        "remove_member": lambda: broker.remove_member(room, BOB.connection_id, announce=True),
        "members": lambda: broker.members(room),
        "member_counts": lambda: broker.member_counts(room),
        "reap": lambda: broker.reap(WorkerId("unknown")),
    }


@run_async
async def test_every_operation_fails_at_once_while_the_broker_is_away(breakable: Breakable) -> None:
    room = breakable.place.room()
    async with breakable.place.worker() as worker:
        await worker.broker.subscribe(room)
        assert worker.broker.statistics()["link"] == "up"
        breakable.die()
        await worker.heard.until(lambda: worker.heard.how_often("link lost"))
        assert worker.broker.statistics()["link"] == "down"
        for name, ask in operations(worker, breakable.place).items():
            (error,) = await asyncio.gather(ask(), return_exceptions=True)
            assert isinstance(error, BrokerUnavailable), name
            assert str(error).startswith(f"broker at {breakable.address}: "), name
        assert worker.heard.events == [("link lost", None)], "said once"


@run_async
async def test_calls_in_flight_fail_when_the_broker_dies(breakable: Breakable) -> None:
    room = breakable.place.room()
    async with breakable.place.worker() as worker:
        breakable.stand_still()
        asked = [asyncio.create_task(worker.publish(room, b"1" * 1000)) for _ in range(200)]
        for _ in range(3):
            await asyncio.sleep(0)  # they leave
        assert not any(each.done() for each in asked)
        breakable.die()
        done = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(each, BrokerUnavailable) for each in done)


@pytest.mark.parametrize("is_empty", [True, False])
@run_async
async def test_a_member_taken_over_is_not_taken_back_after_a_fault(breakable: Breakable, is_empty: bool) -> None:
    room, client = breakable.place.room(), ConnectionId(BOB.connection_id)
    async with breakable.place.worker("a") as a, breakable.place.worker("b") as b:
        await a.broker.add_member(room, BOB, announce=True, lasting=True)
        a.broker.release(room, client)
        await b.broker.add_member(room, BOB, announce=True, quietly=True, lasting=True)
        if is_empty:
            breakable.die()
            await lost_by(a, b)
            breakable.start()
            await restored_by(a, b)
        else:
            cut(a)
            await lost_by(a)
            await restored_by(a)
        await eventually(lambda: is_there(b, room))
        assert await a.broker.remove_member(room, client, announce=True, mine=True) is None
        assert await b.broker.remove_member(room, client, announce=True, mine=True) == 0


@run_async
async def test_a_local_broker_that_does_not_answer_for_long_counts_as_dead(
    local: LocalProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place("local", local.url)
    room = place.room()
    async with place.worker() as worker:
        await worker.publish(room, b"1")  # answered, and its place in the line is free again
        assert local.process is not None, "started"
        local.process.send_signal(signal.SIGSTOP)
        with monkeypatch.context() as briefly:  # and no longer: a busy machine is no dead broker
            briefly.setattr(realtime.broker.local, "TIMEOUT_S", 0.3)
            asked = [asyncio.create_task(worker.publish(room, b"2")) for _ in range(3)]
            done = await asyncio.gather(*asked, return_exceptions=True)
        assert {str(each) for each in done} == {f"broker at unix:{local.path}: no answer within 0.3 s"}
        local.process.send_signal(signal.SIGCONT)
        await worker.heard.until(lambda: worker.heard.how_often("link restored"))
        await worker.publish(room, b"3")


# The broker comes back, with nothing


@run_async
async def test_a_broker_that_begins_anew_has_another_epoch_and_all_subscriptions(breakable: Breakable) -> None:
    room, other = breakable.place.room(), breakable.place.room("other")
    async with breakable.place.worker("a") as a, breakable.place.worker("b") as b:
        await asyncio.gather(a.broker.subscribe(room), b.broker.subscribe(other))
        *_, before = await a.publish(room, b"1", b"2")
        await a.heard.count(room, 2)
        breakable.die()
        await lost_by(a, b)
        breakable.start()
        await restored_by(a, b)
        assert await a.broker.positions([room]) == {}, "the stream is gone"
        (after,) = await b.publish(room, b"3")
        assert after.offset == 1
        assert after.epoch != before.epoch
        got = (await a.heard.count(room, 3))[-1]
        assert (got.data, got.epoch, got.offset) == (b"3", after.epoch, 1)
        page = await a.broker.history(room, retention=KEPT, since=before, limit=9)
        assert (list(page.publications), page.top) == ([], after), "what is asked of the old epoch meets the new one"
        assert [kind for kind, _ in a.heard.events if kind.startswith("link")] == ["link lost", "link restored"]
        await a.publish(other, b"1")
        await b.heard.count(other, 1)
        assert room not in b.heard.publications


@run_async
async def test_members_are_registered_again_without_leaves(breakable: Breakable) -> None:
    room = breakable.place.room()
    async with breakable.place.worker("a") as a, breakable.place.worker("b") as b:
        await a.broker.subscribe(room)
        await a.broker.add_member(room, ANN, announce=True)
        await b.broker.add_member(room, BOB, announce=True)
        await flushed(a, room)
        breakable.die()
        await lost_by(a, b)
        breakable.start()
        await restored_by(a, b)
        assert await a.broker.members(room) == {ANN.connection_id: ANN, BOB.connection_id: BOB}
        await flushed(a, room)
        assert a.heard.told("leave") == []
        await a.broker.reap(b.id)
        await flushed(a, room)
        assert a.heard.told("leave") == [("leave", (room, BOB))], "the owner and the announce flag are known again"


@run_async
async def test_what_was_removed_while_the_broker_was_away_stays_removed(breakable: Breakable) -> None:
    room, other = breakable.place.room(), breakable.place.room("other")
    async with breakable.place.worker() as worker:
        await asyncio.gather(worker.broker.subscribe(room), worker.broker.subscribe(other))
        await worker.broker.add_member(room, ANN, announce=True)
        await flushed(worker, room)
        worker.heard.events.clear()
        breakable.die()
        await lost_by(worker)
        for asked in (
            worker.broker.unsubscribe(room),
            worker.broker.remove_member(room, ANN.connection_id, announce=True),
            worker.broker.add_member(room, BOB, announce=True),
        ):
            with pytest.raises(BrokerUnavailable):
                await asked
        breakable.start()
        await restored_by(worker)
        assert await worker.broker.members(room) == {}
        await worker.publish(room, b"1")
        await flushed(worker, other)
        assert not worker.heard.publications[room]


@run_async
async def test_it_comes_back_as_often_as_needed(breakable: Breakable) -> None:
    room = breakable.place.room()
    async with breakable.place.worker() as worker:
        await worker.broker.subscribe(room)
        epochs = set()
        for count in range(1, 4):
            (position,) = await worker.publish(room, b"%d" % count)
            epochs.add(position.epoch)
            await worker.heard.count(room, count)
            breakable.die()
            await worker.heard.until(lambda count=count: worker.heard.how_often("link lost") == count)
            breakable.start()
            await worker.heard.until(lambda count=count: worker.heard.how_often("link restored") == count)
        assert len(epochs) == 3
        assert worker.broker.statistics()["links_lost"] == 3


async def lost_by(*workers: Worker) -> None:
    await asyncio.gather(*[each.heard.until(lambda each=each: each.heard.how_often("link lost")) for each in workers])


async def restored_by(*workers: Worker) -> None:
    for worker in workers:
        await worker.heard.until(lambda worker=worker: worker.heard.how_often("link restored"))


def cut(worker: Worker) -> None:
    """Cut one worker's link, of which the broker's process sees no more than an end."""
    if isinstance(worker.broker, LocalBroker):
        assert worker.broker._link is not None, "started"
        worker.broker._link.transport.abort()
    else:
        assert isinstance(worker.broker, RedisBroker)
        [link] = worker.broker._nodes.links
        link.abort()


async def is_there(worker: Worker, room: Room) -> bool:
    return BOB.connection_id in await worker.broker.members(room)
