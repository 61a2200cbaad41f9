"""
Who is seen in a room: who came is, who left is not, in whichever order a slow or absent broker hears of it.

Over a broker whose answers a test holds back, so that leaving and returning meet at every moment.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from realtime.broker.base import ClientInfo, ConnectionId
from realtime.errors import BrokerUnavailable
from realtime.rooms.presence import Presence
from tests.support.aio import run_async
from tests.support.hub_client import PRESENT, ROOM, HubClient, hub_of
from tests.support.lagging_broker import LaggingBroker
from tests.support.one_worker import until

ANA = ClientInfo("ana", "c1")


async def seen(broker: LaggingBroker) -> set[str]:
    """Return who is there, from the broker itself."""
    return set(broker._state.members(ROOM))


async def leave(presence: Presence, client: str = "c1") -> None:
    presence.schedule_removal(ROOM, ConnectionId(client), announce=True)
    await presence.flush(ROOM, ConnectionId(client))


# Presence alone


@run_async
async def test_who_came_is_seen_and_who_left_is_not() -> None:
    broker = LaggingBroker()
    presence = Presence(broker)
    await presence.add(ROOM, ANA, announce=True)
    assert await broker.members(ROOM) == {"c1": ANA}
    counts = await broker.member_counts(ROOM)
    assert (counts.clients, counts.users) == (1, 1)
    await leave(presence)
    await leave(presence)
    assert await broker.members(ROOM) == {}
    assert presence.postponed == 0


@run_async
async def test_a_departure_that_the_broker_cannot_take_is_owed_and_paid_later() -> None:
    broker = LaggingBroker()
    presence = Presence(broker)
    await presence.add(ROOM, ANA, announce=True)
    await presence.add(ROOM, ClientInfo("bob", "c2"), announce=True)
    broker.away = True
    await leave(presence, "c1")
    await leave(presence, "c2")
    await presence.flush_all()
    assert presence.postponed == 2
    assert await seen(broker) == {"c1", "c2"}
    broker.away = False
    await presence.flush_all()
    assert presence.postponed == 0
    assert await seen(broker) == set()


@run_async
async def test_who_could_not_be_let_in_is_taken_out_again_for_it_may_have_happened() -> None:
    broker = LaggingBroker()
    presence = Presence(broker)
    gate = broker.hold_after("add_member")
    coming = asyncio.create_task(presence.add(ROOM, ANA, announce=True))
    await gate.reached.wait()
    broker.away = True
    broker.let_pass()
    with pytest.raises(BrokerUnavailable):
        await coming
    assert await seen(broker) == {"c1"}
    assert presence.postponed == 1
    broker.away = False
    await presence.flush_all()
    assert (await seen(broker), presence.postponed) == (set(), 0)


@run_async
async def test_who_left_during_an_outage_and_returns_after_it_stays() -> None:
    broker = LaggingBroker()
    presence = Presence(broker)
    await presence.add(ROOM, ANA, announce=True)
    broker.away = True
    await leave(presence)
    broker.away = False
    await presence.add(ROOM, ANA, announce=True)
    await presence.flush_all()
    assert (await seen(broker), presence.postponed) == ({"c1"}, 0)


@pytest.mark.parametrize("when", ["before", "after"])
@run_async
async def test_who_returns_while_its_departure_is_on_the_way_stays(when: str) -> None:
    broker = LaggingBroker()
    presence = Presence(broker)
    await presence.add(ROOM, ANA, announce=True)
    gate = (broker.hold_before if when == "before" else broker.hold_after)("remove_member")
    leaving = asyncio.create_task(leave(presence))
    await gate.reached.wait()
    returning = asyncio.create_task(presence.add(ROOM, ANA, announce=True))
    for _ in range(5):
        await asyncio.sleep(0)
    broker.let_pass()
    await asyncio.gather(leaving, returning)
    await presence.flush_all()
    assert (await seen(broker), presence.postponed) == ({"c1"}, 0)


# In a hub


@run_async
async def test_a_member_that_leaves_and_returns_at_once_is_seen() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, PRESENT) as hub:
        client, other = HubClient(hub, "c", PRESENT), HubClient(hub, "other", PRESENT)
        await other.enter()
        for _ in range(20):
            await client.enter()
            assert await seen(broker) == {"c", "other"}
            client.leave()
        await client.enter()
        await until(lambda: other.events.count("+:c") == 21)
        assert await seen(broker) == {"c", "other"}
        mine = [event for event in other.events if event.endswith(":c")]
        assert mine == ["+:c", "-:c"] * 20 + ["+:c"], "each coming and each going is told, in order"


@pytest.mark.parametrize("seed", range(40))
@run_async
async def test_in_the_end_exactly_those_are_seen_who_are_there(seed: int) -> None:
    chance = random.Random(seed)
    broker = LaggingBroker()
    broker.lag = lambda: chance.choice((0, 0, 1, 3))
    async with hub_of(broker, PRESENT) as hub:
        clients = [HubClient(hub, f"c{n}", PRESENT) for n in range(4)]
        inside: set[str] = set()
        for _ in range(60):
            client = chance.choice(clients)
            name = client.info.connection_id
            if chance.random() < 0.1:
                broker.away = not broker.away
            if name in inside:
                assert client.leave()
                inside.discard(name)
            else:
                try:
                    await client.enter()
                    inside.add(name)
                except BrokerUnavailable:
                    assert broker.away
        if broker.away:
            broker.lose_link()
            broker.restore_link()
        await hub.departures.presence.flush_all()
        await until(lambda: not hub._tasks and not hub.departures._tasks)
        await hub.departures.presence.flush_all()
        assert await seen(broker) == inside
        assert hub.statistics()["departures_pending"] == 0


@run_async
async def test_a_worker_that_ends_takes_its_members_with_it() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, PRESENT) as hub:
        await HubClient(hub, "c", PRESENT).enter()
        assert await seen(broker) == {"c"}
    assert await seen(broker) == set()
