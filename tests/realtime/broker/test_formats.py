"""
Two releases at one broker: they share it if they understand each other, else the second one does not start and says
why. What one release sends and the other cannot read is ignored, with one line.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec
import pytest

import realtime.broker.peers
import realtime.broker.redis
from realtime.broker import formats
from realtime.broker.base import ClientInfo
from realtime.broker.formats import BEFORE, FORMAT, LOCAL, OLDEST, REDIS, Spoken, newest, pack, understand, unpack
from realtime.broker.keys import HOME, tag_of
from realtime.broker.peers import ADVICE, ADVICE_STORED, NOT_UNDERSTOOD
from realtime.broker.redis import RedisBroker
from realtime.broker.unreadable import IGNORED
from realtime.errors import IncompatibleFormat
from tests.realtime.broker.conftest import LocalProcess, place_of
from tests.realtime.broker.workers import KEPT, Place, Worker
from tests.support.aio import eventually, run_async

FOREIGN = Spoken(FORMAT + 6, FORMAT + 6, "9.0.0")
"""A release far ahead."""
NEXT = Spoken(FORMAT + 1, FORMAT, "1.0.0")
"""The release after this one, with a new format: it still speaks ours."""


@pytest.fixture(params=["fakeredis", "redis", "cluster"])
def redis_place(request: pytest.FixtureRequest) -> Place:
    return place_of(request.param, request)


def worker_of(place: Place, name: str, spoken: Spoken, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """Return a worker of another release, not started."""
    with monkeypatch.context() as patch:
        patch.setattr(formats, "REDIS", spoken)
        return place.make(name)


def redis_of(worker: Worker) -> RedisBroker:
    assert isinstance(worker.broker, RedisBroker)
    return worker.broker


async def stored(worker: Worker) -> dict[bytes, bytes]:
    """Return the hash of announcements."""
    broker = redis_of(worker)
    words = await broker._commands.request(HOME, "HGETALL", broker._keys.formats)
    return dict(zip(words[::2], words[1::2], strict=True))


# The rule


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        ((1, 1), (1, 1), True),
        ((1, 1), (2, 1), True),
        ((2, 1), (3, 2), True),
        ((2, 1), (9, 2), True),  # a later release may go on speaking an old format
        ((1, 1), (3, 2), False),
        ((2, 2), (1, 1), False),
    ],
)
def test_releases_understand_each_other_if_neither_is_too_old_for_the_other(
    one: tuple[int, int], other: tuple[int, int], agree: bool
) -> None:
    first, second = Spoken(*one, "x"), Spoken(*other, "y")
    assert understand(first, second) is understand(second, first) is agree


def test_this_release_speaks_the_format_before_its_own_and_that_of_0_1() -> None:
    assert OLDEST == 1 if FORMAT == 1 else OLDEST < FORMAT
    assert understand(REDIS, BEFORE)


def test_an_announcement_may_grow_and_what_is_none_is_understood_by_no_release() -> None:
    assert unpack(pack(REDIS)) == REDIS
    assert unpack(b"3 2 1.0.0 and more words") == Spoken(3, 2, "1.0.0")
    assert unpack(None) == BEFORE
    for text in (b"", b"1", b"x y z", b"1 1", b"\xff \xff \xff"):
        assert not understand(unpack(text), REDIS)


def test_of_two_releases_of_one_format_the_one_that_reads_less_counts_as_the_newest() -> None:
    assert newest(Spoken(2, 1, "a"), Spoken(2, 2, "b")).release == "b"
    assert newest(Spoken(3, 1, "a"), Spoken(2, 2, "b")).release == "a"


# The start


@run_async
async def test_a_worker_that_is_not_understood_does_not_start_and_leaves_nothing(
    redis_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with redis_place.worker("a") as a:
        newcomer = worker_of(redis_place, "b", FOREIGN, monkeypatch)
        with pytest.raises(IncompatibleFormat) as caught:
            await newcomer.broker.start(newcomer.heard)
        await newcomer.broker.close()
        assert str(caught.value) == (
            f"{redis_of(a)._nodes.shown}, prefix {redis_place.own}: worker {a.id} of {REDIS} does not understand "
            f"this release 9.0.0 (format {FOREIGN.format}): {ADVICE}"
        )
        assert await a.broker.workers() == [a.id]
        assert (await stored(a)).keys() == {a.id.encode(), b"stored", b"announced"}


@run_async
async def test_what_another_release_stored_is_not_touched_when_its_workers_are_gone(
    redis_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = worker_of(redis_place, "a", FOREIGN, monkeypatch)
    await before.broker.start(before.heard)
    await before.broker.close()
    after = redis_place.make("b")
    with pytest.raises(IncompatibleFormat) as caught:
        await after.broker.start(after.heard)
    await after.broker.close()
    assert f"what release 9.0.0 (format {FOREIGN.format}) stored there does not understand" in str(caught.value)
    assert str(caught.value).endswith(ADVICE_STORED)


@run_async
async def test_the_next_release_runs_beside_this_one_and_this_one_may_come_back(
    redis_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = redis_place.room()
    newer = worker_of(redis_place, "newer", NEXT, monkeypatch)
    async with redis_place.worker("a") as a:
        await newer.broker.start(newer.heard)
        await a.broker.subscribe(room)
        await newer.publish(room, b"1")
        await a.heard.count(room, 1)
        assert (await stored(a))[b"stored"] == pack(NEXT)
    async with redis_place.worker("b") as b:
        assert set(await b.broker.workers()) >= {b.id, newer.id}
        assert (await stored(b))[b"stored"] == pack(NEXT), "the newest that was ever in use"
    await newer.broker.close()


@pytest.mark.parametrize("redis_place", ["redis"], indirect=True)
@run_async
async def test_two_that_start_at_one_moment_do_not_both_serve(
    redis_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = redis_place.make("a"), worker_of(redis_place, "b", FOREIGN, monkeypatch)
    starts = [each.broker.start(each.heard) for each in (ours, theirs)]
    results = await asyncio.gather(*starts, return_exceptions=True)
    assert any(isinstance(each, IncompatibleFormat) for each in results)
    for each in (ours, theirs):
        await each.broker.close()


@pytest.mark.parametrize("redis_place", ["fakeredis", "redis"], indirect=True)
@run_async
async def test_an_announcement_without_a_lease_says_nothing_and_is_removed(
    redis_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realtime.broker.redis, "ROUND_S", 0.02)
    monkeypatch.setattr(realtime.broker.peers, "LOOK_ROUNDS", 2)
    async with redis_place.worker("a") as a:
        broker = redis_of(a)
        await broker._commands.request(HOME, "HSET", broker._keys.formats, "gone-0-1", pack(FOREIGN))
        async with redis_place.worker("b") as b:

            async def is_removed() -> bool:
                return (await stored(a)).keys() == {a.id.encode(), b.id.encode(), b"stored", b"announced"}

            await eventually(is_removed)


@pytest.mark.parametrize("redis_place", ["fakeredis", "redis"], indirect=True)
@run_async
async def test_an_announcement_that_was_removed_is_made_again(
    redis_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was stopped for so long that it counted as gone."""
    monkeypatch.setattr(realtime.broker.redis, "ROUND_S", 0.02)
    async with redis_place.worker("a") as a:
        broker = redis_of(a)
        await broker._commands.request(HOME, "HDEL", broker._keys.formats, a.id)

        async def is_back() -> bool:
            return (await stored(a)).get(a.id.encode()) == pack(REDIS)

        await eventually(is_back)


# While it runs


@run_async
async def test_a_running_worker_logs_a_newcomer_that_it_does_not_understand_once(
    redis_place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(realtime.broker.redis, "ROUND_S", 0.02)

    async def announced(worker: Worker, name: str, spoken: Spoken) -> None:
        """Have a worker of another release, which looks at nothing."""
        broker = redis_of(worker)
        await broker._commands.request(HOME, "ZADD", broker._keys.leases, 4_000_000_000_000, name)
        await broker._commands.request(HOME, "HSET", broker._keys.formats, name, pack(spoken))
        await broker._commands.request(HOME, "HINCRBY", broker._keys.formats, "announced", 1)

    def logged() -> list[str]:
        return [each for each in caplog.messages if each.startswith(NOT_UNDERSTOOD)]

    async def has_logged(count: int) -> bool:
        return len(logged()) == count

    with caplog.at_level(logging.ERROR, "realtime.broker.redis"):
        async with redis_place.worker("a") as a:
            await announced(a, "n-0-1", FOREIGN)
            await eventually(lambda: has_logged(1))
            await announced(a, "n-0-2", NEXT)
            await announced(a, "n-0-3", FOREIGN)
            await eventually(lambda: has_logged(2))
            assert ["n-0-1" in logged()[0], "n-0-3" in logged()[1]] == [True, True]
            assert a.heard.how_often("link lost") == 0


# What cannot be read


@run_async
async def test_a_message_that_cannot_be_read_is_ignored_with_one_line(
    redis_place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    room = redis_place.room()
    async with redis_place.worker("a") as a:
        broker = redis_of(a)
        await broker.subscribe(room)
        for text in (b"z:a newer kind", b"p:e:1:\xc1", b"p:no", b"j:\xc1", b"l:1", b"", b"p:e:x:y"):
            await broker._commands.request(tag_of(room), broker._nodes.publishing, broker._keys.channel(room), text)
        await a.publish(room, b"1")
        [heard] = await a.heard.count(room, 1)
        assert heard.data == b"1"
        assert a.heard.told("link lost", "join", "leave") == []
        assert broker.statistics()["unreadable"] == 7
    lines = [each for each in caplog.messages if each.startswith(IGNORED)]
    assert lines == [f'{IGNORED} kind="message in a room" reason="it begins with b\'z:\'"']


@pytest.mark.parametrize("redis_place", ["fakeredis", "redis"], indirect=True)
@run_async
async def test_a_stored_publication_that_cannot_be_read_is_left_out(redis_place: Place) -> None:
    room = redis_place.room()
    async with redis_place.worker("a") as a:
        broker = redis_of(a)
        first, _, third = await a.publish(room, b"1", b"2", b"3")
        await broker._commands.request(tag_of(room), "DEL", broker._keys.stream(room))
        for offset, payload in ((2, b"\xc1"), (3, msgspec.msgpack.encode([b"3", None, None, 0, "", "a later field"]))):
            await broker._commands.request(tag_of(room), "XADD", broker._keys.stream(room), f"{offset}-0", "p", payload)
        page = await broker.history(room, retention=KEPT, since=first, limit=10)
        assert [(each.offset, each.data) for each in page.publications] == [(third.offset, b"3")]
        assert page.top == third


@pytest.mark.parametrize("redis_place", ["redis"], indirect=True)
@run_async
async def test_members_of_a_later_release_are_reaped_although_their_entries_have_more_fields(
    redis_place: Place,
) -> None:
    room, info = redis_place.room(), ClientInfo("ann", "c1")
    async with redis_place.worker("a") as a:
        broker = redis_of(a)
        async with redis_place.worker("b") as b:
            entry = msgspec.msgpack.encode([room, info.connection_id, False, "a later field"])
            await broker._commands.request(HOME, "SADD", broker._keys.owned(b.id), entry)
            value = f"{b.id} 1 ".encode() + msgspec.msgpack.encode(["ann", "c1", None, None, "a later field"])
            await broker._commands.request(tag_of(room), "HSET", broker._keys.members(room), "c1", value)
            assert await a.broker.members(room) == {"c1": info}
            await a.broker.reap(b.id)
            assert await a.broker.members(room) == {}
        assert [each.info for each in a.heard.departed] == [info]


# The local broker


@run_async
async def test_a_worker_does_not_use_the_local_broker_of_another_release(
    local: LocalProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "LOCAL", Spoken(LOCAL.format + 1, LOCAL.format + 1, "1.0.0"))
    worker = Place("local", local.url).make("a")
    with pytest.raises(IncompatibleFormat) as caught:
        await worker.broker.start(worker.heard)
    assert str(caught.value) == (
        f"the local broker at unix:{local.path}: {LOCAL} does not understand "
        f"release 1.0.0 (format {LOCAL.format + 1}): stop the server and start it again, for a reload leaves the local "
        "broker as it is"
    )
