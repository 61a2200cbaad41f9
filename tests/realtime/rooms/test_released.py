"""
What a client leaves behind is released with it, whatever its tokens and its rooms said of later.
"""

from __future__ import annotations

import gc
import time
import weakref
from typing import Any

import pytest

from realtime import App
from realtime.broker.base import Position, RawPublication, Room
from realtime.broker.memory import MemoryBroker
from realtime.errors import BrokerAway, BrokerUnavailable
from realtime.rooms.options import RoomOptions
from realtime.rooms.recovery import Replay
from tests.support.aio import run_async
from tests.support.hub_client import KEPT, PRESENT, ROOM, HubClient, hub_of, say
from tests.support.lagging_broker import LaggingBroker
from tests.support.one_worker import OneWorker, until

DAY_S = 86400


def token(worker: OneWorker, client: Any, room: str) -> str:
    return worker.token(sub="ann", channel=room, client=client.connected["client"], exp=time.time() + DAY_S)


def private() -> App:
    app = App()
    app.room("$private:{name}", open=True, presence=True, history=10)
    return app


@run_async
async def test_a_session_that_ended_is_not_kept_for_the_day_that_its_tokens_had_left() -> None:
    async with OneWorker(private()) as worker:
        client = await worker.join(token=worker.token(sub="ann", exp=time.time() + DAY_S))
        for room in ("$private:a", "$private:b"):
            await client.ask("subscribe", channel=room, token=token(worker, client, room))
        session = weakref.ref(worker.session(client))
        client.abort()
        await until(lambda: not worker.registry)
        await until(lambda: not worker.hub._rooms and not worker.hub._tasks and not worker.hub.departures._tasks)

        def is_released() -> bool:
            gc.collect()
            return session() is None

        await until(is_released)


@run_async
async def test_refreshing_and_coming_again_leaves_no_timers_behind() -> None:
    async with OneWorker(private(), commands_per_second=0) as worker:
        client = await worker.join(token=worker.token(sub="ann", exp=time.time() + DAY_S))
        room = "$private:a"
        said = token(worker, client, room)
        timers = len(worker.wheel)
        for _ in range(3):
            await client.ask("subscribe", channel=room, token=said)
            for _ in range(10):
                await client.ask("sub_refresh", channel=room, token=said)
            await client.ask("unsubscribe", channel=room)
        live = sum(timer.callback is not None for timers in worker.wheel._due.values() for timer in timers)
        assert live <= timers, "what is over is cancelled"


@run_async
async def test_a_room_that_somebody_only_passed_through_is_nowhere_afterwards() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, KEPT) as hub:
        for number in range(50):
            client, room = HubClient(hub, f"c{number}"), Room(f"room {number}")
            await client.enter(room)
            client.leave(room)
            await hub.broker.history(Room(f"looked {number}"), retention=KEPT.retention, limit=10)
            await hub.members.all(Room(f"looked {number}"))
        await until(lambda: not hub._tasks and not hub.departures._tasks)
        assert not hub._rooms
        assert not broker._subscribed
        assert broker._state.statistics()["streams"] == 0
        assert not hub.members._censuses._fresh


@run_async
async def test_who_passed_through_and_comes_back_missed_nothing_or_all_that_there_was() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, KEPT) as hub:
        client = HubClient(hub)
        await client.enter()
        client.leave()
        await until(lambda: not hub._rooms)
        assert (await client.enter()).recovered
        client.leave()
        await until(lambda: not hub._rooms)
        await say(hub, b"1")
        assert (await client.enter()).recovered
        assert client.offsets == [1]


@run_async
async def test_a_room_that_could_not_be_given_up_is_not_kept_for_that() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, KEPT) as hub:
        client = HubClient(hub)
        await client.enter()
        broker.away = True
        client.leave()
        await until(lambda: not hub._tasks and not hub.departures._tasks)
        assert not hub._rooms
        with pytest.raises(BrokerUnavailable):
            await client.enter()
        await until(lambda: not hub._tasks and not hub.departures._tasks)
        assert not hub._rooms


class Unlinked(LaggingBroker):
    """A broker to which the link can be lost: what is asked then is not sent."""

    is_linked = True

    async def add_member(self, *arguments: Any, **named: Any) -> None:
        if not self.is_linked:
            raise BrokerAway("nowhere", "there is no link now")
        await MemoryBroker.add_member(self, *arguments, **named)


@pytest.mark.parametrize(
    "options",
    [PRESENT, RoomOptions(presence=True, join_leave=False).with_handlers(publish=False, leave=True, empty=False)],
)
def test_who_comes_in_vain_while_the_broker_is_away_leaves_no_debt(options: RoomOptions) -> None:
    @run_async
    async def run() -> None:
        broker = Unlinked()
        async with hub_of(broker, options) as hub:
            first = HubClient(hub, "first", options)
            await first.enter()
            broker.add_member = Unlinked.add_member.__get__(broker)  # type: ignore[method-assign]
            broker.is_linked = False
            for number in range(20):
                with pytest.raises(BrokerAway):
                    await HubClient(hub, f"c{number}", options).enter()
            await until(lambda: not hub._tasks and not hub.departures._tasks)
            assert hub.statistics()["departures_pending"] == 0
            broker.is_linked = True
            await HubClient(hub, "second", options).enter()
            assert set(await hub.members.all(ROOM)) == {"first", "second"}

    run()


@run_async
async def test_for_whom_too_many_keys_wait_is_told_that_it_missed_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realtime.rooms.fanout.KEYS_MAX", 5)
    broker, options = LaggingBroker(), RoomOptions(history=100, history_ttl_s=600.0, conflate="k")
    async with hub_of(broker, options) as hub:
        slow, quick = HubClient(hub, "slow", options), HubClient(hub, "quick", options)
        for client in (slow, quick):
            await client.enter()
        slow.congested_since = 1.0
        for number in range(6):
            await say(hub, b"x", tags={"k": f"{number}"})
        await until(lambda: slow.put_out == [ROOM])
        await until(lambda: quick.offsets == [1, 2, 3, 4, 5, 6])
        assert hub.statistics()["insufficient"] == 1
        assert not slow.offsets
        assert (await slow.enter()).recovered, "and gets it, when it comes again"


@run_async
async def test_a_loss_that_finds_too_many_keys_waiting_notifies_each_member_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("realtime.rooms.fanout.KEYS_MAX", 5)
    options = RoomOptions(history=100, history_ttl_s=600.0, conflate="k")
    async with hub_of(LaggingBroker(), options) as hub:
        slow, quick = HubClient(hub, "slow", options), HubClient(hub, "quick", options)
        for client in (slow, quick):
            await client.enter()
        slow.congested_since = 1.0
        entry = await HubClient(hub, "third", options).ask()
        local = hub.registry.rooms[ROOM]
        for offset in range(1, 7):
            hub.on_publication(ROOM, RawPublication(b"x", offset, local.machine.epoch, tags={"k": f"{offset}"}))
        lost = local.machine.positioned(entry, Position("another", 0), Replay(recovered=False))
        hub.perform(local, lost)
        assert (slow.put_out, quick.put_out) == ([ROOM], [ROOM])
        assert quick.offsets == [1, 2, 3, 4, 5, 6]
        assert hub.statistics()["insufficient"] == 2
        hub.cancel(entry)
