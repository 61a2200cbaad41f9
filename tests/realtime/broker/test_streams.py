"""
Streams, the same with every broker: pages of history, positions, and their expiry.

Time is either the memory broker's own clock, which a test sets, or a very short lifetime, whose effect a test waits
for.
"""

from __future__ import annotations

from realtime.broker.base import History, Position, Retention, WorkerId
from realtime.broker.memory import MemoryBroker
from tests.realtime.broker.workers import KEPT, Heard, Place, Worker, flushed
from tests.support.aio import eventually, run_async

ALL = 1000


def offsets(page: History) -> list[int]:
    return [each.offset for each in page.publications]


@run_async
async def test_a_new_stream_is_empty_and_has_a_position(place: Place) -> None:
    room, other = place.room(), place.room("other")
    async with place.worker() as worker:
        assert await worker.broker.positions([room, other]) == {}
        top = await worker.broker.position(room, retention=KEPT)
        assert top.epoch
        assert top.offset == 0
        assert await worker.broker.position(room, retention=KEPT) == top, "asking again changes nothing"
        page = await worker.broker.history(room, retention=KEPT, limit=ALL)
        assert (list(page.publications), page.top) == ([], top)
        assert await worker.broker.positions([room, other]) == {room: top}
        assert (await worker.publish(room, b"1")) == [Position(top.epoch, 1)]
        other_top = (await worker.broker.history(other, retention=KEPT)).top
        assert other_top.offset == 0
        assert other_top.epoch != top.epoch


@run_async
async def test_positions_asks_for_nothing_and_for_much(place: Place) -> None:
    rooms = [place.room(f"{n}") for n in range(20)]
    async with place.worker() as worker:
        assert await worker.broker.positions([]) == {}
        tops = {room: (await worker.publish(room, *[b"1"] * (n + 1)))[-1] for n, room in enumerate(rooms[:10])}
        assert await worker.broker.positions(rooms) == tops
        assert await worker.broker.positions(rooms[10:]) == {}


@run_async
async def test_pages_of_history(place: Place) -> None:
    room = place.room()
    async with place.worker() as worker:
        epoch = (await worker.publish(room, *[b"%d" % n for n in range(1, 11)]))[0].epoch

        async def page(since: int | None = None, limit: int = ALL, reverse: bool = False) -> list[int]:
            position = None if since is None else Position(epoch, since)
            found = await worker.broker.history(room, retention=KEPT, since=position, limit=limit, reverse=reverse)
            assert found.top == Position(epoch, 10)
            assert all((each.data, each.epoch) == (b"%d" % each.offset, epoch) for each in found.publications)
            return offsets(found)

        assert await page(limit=0) == []
        assert await page(since=3, limit=0) == []
        assert await page(limit=0, reverse=True) == []
        assert await page() == list(range(1, 11))
        assert await page(limit=3) == [1, 2, 3]
        assert await page(since=0) == list(range(1, 11))
        assert await page(since=7) == [8, 9, 10]
        assert await page(since=7, limit=2) == [8, 9]
        assert await page(since=10) == []
        assert await page(since=99) == []
        assert await page(reverse=True) == list(range(10, 0, -1))
        assert await page(limit=3, reverse=True) == [10, 9, 8]
        assert await page(since=4, reverse=True) == [3, 2, 1]
        assert await page(since=4, limit=2, reverse=True) == [3, 2]
        assert await page(since=1, reverse=True) == []
        assert await page(since=0, reverse=True) == []
        assert await page(since=99, limit=1, reverse=True) == [10]


@run_async
async def test_the_top_shows_that_a_position_is_of_another_epoch(place: Place) -> None:
    room = place.room()
    async with place.worker() as worker:
        (first,) = await worker.publish(room, b"1")
        page = await worker.broker.history(room, retention=KEPT, since=Position("another", 0), limit=ALL)
        assert offsets(page) == [1], "the epoch is not compared"
        assert page.top == first


@run_async
async def test_no_more_than_size_is_kept(place: Place) -> None:
    room, few = place.room(), Retention(size=3)
    async with place.worker() as worker:
        await worker.publish(room, *[b"1"] * 10, retention=few)
        page = await worker.broker.history(room, retention=few, limit=ALL)
        assert offsets(page) == [8, 9, 10]
        assert page.top.offset == 10
        assert offsets(await worker.broker.history(room, retention=few, limit=ALL, reverse=True)) == [10, 9, 8]
        too_old = Position(page.top.epoch, 5)
        page = await worker.broker.history(room, retention=few, since=too_old, limit=ALL)
        assert offsets(page) == [8, 9, 10], "what is missing between 5 and 8 shows by the offsets"


@run_async
async def test_a_room_whose_size_was_changed_keeps_the_new_one(place: Place) -> None:
    room = place.room()
    async with place.worker() as worker:
        await worker.publish(room, *[b"1"] * 10)
        fewer = Retention(size=4)
        assert offsets(await worker.broker.history(room, retention=fewer, limit=ALL)) == [7, 8, 9, 10]
        await worker.publish(room, b"1", retention=fewer)
        assert offsets(await worker.broker.history(room, retention=fewer, limit=ALL)) == [8, 9, 10, 11]


@run_async
async def test_a_stream_is_the_same_for_all_workers_and_outlives_them(shared: Place) -> None:
    room = shared.room()
    async with shared.worker("keeper") as keeper:
        async with shared.worker("a") as a:
            (first,) = await a.publish(room, b"1")
        async with shared.worker("b") as b:
            (second,) = await b.publish(room, b"2")
            assert second == Position(first.epoch, 2)
        page = await keeper.broker.history(room, retention=KEPT, limit=ALL)
        assert [each.data for each in page.publications] == [b"1", b"2"]


@run_async
async def test_forget_history_keeps_the_position(place: Place) -> None:
    room = place.room()
    async with place.worker() as worker:
        await worker.broker.forget_history(room)
        await worker.broker.subscribe(room)
        *_, top = await worker.publish(room, b"1", b"2")
        await worker.broker.forget_history(room)
        page = await worker.broker.history(room, retention=KEPT, limit=ALL)
        assert (list(page.publications), page.top) == ([], top)
        await worker.publish(room, b"3")
        assert offsets(await worker.broker.history(room, retention=KEPT, limit=ALL)) == [3]
        await flushed(worker, room)
        assert [each.offset for each in worker.heard.publications[room]] == [1, 2, 3]


# What time brings about


@run_async
async def test_publications_are_forgotten_in_time_and_the_position_is_not(place: Place) -> None:
    room, brief = place.room(), Retention(size=10, ttl_s=0.05)
    async with place.worker() as worker:
        *_, top = await worker.publish(room, b"1", b"2", retention=brief)

        async def is_forgotten() -> bool:
            page = await worker.broker.history(room, retention=brief, limit=ALL)
            assert page.top == top
            return not page.publications

        await eventually(is_forgotten)
        (next_one,) = await worker.publish(room, b"3")
        assert next_one == Position(top.epoch, 3)
        assert offsets(await worker.broker.history(room, retention=KEPT, limit=ALL)) == [3], "1 and 2 stay forgotten"


@run_async
async def test_a_stream_that_was_forgotten_begins_anew(place: Place) -> None:
    room, brief = place.room(), Retention(size=10, ttl_s=0.02, meta_ttl_s=0.05)
    async with place.worker() as worker:
        (before,) = await worker.publish(room, b"1", retention=brief)

        async def is_gone() -> bool:
            return not await worker.broker.positions([room])

        await eventually(is_gone)
        page = await worker.broker.history(room, retention=KEPT, limit=ALL)
        assert (list(page.publications), page.top.offset) == ([], 0)
        assert page.top.epoch != before.epoch


@run_async
async def test_a_position_never_goes_before_its_publications(place: Place) -> None:
    room, other = place.room(), place.room("other")
    odd, brief = Retention(size=10, ttl_s=600.0, meta_ttl_s=0.01), Retention(size=10, ttl_s=0.01, meta_ttl_s=0.01)
    async with place.worker() as worker:
        (first,) = await worker.publish(room, b"1", retention=odd)
        await worker.publish(other, b"1", retention=brief)

        async def is_other_gone() -> bool:
            return not await worker.broker.positions([other])

        await eventually(is_other_gone)  # by then the position alone would be gone as well
        page = await worker.broker.history(room, retention=odd, limit=ALL)
        assert (offsets(page), page.top) == ([1], first)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@run_async
async def test_the_moments_of_forgetting() -> None:
    clock = Clock()
    place = Place("memory", "memory:")
    worker = Worker(WorkerId("a"), MemoryBroker(WorkerId("a"), clock=clock), Heard())
    room, kept = place.room(), Retention(size=10, ttl_s=60.0, meta_ttl_s=3600.0)
    await worker.broker.start(worker.heard)
    (first,) = await worker.publish(room, b"1", retention=kept)
    clock.now += 59
    await worker.publish(room, b"2", retention=kept)
    clock.now += 59
    assert offsets(await worker.broker.history(room, retention=kept, limit=ALL)) == [1, 2], "each begins the time anew"
    clock.now += 1
    assert offsets(await worker.broker.history(room, retention=kept, limit=ALL)) == []
    clock.now += 3599
    assert (await worker.broker.positions([room])) == {room: Position(first.epoch, 2)}
    clock.now += 1
    assert (await worker.broker.positions([room])) == {}
    assert (await worker.broker.position(room, retention=kept)).epoch != first.epoch
    await worker.broker.close()
