"""A crowd that enters a room from its positions costs the broker a read or two, and each gets what it missed."""

from __future__ import annotations

import asyncio

import pytest

from realtime.broker.base import Position, Room
from realtime.errors import BrokerUnavailable
from tests.support.aio import run_async
from tests.support.hub_client import ROOM, HubClient, hub_of, say
from tests.support.lagging_broker import LaggingBroker

CROWD = 64  # a batch of moved connections


@pytest.mark.parametrize("lag", [0, 1, 5])
@pytest.mark.parametrize("is_open", [False, True])
@run_async
async def test_a_batch_that_enters_from_its_positions_reads_the_stream_twice_at_most(lag: int, is_open: bool) -> None:
    broker = LaggingBroker()
    broker.lag = lambda: lag
    async with hub_of(broker) as hub:
        if is_open:
            await HubClient(hub, "member").enter()
        for number in range(CROWD):
            await say(hub, b"%d" % number)
        epoch = (await broker.position(ROOM, retention=hub.declarations.room_options(ROOM).retention)).epoch  # type: ignore[union-attr]
        crowd = [HubClient(hub, f"c{number}") for number in range(CROWD)]
        for number, client in enumerate(crowd):
            client.position = Position(epoch, number)
        before = len(broker.calls)
        joined = await asyncio.gather(*(client.enter() for client in crowd))
        reads = broker.calls[before:].count("history")
        assert reads <= (2 if lag else CROWD), "without a lag each read ends before the next caller comes"
        assert all(each.recovered for each in joined)
        assert [client.offsets for client in crowd] == [
            list(range(number + 1, CROWD + 1)) for number in range(CROWD)
        ], "each from its own position"


@run_async
async def test_a_shared_read_begins_after_all_that_share_it_have_come() -> None:
    broker = LaggingBroker()
    async with hub_of(broker) as hub:
        await HubClient(hub, "member").enter()
        gate = broker.hold_after("history")  # it has read, and the answer is on its way
        epoch = (await broker.position(ROOM, retention=hub.declarations.room_options(ROOM).retention)).epoch  # type: ignore[union-attr]
        first, second, third = [HubClient(hub, f"c{number}") for number in range(3)]
        for each in (first, second, third):
            each.position = Position(epoch, 0)
        entering = [asyncio.create_task(first.enter())]
        await gate.reached.wait()
        await say(hub, b"1")
        entering += [asyncio.create_task(each.enter()) for each in (second, third)]
        await asyncio.sleep(0)
        gate.open()
        joined = await asyncio.gather(*entering)
        assert [each.recovered for each in joined] == [True] * 3
        assert [each.offsets for each in (first, second, third)] == [[1]] * 3
        assert broker.calls.count("history") == 2


@run_async
async def test_a_caller_that_is_cancelled_leaves_the_others_their_read() -> None:
    broker = LaggingBroker()
    async with hub_of(broker) as hub:
        await HubClient(hub, "member").enter()
        await say(hub, b"1")
        gate = broker.hold_before("history")
        crowd = [HubClient(hub, f"c{number}") for number in range(4)]
        for each in crowd:
            each.position = Position("", 0)
        entering = [asyncio.create_task(each.enter()) for each in crowd]
        await gate.reached.wait()
        await asyncio.sleep(0)
        entering[0].cancel()  # it reads
        entering[1].cancel()  # it waits for the next read
        await asyncio.wait(entering[:1])
        gate.open()
        assert [(await each).recovered for each in entering[2:]] == [True, True]
        assert [each.offsets for each in crowd] == [[], [], [1], [1]]


@run_async
async def test_a_shared_read_that_fails_fails_for_each_and_the_next_is_another() -> None:
    broker = LaggingBroker()
    async with hub_of(broker) as hub:
        await HubClient(hub, "member").enter()
        gate = broker.hold_before("history")
        crowd = [HubClient(hub, f"c{number}") for number in range(3)]
        for each in crowd:
            each.position = Position("", 0)
        entering = [asyncio.create_task(each.enter()) for each in crowd]
        await gate.reached.wait()
        broker.away = True
        gate.open()
        found = await asyncio.gather(*entering, return_exceptions=True)
        assert [type(each) for each in found] == [BrokerUnavailable] * 3
        broker.away = False
        assert (await crowd[0].enter()).recovered


@run_async
async def test_rooms_are_read_beside_each_other() -> None:
    broker = LaggingBroker()
    async with hub_of(broker) as hub:
        rooms = [Room(f"room {number}") for number in range(5)]
        clients = [HubClient(hub, f"c{number}") for number in range(5)]
        for room, client in zip(rooms, clients, strict=True):
            await client.enter(room)
            client.leave(room)
        broker.lag = lambda: 3
        before = len(broker.calls)
        await asyncio.gather(*(client.enter(room) for room, client in zip(rooms, clients, strict=True)))
        assert broker.calls[before:].count("history") == len(rooms)
