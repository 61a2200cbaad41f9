"""Members, the same with every broker: presence, joins and leaves, and the members of a worker that ends."""

from __future__ import annotations

import asyncio

from realtime.broker.base import ClientInfo, ConnectionId, MemberCounts, WorkerId
from realtime.timing.rate import Rate
from tests.realtime.broker.workers import Place, flushed
from tests.support.aio import eventually, run_async

ANN = ClientInfo("ann", "c1", b'{"name": "Ann"}', b'{"\xc3\xbc": 1}')
ANNS_PHONE = ClientInfo("ann", "c2")
BOB = ClientInfo("bob", "c3", None, b"\x00\r\n\xff")
ANONYMOUS = ClientInfo("", "c 4")  # a connection without a user


def client(info: ClientInfo) -> ConnectionId:
    return ConnectionId(info.connection_id)


@run_async
async def test_an_added_member_is_present_until_removed(place: Place) -> None:
    room, other = place.room(), place.room("other")
    async with place.worker() as worker:
        broker = worker.broker
        assert await broker.members(room) == {}
        assert await broker.member_counts(room) == MemberCounts(0, 0)
        for info in (ANN, ANNS_PHONE, BOB, ANONYMOUS):
            await broker.add_member(room, info, announce=False)
        assert await broker.members(room) == {info.connection_id: info for info in (ANN, ANNS_PHONE, BOB, ANONYMOUS)}
        assert await broker.member_counts(room) == MemberCounts(clients=4, users=3)
        assert await broker.members(other) == {}
        await broker.remove_member(room, client(ANN), announce=False)
        assert await broker.member_counts(room) == MemberCounts(clients=3, users=3)
        for info in (ANNS_PHONE, BOB, ANONYMOUS):
            await broker.remove_member(room, client(info), announce=False)
        assert await broker.members(room) == {}
        assert await broker.member_counts(room) == MemberCounts(0, 0)


@run_async
async def test_adding_again_replaces(place: Place) -> None:
    room, renamed = place.room(), ClientInfo("ann", ANN.connection_id, b'{"name": "Anna"}')
    async with place.worker() as worker:
        await worker.broker.add_member(room, ANN, announce=False)
        await worker.broker.add_member(room, renamed, announce=False)
        assert await worker.broker.members(room) == {ANN.connection_id: renamed}
        await worker.broker.remove_member(room, client(ANN), announce=False)
        assert await worker.broker.members(room) == {}


@run_async
async def test_joins_and_leaves_arrive_in_order_with_publications(place: Place) -> None:
    room = place.room()
    async with place.worker() as worker:
        await worker.broker.subscribe(room)
        await worker.broker.add_member(room, ANN, announce=True)
        await worker.publish(room, b"1")
        await worker.broker.add_member(room, BOB, announce=True)
        await worker.broker.remove_member(room, client(ANN), announce=True)
        await flushed(worker, room)
        assert [kind for kind, _ in worker.heard.events] == ["join", "publication", "join", "leave"]
        assert worker.heard.told("join", "leave") == [
            ("join", (room, ANN)),
            ("join", (room, BOB)),
            ("leave", (room, ANN)),
        ]


@run_async
async def test_without_announce_no_event_arrives(place: Place) -> None:
    room = place.room()
    async with place.worker() as worker:
        await worker.broker.subscribe(room)
        await worker.broker.add_member(room, ANN, announce=False)
        await worker.broker.remove_member(room, client(ANN), announce=False)
        await flushed(worker, room)
        assert worker.heard.events == []


@run_async
async def test_removing_an_absent_member_announces_nothing(place: Place) -> None:
    room = place.room()
    async with place.worker() as worker:
        await worker.broker.subscribe(room)
        await worker.broker.remove_member(room, client(ANN), announce=True)
        await worker.broker.add_member(room, ANN, announce=True)
        await worker.broker.remove_member(room, client(ANN), announce=True)
        await worker.broker.remove_member(room, client(ANN), announce=True)
        await flushed(worker, room)
        assert worker.heard.events == [("join", (room, ANN)), ("leave", (room, ANN))]


@run_async
async def test_members_are_no_part_of_the_stream(place: Place) -> None:
    room = place.room()
    async with place.worker() as worker:
        await worker.broker.add_member(room, ANN, announce=True)
        assert await worker.broker.positions([room]) == {}


@run_async
async def test_all_workers_see_all_members(shared: Place) -> None:
    room = shared.room()
    async with shared.worker("a") as a, shared.worker("b") as b:
        await asyncio.gather(a.broker.subscribe(room), b.broker.subscribe(room))
        await a.broker.add_member(room, ANN, announce=True)
        await b.broker.add_member(room, ANNS_PHONE, announce=True)
        await a.broker.remove_member(room, client(ANN), announce=True)
        for worker in (a, b):
            await flushed(worker, room)
            assert worker.heard.told("join", "leave") == [
                ("join", (room, ANN)),
                ("join", (room, ANNS_PHONE)),
                ("leave", (room, ANN)),
            ]
            assert await worker.broker.members(room) == {ANNS_PHONE.connection_id: ANNS_PHONE}
            assert await worker.broker.member_counts(room) == MemberCounts(1, 1)


# Whose members


@run_async
async def test_close_removes_the_workers_members_and_announces_those_that_were_announced(shared: Place) -> None:
    room, quiet = shared.room(), shared.room("quiet")
    async with shared.worker("b") as b:
        await asyncio.gather(b.broker.subscribe(room), b.broker.subscribe(quiet))
        await b.broker.add_member(room, BOB, announce=True)
        async with shared.worker("a") as a:
            await a.broker.add_member(room, ANN, announce=True)
            await a.broker.add_member(quiet, ANN, announce=False)
        await flushed(b, room, quiet)
        assert b.heard.told("leave", "departed") == [("leave", (room, ANN))]
        assert await b.broker.members(room) == {BOB.connection_id: BOB}
        assert await b.broker.members(quiet) == {}


@run_async
async def test_reap_removes_the_members_of_one_worker(shared: Place) -> None:
    room, quiet = shared.room(), shared.room("quiet")
    async with shared.worker("a") as a, shared.worker("b") as b, shared.worker("c") as c:
        await asyncio.gather(*[each.broker.subscribe(name) for each in (b, c) for name in (room, quiet)])
        await a.broker.add_member(room, ANN, announce=True)
        await a.broker.add_member(quiet, ANNS_PHONE, announce=False)
        await c.broker.add_member(room, BOB, announce=True)
        await b.broker.reap(a.id)
        for worker in (b, c):
            await flushed(worker, room, quiet)
            assert worker.heard.told("leave") == [("leave", (room, ANN))]
            assert await worker.broker.members(room) == {BOB.connection_id: BOB}
            assert await worker.broker.members(quiet) == {}
        assert len(b.heard.departed) == 2
        assert {each.room: each.info for each in b.heard.departed} == {room: ANN, quiet: ANNS_PHONE}
        assert c.heard.departed == []
        await b.broker.reap(a.id)
        assert b.heard.how_often("departed") == 1, "no member was left"


@run_async
async def test_of_many_that_reap_one_removes(shared: Place) -> None:
    room = shared.room()
    infos = [ClientInfo("user", f"c{n}") for n in range(20)]
    async with shared.worker("a") as a, shared.worker("b") as b, shared.worker("c") as c:
        await asyncio.gather(b.broker.subscribe(room), c.broker.subscribe(room))
        await asyncio.gather(*[a.broker.add_member(room, info, announce=True) for info in infos])
        await asyncio.gather(b.broker.reap(a.id), c.broker.reap(a.id), b.broker.reap(a.id), c.broker.reap(a.id))
        for worker in (b, c):
            await flushed(worker, room)
            left = [what[1].connection_id for _, what in worker.heard.told("leave")]
            assert sorted(left) == sorted(info.connection_id for info in infos), "each leave arrives once"
        departed = [each.info.connection_id for each in b.heard.departed + c.heard.departed]
        assert sorted(departed) == sorted(info.connection_id for info in infos), "each by one"
        assert await b.broker.members(room) == {}


@run_async
async def test_reaping_a_worker_without_members_or_unknown_is_harmless(place: Place) -> None:
    async with place.worker() as worker:
        await worker.broker.reap(WorkerId(f"{place.own}-unknown"))
        assert worker.heard.events == []


@run_async
async def test_a_member_that_moved_to_another_worker_stays_when_the_first_is_reaped(shared: Place) -> None:
    room = shared.room()
    async with shared.worker("a") as a, shared.worker("b") as b:
        await b.broker.subscribe(room)
        await a.broker.add_member(room, ANN, announce=False)
        await b.broker.add_member(room, ANN, announce=False)
        await b.broker.reap(a.id)
        assert await b.broker.members(room) == {ANN.connection_id: ANN}
        await flushed(b, room)
        assert b.heard.events == []
        await a.broker.reap(b.id)
        assert await b.broker.members(room) == {}


@run_async
async def test_of_several_removals_one_removes(shared: Place) -> None:
    room = shared.room()
    async with shared.worker("a") as a, shared.worker("b") as b:
        await a.broker.add_member(room, ANN, announce=False)
        removed = await asyncio.gather(
            *[each.broker.remove_member(room, client(ANN), announce=False) for each in (a, b, a, b)]
        )
        assert sorted(removed, key=str) == [0, None, None, None]


@run_async
async def test_of_members_removed_at_the_same_time_one_is_the_last(shared: Place) -> None:
    room = shared.room()
    crowd = [ClientInfo("u", f"c{number}") for number in range(20)]
    async with shared.worker("a") as a, shared.worker("b") as b:
        workers = [(a, b)[number % 2] for number in range(len(crowd))]
        for worker, info in zip(workers, crowd, strict=True):
            await worker.broker.add_member(room, info, announce=False)
        removals = [
            worker.broker.remove_member(room, client(info), announce=False)
            for worker, info in zip(workers, crowd, strict=True)
        ]
        assert sorted(await asyncio.gather(*removals)) == list(range(20))


@run_async
async def test_removing_only_ones_own_leaves_the_members_of_another_worker(shared: Place) -> None:
    room = shared.room()
    async with shared.worker("a") as a, shared.worker("b") as b:
        await b.broker.subscribe(room)
        await a.broker.add_member(room, ANN, announce=True)
        await b.broker.add_member(room, ANN, announce=True, quietly=True)
        assert await a.broker.remove_member(room, client(ANN), announce=True, mine=True) is None
        assert await b.broker.members(room) == {ANN.connection_id: ANN}
        assert await b.broker.remove_member(room, client(ANN), announce=True, mine=True) == 0
        await flushed(b, room)
        assert [kind for kind, _ in b.heard.told("join", "leave")] == ["join", "leave"]


@run_async
async def test_a_quiet_member_is_announced_only_where_it_was_absent(place: Place) -> None:
    room = place.room()
    async with place.worker() as worker:
        await worker.broker.subscribe(room)
        await worker.broker.add_member(room, ANN, announce=True, quietly=True)
        await worker.broker.add_member(room, ANN, announce=True, quietly=True)
        await worker.broker.add_member(room, BOB, announce=False, quietly=True)
        await flushed(worker, room)
        assert worker.heard.events == [("join", (room, ANN))]


@run_async
async def test_a_crowd_is_read_in_pages(place: Place) -> None:
    room = place.room()
    count = 2_500 if place.kind == "fakeredis" else 10_000  # which takes half a millisecond for each
    limit = count // 10
    crowd = {f"c{number:05}": ClientInfo(f"u{number}", f"c{number:05}") for number in range(count)}
    async with place.worker() as worker:
        await asyncio.gather(*[worker.broker.add_member(room, info, announce=False) for info in crowd.values()])
        seen: dict[ConnectionId, ClientInfo] = {}
        page = await worker.broker.members_page(room, limit=limit)
        pages = 1
        while True:
            assert len(page.members) < 2.4 * limit, "about as many as were asked for"
            seen |= page.members
            if not page.cursor:
                break
            page = await worker.broker.members_page(room, cursor=page.cursor, limit=limit)
            pages += 1
        assert seen == crowd
        assert 8 <= pages <= 18
        empty = await worker.broker.members_page(place.room("empty"))
        assert (empty.members, empty.cursor) == ({}, "")


@run_async
async def test_a_rate_is_shared_by_all_workers_and_separate_for_rooms_and_subjects(shared: Place) -> None:
    room, other = shared.room(), shared.room("other")
    rate = Rate(5, 3600.0)
    async with shared.worker("a") as a, shared.worker("b") as b:
        said = [await each.broker.allow(room, "user ann", rate) for each in (a, b, a, b, a, b, a)]
        assert said == [True] * 5 + [False] * 2
        assert await b.broker.allow(room, "user bob", rate)
        assert await b.broker.allow(other, "user ann", rate)


@run_async
async def test_what_a_rate_took_is_paid_off_with_time(place: Place) -> None:
    room, rate = place.room(), Rate(2, 0.05)
    async with place.worker() as worker:
        assert await worker.broker.allow(room, "all", rate)
        await eventually(lambda: worker.broker.allow(room, "all", rate))
        await eventually(lambda: worker.broker.allow(room, "all", rate))
