"""
Joins and leaves after a fault: watchers end up knowing who is there, and are told nothing that is not so.

Over a broker whose answers a test holds back, and of which it decides what this worker hears.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from realtime.broker.base import ClientInfo, ConnectionId, Room, WorkerId
from realtime.broker.memory import MemoryBroker
from realtime.broker.memory_state import StoredMember
from realtime.errors import BrokerUnavailable
from tests.support.aio import run_async
from tests.support.hub_client import PRESENT, ROOM, HubClient, hub_of
from tests.support.lagging_broker import LaggingBroker
from tests.support.one_worker import until

AT_ONCE = 0.0
OTHER = WorkerId("another")


def come_unheard(broker: MemoryBroker, *clients: str) -> None:
    """Have clients of another worker come, of whom this one is not told."""
    for client in clients:
        broker._state.add_member(ROOM, StoredMember(OTHER, ClientInfo("", client), True, False))


def go_unheard(broker: MemoryBroker, *clients: str) -> None:
    for client in clients:
        broker._state.remove_member(ROOM, ConnectionId(client))


async def come(broker: MemoryBroker, client: str) -> None:
    await broker.add_member(ROOM, ClientInfo("", client), announce=True)


async def go(broker: MemoryBroker, client: str) -> None:
    await broker.remove_member(ROOM, ConnectionId(client), announce=True)


def known_to(client: HubClient, *before: str) -> set[str]:
    """Return whom a client takes to be there, who knew of some when it came."""
    known = set(before)
    for event in client.events:
        kind, _, name = event.partition(":")
        (known.add if kind == "+" else known.discard)(name)
    return known


@run_async
async def test_what_was_not_told_while_the_link_was_lost_is_told_when_it_is_back() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, PRESENT, settle_s=AT_ONCE) as hub:
        come_unheard(broker, "a", "b", "c")
        watcher, other = HubClient(hub, "w", PRESENT), HubClient(hub, "o", PRESENT)
        await watcher.enter()
        await until(lambda: watcher.events == ["+:w"])
        broker.lose_link()
        go_unheard(broker, "a", "b")
        come_unheard(broker, "d")
        broker.restore_link()
        await until(lambda: len(watcher.events) == 4)
        assert watcher.events[1] == "+:d", "at once"
        assert sorted(watcher.events[2:]) == ["-:a", "-:b"], "at the second comparison"
        assert known_to(watcher, "a", "b", "c") == set(broker._state.members(ROOM))
        await other.enter()
        await until(lambda: watcher.events[-1] == "+:o")


@run_async
async def test_a_gap_in_some_rooms_has_those_compared() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, PRESENT, settle_s=AT_ONCE) as hub:
        watcher = HubClient(hub, "w", PRESENT)
        await watcher.enter()
        come_unheard(broker, "a")
        broker.listener.on_gap([Room("another"), ROOM])
        await until(lambda: "+:a" in watcher.events)


@run_async
async def test_nobody_left_who_is_back_before_the_second_comparison() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, PRESENT, settle_s=AT_ONCE) as hub:
        come_unheard(broker, "a", "b")
        watcher = HubClient(hub, "w", PRESENT)
        await watcher.enter()
        broker.lose_link()
        go_unheard(broker, "a", "b")  # it came back empty
        gate = broker.hold_after("members")
        broker.restore_link()
        await gate.reached.wait()
        again = broker.hold_before("members")
        gate.open()
        await again.reached.wait()
        come_unheard(broker, "a")  # its worker brings it again, and says nothing
        broker.let_pass()
        await until(lambda: "-:b" in watcher.events)
        assert watcher.events == ["+:w", "-:b"]


@run_async
async def test_who_is_back_is_told_again_where_somebody_had_not_seen_it() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, PRESENT, settle_s=AT_ONCE) as hub:
        come_unheard(broker, "a", "b")
        watcher, other = HubClient(hub, "w", PRESENT), HubClient(hub, "o", PRESENT)
        await watcher.enter()
        go_unheard(broker, "a", "b")
        await other.enter()
        assert set(await hub.members.all(ROOM)) == {"w", "o"}
        await come(broker, "a")
        come_unheard(broker, "b")
        broker.listener.on_gap([ROOM])
        await until(lambda: "+:b" in other.events)
        assert known_to(other) >= {"a", "b"}


@run_async
async def test_who_is_back_after_it_was_told_to_have_left_is_told_to_have_come() -> None:
    broker = LaggingBroker()

    class Watcher(HubClient):
        def write(self, data: bytes) -> None:
            super().write(data)
            if data == b"-:a\n":
                come_unheard(broker, "a")

    async with hub_of(broker, PRESENT, settle_s=AT_ONCE) as hub:
        come_unheard(broker, "a")
        watcher = Watcher(hub, "w", PRESENT)
        await watcher.enter()
        broker.lose_link()
        go_unheard(broker, "a")
        broker.restore_link()
        await until(lambda: watcher.events == ["+:w", "-:a", "+:a"])


@run_async
async def test_what_is_told_while_the_answer_is_on_its_way_counts() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, PRESENT, settle_s=AT_ONCE) as hub:
        come_unheard(broker, "a")
        watcher = HubClient(hub, "w", PRESENT)
        await watcher.enter()
        gate = broker.hold_after("members")
        broker.listener.on_gap([ROOM])
        await gate.reached.wait()
        await come(broker, "late")  # the answer that is on its way knows neither
        await go(broker, "a")
        await until(lambda: watcher.events == ["+:w", "+:late", "-:a"])
        come_unheard(broker, "b")
        broker.let_pass()
        broker.listener.on_gap([ROOM])
        await until(lambda: "+:b" in watcher.events)
        assert watcher.events == ["+:w", "+:late", "-:a", "+:b"]


@run_async
async def test_what_watchers_know_is_not_told_again() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, PRESENT) as hub:
        watcher = HubClient(hub, "w", PRESENT)
        await watcher.enter()
        await until(lambda: watcher.events == ["+:w"])
        for _ in range(3):
            broker.listener.on_join(ROOM, ClientInfo("", "a"))
        for _ in range(3):
            broker.listener.on_leave(ROOM, ClientInfo("", "a"))
        broker.listener.on_join(ROOM, ClientInfo("", "b"))
        broker.listener.on_join(ROOM, ClientInfo("", "b", b'"another"'))
        await until(lambda: watcher.events.count("+:b") == 2)
        assert watcher.events == ["+:w", "+:a", "-:a", "+:b", "+:b"]


@run_async
async def test_the_broker_is_asked_once_for_the_first_who_watches() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, PRESENT) as hub:
        passer = HubClient(hub, "p", PRESENT)
        passer.activate(await passer.ask(watches=False))
        assert broker.calls.count("members") == 0
        await asyncio.gather(*[HubClient(hub, f"w{number}", PRESENT).enter() for number in range(5)])
        assert broker.calls.count("members") == 1


@run_async
async def test_who_cannot_be_let_in_because_the_broker_went_away_leaves_the_next_to_ask() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, PRESENT) as hub:
        gate = broker.hold_before("members")
        watcher, next_one = HubClient(hub, "w", PRESENT), HubClient(hub, "n", PRESENT)
        first, second = asyncio.create_task(watcher.ask()), asyncio.create_task(next_one.enter())
        await gate.reached.wait()
        broker.away = True
        gate.open()
        with pytest.raises(BrokerUnavailable):
            await first
        with pytest.raises(BrokerUnavailable):
            await second
        broker.away = False
        await next_one.enter()
        come_unheard(broker, "a")
        broker.listener.on_gap([ROOM])
        await until(lambda: "+:a" in next_one.events)


@run_async
async def test_an_answer_agrees_with_what_was_told_before_it() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, PRESENT) as hub:
        come_unheard(broker, "a", "b")
        watcher = HubClient(hub, "w", PRESENT)
        await watcher.enter()
        gate = broker.hold_after("members")
        asking = asyncio.create_task(hub.members.all(ROOM))
        await gate.reached.wait()
        await go(broker, "a")
        await come(broker, "c")
        await until(lambda: watcher.events == ["+:w", "-:a", "+:c"])
        gate.open()
        assert set(await asking) == {"b", "c", "w"}
        come_unheard(broker, "d")
        assert "d" in await hub.members.all(ROOM)
        await until(lambda: watcher.events[3:] == ["+:d"])  # whom one knows all know; else a leave would not be told


@run_async
async def test_what_an_answer_showed_is_not_newer_than_an_answer_on_its_way() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, PRESENT, settle_s=AT_ONCE) as hub:
        watcher = HubClient(hub, "w", PRESENT)
        await watcher.enter()
        come_unheard(broker, "x")
        slow = broker.hold_after("members")
        asking = asyncio.create_task(hub.members.all(ROOM))
        await slow.reached.wait()
        go_unheard(broker, "x")
        late = broker.hold_after("members")
        broker.listener.on_gap([ROOM])
        await late.reached.wait()
        slow.open()  # and overtakes the other, which knows better
        assert "x" in await asking
        broker.let_pass()
        await until(lambda: watcher.events == ["+:w", "+:x", "-:x"])


@run_async
async def test_an_answer_that_comes_into_the_room_s_next_life_tells_nobody_anything() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, PRESENT, settle_s=AT_ONCE) as hub:
        come_unheard(broker, "x")
        watcher, next_one = HubClient(hub, "w", PRESENT), HubClient(hub, "n", PRESENT)
        await watcher.enter()
        slow = broker.hold_after("members")
        asking = asyncio.create_task(hub.members.all(ROOM))
        await slow.reached.wait()
        leaving = broker.hold_before("unsubscribe")
        watcher.leave()
        await leaving.reached.wait()
        go_unheard(broker, "x")
        coming = asyncio.create_task(next_one.ask())
        await asyncio.sleep(0)
        broker._gates.pop(("after", "members"))
        leaving.open()
        next_one.activate(await coming)
        await until(lambda: next_one.events == ["+:n"])
        slow.open()
        await asking
        await asyncio.sleep(0)
        assert next_one.events == ["+:n"]


@run_async
async def test_who_comes_in_is_told_once_of_each() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, PRESENT) as hub:
        await HubClient(hub, "w", PRESENT).enter()
        gate = broker.hold_before("add_member")
        newcomer = HubClient(hub, "n", PRESENT)
        coming = asyncio.create_task(newcomer.ask())
        await gate.reached.wait()
        for _ in range(3):
            broker.listener.on_join(ROOM, ClientInfo("", "a"))
        broker.let_pass()
        newcomer.activate(await coming)
        await until(lambda: newcomer.events == ["+:a", "+:n"])


@run_async
async def test_a_hub_that_has_closed_begins_no_comparison() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, PRESENT, settle_s=AT_ONCE) as hub:
        await HubClient(hub, "w", PRESENT).enter()
        await hub._upkeep.presence.close()
        broker.listener.on_gap([ROOM])
        assert hub._upkeep.presence._task is None
        await hub._upkeep.presence.close()


@run_async
async def test_one_room_s_failure_stops_no_comparison_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = LaggingBroker()
    async with hub_of(broker, PRESENT, settle_s=AT_ONCE) as hub:
        watcher, other = HubClient(hub, "w", PRESENT), HubClient(hub, "o", PRESENT)
        await watcher.enter()
        await other.enter(Room("faulty"))
        members = broker.members

        async def failing(room: Room) -> Any:
            return 1 / 0 if room == "faulty" else await members(room)

        monkeypatch.setattr(broker, "members", failing)
        come_unheard(broker, "a")
        broker.listener.on_gap([Room("faulty"), ROOM])
        await until(lambda: "+:a" in watcher.events)


@run_async
async def test_a_hub_that_closes_compares_no_more() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, PRESENT, settle_s=3600.0) as hub:
        come_unheard(broker, "a")
        watcher = HubClient(hub, "w", PRESENT)
        await watcher.enter()
        go_unheard(broker, "a")
        come_unheard(broker, "b")
        broker.listener.on_gap([ROOM])
        await until(lambda: "+:b" in watcher.events)
        watcher.leave()
    assert "-:a" not in watcher.events


@pytest.mark.parametrize("seed", range(60))
@run_async
async def test_whatever_is_told_or_not_watchers_know_at_last_who_is_there(seed: int) -> None:
    chance = random.Random(seed)
    broker = LaggingBroker()
    broker.lag = lambda: chance.choice((0, 0, 1, 3))
    names = [f"c{number}" for number in range(6)]
    async with hub_of(broker, PRESENT, settle_s=AT_ONCE) as hub:
        come_unheard(broker, *chance.sample(names, 3))
        watchers: dict[HubClient, set[str]] = {}

        async def watch() -> None:
            watcher = HubClient(hub, f"w{len(watchers)}", PRESENT)
            try:
                await watcher.enter()
                watchers[watcher] = set()
                watcher.events.clear()
                watchers[watcher] = set(await hub.members.all(ROOM))
            except BrokerUnavailable:
                if watchers.pop(watcher, None) is not None:
                    watcher.leave()

        for _ in range(40):
            match chance.randrange(8):
                case 0 if not broker.away:
                    broker.lose_link()
                case 0 | 1 if broker.away:
                    broker.restore_link()
                case 2 if len(watchers) < 4:
                    await watch()
                case _:
                    name = chance.choice(names)
                    is_there = name in broker._state.members(ROOM)
                    if broker.away:
                        (go_unheard if is_there else come_unheard)(broker, name)
                    else:
                        await (go if is_there else come)(broker, name)
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
        if broker.away:
            broker.restore_link()
        await until(lambda: (task := hub._upkeep.presence._task) is None or task.done())
        for _ in range(10):
            await asyncio.sleep(0)  # what the broker told last
        there = set(broker._state.members(ROOM))
        for watcher, before in watchers.items():
            assert known_to(watcher, *before) == there
