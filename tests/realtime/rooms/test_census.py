"""
Who is in a room, for many who ask: one question at a time, an answer that is never older than the question (but in
large rooms, by a second), and one encoding.
"""

from __future__ import annotations

import asyncio

import pytest

from realtime.broker.base import ClientInfo, ConnectionId, MemberCounts, Room
from realtime.errors import BrokerUnavailable
from realtime.rooms.census import Census, Censuses
from tests.support.aio import run_async

ROOM = Room("room")


def people(*names: str) -> dict[ConnectionId, ClientInfo]:
    return {ConnectionId(name): ClientInfo(f"user {name[0]}", name) for name in names}


class Asked:
    """A broker that answers when the test says so, with who is there when it was asked."""

    def __init__(self) -> None:
        self.there = people("a")
        self.questions: list[asyncio.Event] = []
        self.counted = 0
        self.away = False

    async def members(self, room: Room) -> dict[ConnectionId, ClientInfo]:
        found, answered = dict(self.there), asyncio.Event()
        self.questions.append(answered)
        await answered.wait()
        if self.away:
            raise BrokerUnavailable("nowhere", "it is away")
        return found

    async def member_counts(self, room: Room) -> MemberCounts:
        self.counted += 1
        return Census(self.there).counts

    async def until(self, count: int) -> asyncio.Event:
        """Wait for so many questions; return what answers the last."""
        while len(self.questions) < count:  # noqa: ASYNC110 - some turns from now
            await asyncio.sleep(0)
        return self.questions[count - 1]


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@run_async
async def test_a_hundred_who_ask_at_once_are_two_questions_and_nobody_gets_an_answer_older_than_its_own() -> None:
    broker = Asked()
    censuses = Censuses(broker)
    first = asyncio.create_task(censuses.take(ROOM))
    answered = await broker.until(1)
    broker.there = people("a", "b")  # after the first was asked, and before the others ask
    others = [asyncio.create_task(censuses.take(ROOM)) for _ in range(100)]
    await turns()
    assert len(broker.questions) == 1, "one at a time"
    answered.set()
    assert set((await first).members) == {"a"}
    (await broker.until(2)).set()
    found = await asyncio.gather(*others)
    assert {id(each) for each in found} == {id(found[0])}
    assert set(found[0].members) == {"a", "b"}
    assert len(broker.questions) == 2


@run_async
async def test_who_asks_while_the_shared_question_is_on_its_way_is_answered_by_the_one_after() -> None:
    broker = Asked()
    censuses = Censuses(broker)
    first, second = asyncio.create_task(censuses.take(ROOM)), asyncio.create_task(censuses.take(ROOM))
    (await broker.until(1)).set()
    answered = await broker.until(2)
    broker.there = people("a", "late")
    third = asyncio.create_task(censuses.take(ROOM))
    await turns()
    answered.set()
    assert set((await second).members) == {"a"}
    (await broker.until(3)).set()
    assert set((await third).members) == {"a", "late"}
    await first


@run_async
async def test_who_gives_up_or_fails_leaves_the_others_to_ask_themselves() -> None:
    broker = Asked()
    censuses = Censuses(broker)
    first = asyncio.create_task(censuses.take(ROOM))
    answered = await broker.until(1)
    leader, follower = asyncio.create_task(censuses.take(ROOM)), asyncio.create_task(censuses.take(ROOM))
    await turns()
    first.cancel()
    leader.cancel()
    await asyncio.gather(first, leader, return_exceptions=True)
    answered.set()
    failing = await broker.until(2)
    last = asyncio.create_task(censuses.take(ROOM))
    await turns()
    broker.away = True
    failing.set()
    with pytest.raises(BrokerUnavailable):
        await follower
    again = await broker.until(3)
    broker.away = False
    again.set()
    assert set((await last).members) == {"a"}
    assert not censuses._underway
    assert not censuses._next


@run_async
async def test_a_large_room_is_asked_for_once_in_a_while_and_a_small_one_each_time() -> None:
    broker = Asked()
    censuses = Censuses(broker, large=2, fresh_s=0.05)
    for count in (1, 2):
        small = asyncio.create_task(censuses.take(ROOM))
        (await broker.until(count)).set()
        await small
    broker.there = people("a", "b", "bb")
    large = asyncio.create_task(censuses.take(ROOM))
    (await broker.until(3)).set()
    census = await large
    assert await censuses.take(ROOM) is census
    assert await censuses.counts(ROOM) == MemberCounts(3, 2)
    assert broker.counted == 0
    anew = asyncio.create_task(censuses.take(ROOM, anew=True))
    (await broker.until(4)).set()
    await anew
    while censuses._fresh:  # noqa: ASYNC110 - its time is short, and what is kept by room goes with it
        await asyncio.sleep(0.01)
    assert await censuses.counts(ROOM) == await censuses.counts(ROOM) == MemberCounts(3, 2)
    assert broker.counted == 1
    while censuses._counts:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
