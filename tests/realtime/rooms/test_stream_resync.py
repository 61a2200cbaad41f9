"""
Many rooms that miss something at once: their streams are read a few at a time, and every room gets what it missed.
"""

from __future__ import annotations

from realtime.broker.base import NOT_KEPT, Room
from realtime.rooms.stream_resync import READS_MAX
from tests.support.aio import run_async
from tests.support.hub_client import KEPT, HubClient, hub_of, say
from tests.support.lagging_broker import LaggingBroker
from tests.support.one_worker import until

ROOMS = [Room(f"room {number}") for number in range(3 * READS_MAX)]


@run_async
async def test_after_an_outage_few_streams_are_read_at_a_time_and_every_member_gets_what_it_missed() -> None:
    broker = LaggingBroker()
    async with hub_of(broker) as hub:
        clients = {room: HubClient(hub, str(room)) for room in ROOMS}
        for room, client in clients.items():
            client.activate(await client.ask(room, watches=False))
        broker.lose_link()
        for room in ROOMS:
            await broker.publish_unheard(room, b"1", b"2", retention=KEPT.retention)
        gate = broker.hold_before("history")
        before = broker.calls.count("history")
        broker.restore_link()
        await until(lambda: hub.statistics()["out_of_sync"] == len(ROOMS) and broker.calls[-1] == "history")
        assert broker.calls.count("history") - before == READS_MAX
        gate.open()
        await until(lambda: all(client.offsets == [1, 2] for client in clients.values()))
        assert hub.statistics()["out_of_sync"] == 0
        assert hub.statistics()["filled"] == 2 * len(ROOMS)


@run_async
async def test_a_stream_that_cannot_be_read_now_is_read_in_a_later_round() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, compare_s=0.01) as hub:
        client = HubClient(hub)
        await client.enter(ROOMS[0])
        gate = broker.hold_before("history")
        await broker.publish_unheard(ROOMS[0], b"1", retention=KEPT.retention)
        await gate.reached.wait()
        broker.away = True
        broker.let_pass()
        await until(lambda: hub.statistics()["out_of_sync"] == 1)
        broker.away = False
        await until(lambda: client.offsets == [1])
        assert hub.statistics()["out_of_sync"] == 0


@run_async
async def test_what_arrives_in_a_private_room_goes_to_its_receiver_and_a_fault_there_ends_nothing() -> None:
    broker = LaggingBroker()
    async with hub_of(broker) as hub:
        received: list[bytes] = []

        def receive(data: bytes) -> None:
            received.append(data)
            if data == b"bad":
                raise RuntimeError("a fault of ours")

        await hub.private.listen(Room("\0private"), receive)
        for data in (b"1", b"bad", b"2"):
            await say(hub, data, Room("\0private"), retention=NOT_KEPT)
        await until(lambda: received == [b"1", b"bad", b"2"])
        assert hub.statistics()["unrouted"] == 0
