"""Publications, the same with every broker: their order, their receivers, and that they arrive unchanged."""

from __future__ import annotations

import asyncio

import pytest

from realtime.broker.base import ClientInfo, Position, Published, PublishRequest, Room
from tests.realtime.broker.workers import KEPT, NOT_KEPT, Place, Worker, flushed
from tests.support.aio import eventually, run_async

ODD_NAMES = ["{tag}", "a{b", "a}b", "a%7Bb", "%", "räume/日本", "with space", "new\nline", 'quote"', "*", "x" * 255]
ODD_DATA = [
    b"{}",
    b'"' + bytes(range(256)) + b'"',
    '{"text": "grüße, 日本, \U0001f600"}'.encode(),
    b"a:b:c",
    b"\r\n$5\r\n",
    b"",
]


@run_async
async def test_publications_come_in_order_with_offsets_from_1(place: Place) -> None:
    room = place.room()
    async with place.worker() as worker:
        await worker.broker.subscribe(room)
        positions = await worker.publish(room, *[b"%d" % n for n in range(50)])
        got = await worker.heard.count(room, 50)
    assert [each.data for each in got] == [b"%d" % n for n in range(50)]
    assert [each.offset for each in got] == list(range(1, 51))
    assert [Position(each.epoch, each.offset) for each in got] == positions
    assert len({each.epoch for each in got}) == 1
    assert got[0].epoch, "an epoch has a name"


@run_async
async def test_publications_sent_at_once_have_the_same_order_for_all(shared: Place) -> None:
    room = shared.room()
    async with shared.worker("a") as a, shared.worker("b") as b:
        await asyncio.gather(a.broker.subscribe(room), b.broker.subscribe(room))
        await asyncio.gather(
            *[
                each.broker.publish(PublishRequest(room, b"%d" % n, retention=KEPT))
                for n in range(100)
                for each in (a, b)
            ]
        )
        got = await a.heard.count(room, 200)
        assert await b.heard.count(room, 200) == got
        assert [each.offset for each in got] == list(range(1, 201))
        assert (await a.broker.history(room, retention=KEPT, limit=200)).publications == got[-KEPT.size :]


@run_async
async def test_what_is_published_with_it_comes_with_it(place: Place) -> None:
    room, info = place.room(), ClientInfo("user", "client", b'{"a": 1}', b'{"b": "\xc3\xbc"}')
    async with place.worker() as worker:
        await worker.broker.subscribe(room)
        await worker.broker.publish(
            PublishRequest(room, b"{}", retention=KEPT, info=info, tags={"colour": "grün", "": ""})
        )
        await worker.broker.publish(PublishRequest(room, b"{}", retention=KEPT))
        full, bare = await worker.heard.count(room, 2)
        page = await worker.broker.history(room, retention=KEPT, limit=9)
    assert (full.info, full.tags) == (info, {"colour": "grün", "": ""})
    assert (bare.info, bare.tags) == (None, None)
    assert 0 < full.time_ms <= bare.time_ms
    assert list(page.publications) == [full, bare], "the stream keeps what was delivered"


@pytest.mark.parametrize("data", ODD_DATA)
@run_async
async def test_data_is_kept_as_it_came(place: Place, data: bytes) -> None:
    room = place.room()
    async with place.worker() as worker:
        await worker.broker.subscribe(room)
        await worker.publish(room, data)
        (got,) = await worker.heard.count(room, 1)
        assert got.data == data
        assert list((await worker.broker.history(room, retention=KEPT, limit=1)).publications) == [got]


@run_async
async def test_a_megabyte_is_nothing_special(place: Place) -> None:
    room, data = place.room(), bytes(range(256)) * 4096
    async with place.worker() as worker:
        await worker.broker.subscribe(room)
        await worker.publish(room, data, b"1")
        large, small = await worker.heard.count(room, 2)
        page = await worker.broker.history(room, retention=KEPT, limit=9)
    assert large.data == data
    assert (small.data, small.offset) == (b"1", 2)
    assert list(page.publications) == [large, small]


@run_async
async def test_workers_receive_each_others_publications(shared: Place) -> None:
    room = shared.room()
    async with shared.worker("a") as a, shared.worker("b") as b:
        await asyncio.gather(a.broker.subscribe(room), b.broker.subscribe(room))
        await a.publish(room, b"from a")
        await b.publish(room, b"from b")
        for worker in (a, b):
            assert [each.data for each in await worker.heard.count(room, 2)] == [b"from a", b"from b"]


@run_async
async def test_only_subscribed_workers_receive(shared: Place) -> None:
    one, other = shared.room("one"), shared.room("other")
    async with shared.worker("a") as a, shared.worker("b") as b:
        await asyncio.gather(a.broker.subscribe(one), b.broker.subscribe(other))
        await a.publish(one, b"1")
        await a.publish(other, b"2")
        await asyncio.gather(flushed(a, one), flushed(b, other))
        assert [each.data for each in a.heard.publications[one]] == [b"1"]
        assert [each.data for each in b.heard.publications[other]] == [b"2"]
        assert other not in a.heard.publications
        assert one not in b.heard.publications


@run_async
async def test_nothing_is_missed_once_subscribe_returned(shared: Place) -> None:
    rooms = [shared.room(f"{n}") for n in range(20)]
    async with shared.worker("a") as a, shared.worker("b") as b:
        for room in rooms:
            await a.broker.subscribe(room)
            await b.publish(room, b"1")
        for room in rooms:
            assert [each.offset for each in await a.heard.count(room, 1)] == [1]


@run_async
async def test_unsubscribe_ends_it(place: Place) -> None:
    room, other = place.room(), place.room("other")
    async with place.worker() as worker:
        await asyncio.gather(worker.broker.subscribe(room), worker.broker.subscribe(other))
        await worker.publish(room, b"1")
        await worker.heard.count(room, 1)
        await worker.broker.unsubscribe(room)
        await worker.publish(room, b"2")
        await worker.broker.add_member(room, ClientInfo("u", "c"), announce=True)
        await flushed(worker, other)
        assert [each.data for each in worker.heard.publications[room]] == [b"1"]
        assert not worker.heard.told("join")
        await worker.broker.subscribe(room)
        await worker.publish(room, b"3")
        assert [each.offset for each in await worker.heard.count(room, 2)] == [1, 3]


@run_async
async def test_unsubscribing_what_is_not_subscribed_is_harmless(place: Place) -> None:
    room = place.room()
    async with place.worker() as worker:
        await worker.broker.unsubscribe(room)
        await worker.broker.subscribe(room)
        await worker.broker.subscribe(room)
        await worker.publish(room, b"1")
        await flushed(worker, room)
        assert len(worker.heard.publications[room]) == 1, "a room subscribed twice is delivered once"
        await worker.broker.unsubscribe(room)
        await worker.broker.unsubscribe(room)


@run_async
async def test_any_name_is_a_room_of_its_own(place: Place) -> None:
    rooms = [place.room(name) for name in ODD_NAMES]
    async with place.worker() as worker:
        for room in rooms:
            await worker.broker.subscribe(room)
            await worker.publish(room, room.encode())
            await worker.broker.add_member(room, ClientInfo(room, "c"), announce=True)
        await worker.heard.until(lambda: len(worker.heard.events) == 2 * len(rooms))
        for room in rooms:
            assert [(each.data, each.offset) for each in worker.heard.publications[room]] == [(room.encode(), 1)]
            assert await worker.broker.members(room) == {"c": ClientInfo(room, "c")}
        assert (await worker.broker.positions(rooms)).keys() == set(rooms)


@run_async
async def test_a_thousand_rooms(place: Place) -> None:
    rooms = [place.room(f"{n}") for n in range(1000)]
    async with place.worker() as worker:
        await asyncio.gather(*[worker.broker.subscribe(room) for room in rooms])
        await asyncio.gather(*[worker.publish(room, b"1", room.encode()) for room in rooms])
        for room in rooms:
            assert [(each.data, each.offset) for each in await worker.heard.count(room, 2)] == [
                (b"1", 1),
                (room.encode(), 2),
            ]
        positions = await worker.broker.positions(rooms)
        assert {room: position.offset for room, position in positions.items()} == dict.fromkeys(rooms, 2)
        assert len({position.epoch for position in positions.values()}) == 1000, "each room has its own epoch"
        await asyncio.gather(*[worker.broker.unsubscribe(room) for room in rooms])


# Without history


@run_async
async def test_a_room_without_history_has_no_positions(place: Place) -> None:
    room = place.room()
    async with place.worker() as worker:
        await worker.broker.subscribe(room)
        assert await worker.publish(room, b"1", b"2", retention=NOT_KEPT) == [Position("", 0)] * 2
        got = await worker.heard.count(room, 2)
        assert [(each.data, each.epoch, each.offset) for each in got] == [(b"1", "", 0), (b"2", "", 0)]
        assert await worker.broker.positions([room]) == {}


# Idempotency keys


@run_async
async def test_a_key_publishes_once(place: Place) -> None:
    room = place.room()
    async with place.worker() as worker:
        await worker.broker.subscribe(room)

        async def publish(key: str | None, data: bytes = b"1") -> Published:
            return await worker.broker.publish(PublishRequest(room, data, retention=KEPT, idempotency_key=key))

        first = await publish("key")
        assert not first.duplicate
        assert await publish("key", b"whatever") == Published(first.position, duplicate=True)
        for other in ("KEY", "", "key ", "schlüssel", None, None):
            assert not (await publish(other)).duplicate
        assert await publish("key") == Published(first.position, duplicate=True)
        await flushed(worker, room)
        assert [each.offset for each in worker.heard.publications[room]] == list(range(1, 8))
        assert {each.data for each in worker.heard.publications[room]} == {b"1"}


@run_async
async def test_a_key_belongs_to_its_room_and_is_known_to_all_workers(shared: Place) -> None:
    room, other = shared.room(), shared.room("other")
    async with shared.worker("a") as a, shared.worker("b") as b:

        async def publish(each: Worker, where: Room) -> Published:
            return await each.broker.publish(PublishRequest(where, b"1", retention=KEPT, idempotency_key="key"))

        first = await publish(a, room)
        assert await publish(b, room) == Published(first.position, duplicate=True)
        assert not (await publish(b, other)).duplicate


@run_async
async def test_of_many_with_one_key_at_once_one_is_published(shared: Place) -> None:
    room = shared.room()
    async with shared.worker("a") as a, shared.worker("b") as b:
        done = await asyncio.gather(
            *[
                each.broker.publish(PublishRequest(room, b"1", retention=KEPT, idempotency_key="key"))
                for each in (a, b) * 10
            ]
        )
    assert sorted(each.duplicate for each in done) == [False] + [True] * 19
    assert {each.position.offset for each in done} == {1}


@run_async
async def test_a_key_works_without_history(place: Place) -> None:
    room = place.room()
    async with place.worker() as worker:
        await worker.broker.subscribe(room)
        for seen in (False, True):
            done = await worker.broker.publish(PublishRequest(room, b"1", retention=NOT_KEPT, idempotency_key="key"))
            assert done == Published(Position("", 0), duplicate=seen)
        await flushed(worker, room)
        assert len(worker.heard.publications[room]) == 1


@run_async
async def test_a_key_is_forgotten_in_time(place: Place) -> None:
    room = place.room()
    async with place.worker() as worker:

        async def is_published_anew() -> bool:
            done = await worker.broker.publish(
                PublishRequest(room, b"1", retention=KEPT, idempotency_key="key", idempotency_ttl_s=0.05)
            )
            return not done.duplicate

        assert await is_published_anew()
        await eventually(is_published_anew)
        assert (await worker.broker.position(room, retention=KEPT)).offset == 2


# A caller that goes away


@run_async
async def test_a_cancelled_caller_harms_no_other(place: Place) -> None:
    room = place.room()
    async with place.worker() as worker:
        await worker.broker.subscribe(room)
        tasks = [asyncio.create_task(worker.publish(room, b"%d" % n)) for n in range(20)]
        await asyncio.sleep(0)  # all are on their way
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await flushed(worker, room)
        got = worker.heard.publications[room]
        assert [each.offset for each in got] == list(range(1, len(got) + 1))
        offsets = {each.data: each.offset for each in got}
        for number, task in list(enumerate(tasks))[1::2]:
            (position,) = task.result()
            assert offsets[b"%d" % number] == position.offset, "no caller got the answer of another"
