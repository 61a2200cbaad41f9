"""
What brokers forget, and what brokers in memory refuse to store.

A stream that was only read is not kept, and nothing acknowledged ends early. Reading and removing always work.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.broker.base import (
    PRIVATE,
    UNUSED_STREAM_S,
    ClientInfo,
    ConnectionId,
    Position,
    PublishRequest,
    RawPublication,
    Retention,
    Room,
    WorkerId,
)
from realtime.broker.local import LocalBroker
from realtime.broker.local_server import LocalBrokerServer, WorkerLink
from realtime.broker.memory import MemoryBroker
from realtime.broker.memory_state import MemoryState, StoredMember
from realtime.broker.streams import Full
from realtime.errors import BrokerFull, BrokerUnavailable
from realtime.timing.rate import Rate
from tests.realtime.broker.workers import KEPT, NOT_KEPT, Heard, Place, Worker
from tests.support.aio import eventually, run_async

ALL = 1000
A = WorkerId("a")
SMALL = 40_000  # bytes


# Streams that were never used


@run_async
async def test_reading_a_room_creates_no_stream(place: Place) -> None:
    room = place.room()
    async with place.worker() as worker:
        for reverse in (False, True):
            page = await worker.broker.history(room, retention=KEPT, limit=ALL, reverse=reverse)
            assert (list(page.publications), page.top) == ([], Position("", 0))
        await worker.broker.forget_history(room)
        assert await worker.broker.members(room) == {}
        assert (await worker.broker.member_counts(room)).clients == 0
        assert (await worker.broker.members_page(room)).members == {}
        assert await worker.broker.positions([room]) == {}, "there is none to be kept"


@run_async
async def test_a_position_taken_before_the_first_publication_finds_all_after_it(place: Place) -> None:
    room = place.room()
    async with place.worker() as worker:
        nothing = (await worker.broker.history(room, retention=KEPT)).top
        await worker.publish(room, b"1", b"2")
        page = await worker.broker.history(room, retention=KEPT, since=nothing, limit=ALL)
        assert [each.data for each in page.publications] == [b"1", b"2"]


@run_async
async def test_a_history_that_is_begun_has_a_position_as_any_other(place: Place) -> None:
    room = place.room()
    async with place.worker() as worker:
        top = (await worker.broker.history(room, retention=KEPT, create=True)).top
        assert top.epoch
        assert await worker.broker.position(room, retention=KEPT) == top
        assert await worker.publish(room, b"1") == [Position(top.epoch, 1)]


@pytest.fixture(params=["memory", "local"])
def in_memory(request: pytest.FixtureRequest) -> Place:
    return Place(request.param, "memory:" if request.param == "memory" else request.getfixturevalue("local_url"))


@run_async
async def test_a_stream_that_was_never_used_ends_with_its_last_subscriber(in_memory: Place) -> None:
    room = in_memory.room()
    async with in_memory.worker() as worker:
        await worker.broker.subscribe(room)
        top = await worker.broker.position(room, retention=KEPT)
        assert await worker.broker.positions([room]) == {room: top}
        await worker.broker.unsubscribe(room)
        assert await worker.broker.positions([room]) == {}
        await worker.broker.subscribe(room)
        assert await worker.broker.position(room, retention=KEPT) == top, "a returning client missed nothing"


@run_async
async def test_a_stream_ends_with_the_last_of_several_workers_also_when_that_is_killed(local_url: str) -> None:
    place = Place("local", local_url)
    room = place.room()
    async with place.worker("b") as b, contextlib.AsyncExitStack() as stack:
        a = await stack.enter_async_context(place.worker("a"))
        for each in (a, b):
            await each.broker.subscribe(room)
        top = await a.broker.position(room, retention=KEPT)
        await b.broker.unsubscribe(room)
        assert await b.broker.positions([room]) == {room: top}
        assert isinstance(a.broker, LocalBroker)
        assert a.broker._link is not None
        a.broker._closing = True  # it does not come again
        a.broker._link.transport.abort()

        async def is_gone() -> bool:
            return not await b.broker.positions([room])

        await eventually(is_gone)


@run_async
async def test_redis_stores_a_stream_that_was_never_used_for_minutes_and_a_used_one_for_weeks(
    redis_url: str,
) -> None:
    import redis.asyncio

    place = Place("redis", redis_url)
    looked, used = place.room("looked"), place.room("used")
    async with place.worker() as worker, redis.asyncio.Redis.from_url(redis_url) as client:
        keys = worker.broker._keys  # type: ignore[attr-defined]
        await worker.broker.position(looked, retention=KEPT)
        await worker.broker.position(used, retention=KEPT)
        await worker.publish(used, b"1")
        assert 0 < await client.pttl(keys.meta(looked)) <= UNUSED_STREAM_S * 1000
        assert await client.pttl(keys.meta(used)) > 29 * 86400_000
        await client.pexpire(keys.meta(looked), 60_000)
        await worker.broker.positions([looked])
        assert await client.pttl(keys.meta(looked)) > 60_000, "while a worker has members there it stays"


# Expiry without any call


def publication(size: int = 10) -> RawPublication:
    return RawPublication(b"x" * size, info=ClientInfo("user", "client"), tags={"a": "b"})


def test_history_goes_when_its_time_is_over_and_the_position_stays() -> None:
    state, kept = MemoryState(), Retention(10, ttl_s=60.0, meta_ttl_s=3600.0)
    for n in range(5):
        published, _ = state.publish(float(n), Room("r"), publication(), kept, None, 0)
    before = state.budget.used
    state.sweep(63.9)
    assert state.statistics()["kept"] == 5
    state.sweep(64.0)
    assert (state.statistics()["kept"], state.statistics()["streams"]) == (0, 1)
    assert state.budget.used < before / 4
    assert state.streams.positions(64.0, [Room("r")]) == {Room("r"): published.position}
    state.sweep(4 + 3600.0)
    assert (state.statistics()["streams"], state.budget.used) == (0, 0)


def test_a_stream_that_was_forgotten_never_comes_back_under_an_epoch_that_it_had() -> None:
    state, brief = MemoryState(), Retention(10, ttl_s=1.0, meta_ttl_s=1.0)
    epochs = []
    for n in range(50):
        published, _ = state.publish(10.0 * n, Room("r"), publication(), brief, None, 0)
        epochs.append(published.position.epoch)
        if n % 2:
            state.sweep(10.0 * n + 5)
    assert len(set(epochs)) == 50
    other = MemoryState().publish(0.0, Room("r"), publication(), brief, None, 0)[0].position.epoch
    assert other not in epochs, "another life has other epochs"


# What is too much


@contextlib.asynccontextmanager
async def full_broker(kind: str, limit: int, tmp_path: object) -> AsyncIterator[Worker]:
    """Have a worker whose broker keeps no more than so many bytes."""
    import asyncio

    if kind == "memory":
        worker = Worker(A, MemoryBroker(A, limit=limit), Heard())
        await worker.broker.start(worker.heard)
        yield worker
        await worker.broker.close()
        return
    server = LocalBrokerServer(limit)
    path = f"{tmp_path}/b.sock"
    listener = await asyncio.get_running_loop().create_unix_server(lambda: WorkerLink(server), path)
    worker = Worker(A, LocalBroker(path, A), Heard())
    await worker.broker.start(worker.heard)
    yield worker
    await worker.broker.close()
    listener.close()


async def fill(worker: Worker, room: str = "big") -> int:
    """Publish into one room until there is no memory for more; return how many were acknowledged."""
    for n in range(10_000):
        try:
            await worker.publish(Room(room), b"%0500d" % n, retention=Retention(100_000))
        except BrokerFull:
            return n
    raise AssertionError("it is never full")


@pytest.mark.parametrize("kind", ["memory", "local"])
def test_a_full_broker_refuses_what_would_be_more_and_loses_nothing(kind: str, tmp_path: object) -> None:
    @run_async
    async def run() -> None:
        async with full_broker(kind, SMALL, tmp_path) as worker:
            broker, room = worker.broker, Room("big")
            await broker.subscribe(room)
            await broker.add_member(room, ClientInfo("u", "c"), announce=True)
            count = await fill(worker)
            assert count > 10
            for refused in (
                broker.publish(PublishRequest(room, b"x" * 500, retention=Retention(100_000))),
                broker.publish(PublishRequest(Room("other"), b"x" * 500, retention=KEPT)),
                broker.publish(PublishRequest(room, b"x", retention=NOT_KEPT, idempotency_key="k" * 500)),
                broker.add_member(room, ClientInfo("u" * 500, "d"), announce=True),
                broker.allow(room, "u" * 500, Rate(5, 1.0)),
            ):
                with pytest.raises(BrokerFull, match="--broker-memory"):
                    await refused
            assert issubclass(BrokerFull, BrokerUnavailable), "temporary: the caller may try again"
            # Reading goes on, also for new members, and so do publications that are not stored.
            page = await broker.history(room, retention=Retention(100_000), limit=100_000)
            assert [each.data for each in page.publications] == [b"%0500d" % n for n in range(count)]
            assert (await broker.position(Room("new"), retention=KEPT)).offset == 0
            await broker.subscribe(Room("new"))
            await broker.publish(PublishRequest(room, b"live", retention=NOT_KEPT))
            await worker.heard.until(
                lambda: [each.data for each in worker.heard.publications.get(room, ())][-1:] == [b"live"]
            )
            # And leaving, with what workers note of that.
            assert await broker.remove_member(room, ConnectionId("c"), announce=True) == 0
            await worker.heard.until(lambda: worker.heard.how_often("leave"))
            note = ClientInfo("u" * 500, "e")
            await broker.add_member(Room(f"{PRIVATE}l:big"), note, announce=False, lasting=True)
            # Members from before a lost link are registered again.
            await broker.add_member(room, ClientInfo("u" * 500, "f"), announce=True, quietly=True)
            assert broker.statistics()["refused"] == 6
            await broker.forget_history(room)
            await worker.publish(room, b"x" * 500)

    run()


@pytest.mark.parametrize("kind", ["memory", "local"])
def test_a_room_whose_history_has_its_size_goes_on_in_a_full_broker(kind: str, tmp_path: object) -> None:
    @run_async
    async def run() -> None:
        async with full_broker(kind, SMALL, tmp_path) as worker:
            steady, three = Room("steady"), Retention(3)
            await worker.publish(steady, *[b"x" * 500] * 3, retention=three)
            await fill(worker)
            tops = await worker.publish(steady, *[b"x" * 500] * 20, retention=three)
            assert tops[-1].offset == 23

    run()


@run_async
async def test_workers_learn_when_the_broker_is_full_and_when_it_is_not(tmp_path: object) -> None:
    import asyncio

    server = LocalBrokerServer(SMALL)
    listener = await asyncio.get_running_loop().create_unix_server(lambda: WorkerLink(server), f"{tmp_path}/b.sock")
    worker = Worker(A, LocalBroker(f"{tmp_path}/b.sock", A), Heard())
    await worker.broker.start(worker.heard)
    await fill(worker)
    await eventually(lambda: is_so(bool(worker.broker.statistics()["refuses"])))
    late = Worker(WorkerId("late"), LocalBroker(f"{tmp_path}/b.sock", WorkerId("late")), Heard())
    await late.broker.start(late.heard)
    await eventually(lambda: is_so(bool(late.broker.statistics()["refuses"])))
    await worker.broker.forget_history(Room("big"))
    server._send_state()  # as it does every few seconds
    await eventually(lambda: is_so(not worker.broker.statistics()["refuses"]))
    await worker.broker.close()
    await late.broker.close()
    listener.close()


async def is_so(it: bool) -> bool:
    return it


def test_positions_without_publications_are_forgotten_for_memory_the_oldest_first() -> None:
    state, brief = MemoryState(100_000), Retention(10, ttl_s=1.0)
    for n in range(40):
        state.publish(n / 100, Room(f"old {n}"), publication(100), brief, None, 0)
    state.sweep(10.0)
    assert (state.statistics()["streams"], state.statistics()["kept"]) == (40, 0)
    first, last = state.streams.positions(10.0, [Room("old 0"), Room("old 39")]).values()
    with contextlib.suppress(Full):
        for n in range(1000):
            state.publish(10.0 + n, Room("big"), publication(500), Retention(100_000), None, 0)
    assert state.statistics()["refused"] == 1
    assert not state.streams.positions(11.0, [Room("old 0")])
    state.streams.forget_history(Room("big"))
    again = state.streams.position(12.0, Room("old 0"), KEPT)
    assert again.epoch != first.epoch, "a client at that position learns that it may have missed something"
    assert last.offset == 1


ROOMS = st.sampled_from([Room("a"), Room("b"), Room("ö" * 20), Room(f"{PRIVATE}l:a")])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), ROOMS, st.integers(0, 3000), st.sampled_from([0, 1, 3, 1000])),
        st.tuples(st.just("key"), ROOMS, st.sampled_from(["k", "ö", "long" * 50]), st.just(0)),
        st.tuples(st.just("join"), ROOMS, st.integers(0, 5), st.booleans()),
        st.tuples(st.just("leave"), ROOMS, st.integers(0, 5), st.just(0)),
        st.tuples(st.just("allow"), ROOMS, st.integers(0, 5), st.just(0)),
        st.tuples(st.just("position"), ROOMS, st.just(0), st.just(0)),
        st.tuples(st.just("forget"), ROOMS, st.just(0), st.just(0)),
        st.tuples(st.just("unwatched"), ROOMS, st.just(0), st.just(0)),
        st.tuples(st.just("time"), st.just(Room("")), st.integers(1, 400), st.just(0)),
        st.tuples(st.just("reap"), st.just(Room("")), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_whatever_happens_the_bytes_are_bounded_and_all_given_back(
    steps: list[tuple[str, Room, object, object]],
) -> None:
    state, now = MemoryState(SMALL), 0.0
    acknowledged: dict[Room, int] = {}
    private = 0
    for step, room, one, two in steps:
        before = state.budget.used
        with contextlib.suppress(Full):
            if step == "publish":
                assert isinstance(one, int)
                assert isinstance(two, int)
                kept = Retention(two, ttl_s=100.0, meta_ttl_s=1000.0)
                published, _ = state.publish(now, room, publication(one), kept, None, 0)
                acknowledged[room] = published.position.offset
            elif step == "key":
                state.publish(now, room, publication(), Retention(), str(one), 200.0)
            elif step == "join":
                info = ClientInfo("u", f"c{one}", b"{}" if two else None)
                state.admit_member(now, room, info)
                state.add_member(room, StoredMember(A, info, True, False))
            elif step == "leave":
                state.remove_member(room, ConnectionId(f"c{one}"))
            elif step == "allow":
                state.allow(now, room, f"u{one}", Rate(5, 1.0))
            elif step == "position":
                state.streams.position(now, room, KEPT)
            elif step == "forget":
                state.streams.forget_history(room)
            elif step == "unwatched":
                state.streams.unwatched(room)
            elif step == "time":
                assert isinstance(one, int)
                now += one
                state.sweep(now)
            else:
                state.reap(A, None)
        if room.startswith(PRIVATE):
            private += max(0, state.budget.used - before)
        assert state.budget.used <= SMALL + private
        assert state.budget.used >= 0
    state.reap(A, None)
    state.sweep(now + 40 * 86400)
    assert state.budget.used == 0
    assert not any(count for name, count in state.statistics().items() if name != "refused")
