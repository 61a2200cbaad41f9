"""
What a returning client missed: never "recovered" on a doubt, nothing twice, nothing left out.

First the rules alone, which are pure; then whole lives of a client at a hub, drawn at random: it leaves and returns at
any moment, also while publications arrive and the stream is read. Its ledger has to be the stream.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.broker.base import NOT_KEPT, History, Position, PublishRequest, RawPublication, Room
from realtime.rooms.hub import Hub
from realtime.rooms.pending import Insufficient
from realtime.rooms.recovery import Gap, Replay, merge, replay
from tests.support.aio import run_async
from tests.support.hub_client import KEPT, ROOM, HubClient, hub_of, say
from tests.support.lagging_broker import LaggingBroker
from tests.support.one_worker import until

EPOCH = "e"


def publications(*offsets: int, epoch: str = EPOCH) -> list[RawPublication]:
    return [RawPublication(b"%d" % offset, offset, epoch) for offset in offsets]


def page(*offsets: int, top: int, epoch: str = EPOCH) -> History:
    return History(publications(*offsets), Position(epoch, top))


# The rules


@pytest.mark.parametrize(
    ("since", "read", "missed"),
    [
        (Position("e", 3), page(4, 5, top=5), [4, 5]),
        (Position("e", 0), page(1, 2, top=2), [1, 2]),
        (Position("", 0), page(1, 2, top=2), [1, 2]),
        (Position("", 0), page(top=0), []),
        (Position("e", 5), page(top=5), []),
        (Position("e", 3), page(5, top=5), None),
        (Position("e", 3), page(top=5), None),
        (Position("e", 3), page(4, top=5), None),
        (Position("e", 3), page(4, 6, top=5), None),
        (Position("e", 3), page(4, 4, top=5), None),
        (Position("e", 3), page(5, 4, top=5), None),
        (Position("e", 3), page(3, 4, 5, top=5), None),
        (Position("e", 6), page(top=5), None),
        (Position("e", 6), page(6, 7, top=5), None),
        (Position("x", 3), page(4, 5, top=5), None),
        (Position("x", 5), page(top=5), None),
        (Position("_", 0), page(top=0), None),
        (Position("e", 3), page(4, 5, 6, 7, top=5), [4, 5]),
        (Position("e", 2**53 - 1), page(top=5), None),
        (Position("e", 0), page(top=2**53 - 1), None),
    ],
)
def test_a_page_proves_that_nothing_is_missing_or_it_does_not(
    since: Position, read: History, missed: list[int] | None
) -> None:
    found = replay(since, read)
    assert found == (
        Replay(False) if missed is None else Replay(True, publications(*missed)) if missed else Replay(True)
    )


@pytest.mark.parametrize(
    ("top", "read", "arrived", "offsets"),
    [
        (5, [4, 5], [], [4, 5]),
        (5, [4, 5], [6, 7], [4, 5, 6, 7]),
        (5, [4, 5], [4, 5, 6], [4, 5, 6]),
        (5, [4, 5], [6, 6, 7, 6], [4, 5, 6, 7]),
        (5, [], [7, 6], [6, 7]),
        (5, [], [1, 2, 3], []),
        (0, [], [1], [1]),
    ],
)
def test_what_arrived_goes_on_where_what_was_read_ends(
    top: int, read: list[int], arrived: list[int], offsets: list[int]
) -> None:
    merged = merge(Position(EPOCH, top), publications(*read), publications(*arrived))
    assert [each.offset for each in merged.publications] == offsets
    assert merged.position == Position(EPOCH, max([top, *offsets]))


@pytest.mark.parametrize(
    ("arrived", "epoch", "after", "found"),
    [([7], EPOCH, 5, 7), ([6, 8], EPOCH, 6, 8), ([9, 6], EPOCH, 6, 9), ([6], "another", 5, 6), ([3], "another", 5, 3)],
)
def test_a_hole_is_never_merged_over(arrived: list[int], epoch: str, after: int, found: int) -> None:
    with pytest.raises(Gap, match=f"offset {found} follows {after}") as gap:
        merge(Position(EPOCH, 5), publications(4, 5), publications(*arrived, epoch=epoch))
    assert (gap.value.after, gap.value.found) == (after, found)


@given(
    st.integers(0, 30),
    st.integers(0, 30),
    st.integers(1, 30),
    st.lists(st.integers(1, 40), max_size=20),
)
def test_recovered_is_said_exactly_when_all_of_it_is_there(
    since: int, top: int, kept: int, arrived: Sequence[int]
) -> None:
    stream = range(max(1, top - kept + 1), top + 1)
    found = replay(Position(EPOCH, since), page(*[offset for offset in stream if offset > since], top=top))
    assert found.recovered is (since <= top and all(offset in stream for offset in range(since + 1, top + 1)))
    if not found.recovered:
        return
    try:
        merged = merge(Position(EPOCH, top), found.publications, publications(*arrived))
    except Gap:
        later = {offset for offset in arrived if offset > top}
        assert later != set(range(top + 1, top + 1 + len(later)))
    else:
        told = [each.offset for each in merged.publications]
        assert told == list(range(since + 1, since + 1 + len(told))), "each once, in order, from its place on"
        assert merged.position.offset == max([top, *arrived])


# At the door


@pytest.mark.parametrize("returns", [False, True])
@pytest.mark.parametrize("reason", ["the link was lost", "a hole showed"])
@run_async
async def test_what_is_read_to_fill_a_hole_is_also_theirs_who_stand_at_the_door(returns: bool, reason: str) -> None:
    broker = LaggingBroker()
    async with hub_of(broker) as hub:
        member, client = HubClient(hub, "member"), HubClient(hub, "client")
        await member.enter()
        if returns:
            await client.enter()
            client.leave()
        await broker.publish(PublishRequest(ROOM, b"1", retention=KEPT.retention))
        entry = await client.ask()
        if reason == "the link was lost":
            broker.lose_link()
            await broker.publish_unheard(ROOM, b"2", b"3", retention=KEPT.retention)
            broker.restore_link()
        else:
            await broker.publish_unheard(ROOM, b"2", retention=KEPT.retention)
            broker.listener.on_gap([ROOM])
        top = (await broker.history(ROOM, retention=KEPT.retention)).top
        await until(lambda: member.position == top)
        joined = client.activate(entry)
        assert client.position == member.position
        assert joined.recovered is returns
        assert client.offsets == (member.offsets if returns else [])
        await broker.publish(PublishRequest(ROOM, b"the next", retention=KEPT.retention))
        await until(lambda: member.offsets[-1:] == client.offsets[-1:])


@run_async
async def test_a_publication_that_is_not_kept_spoils_no_entry() -> None:
    async with hub_of(LaggingBroker()) as hub:
        member, client = HubClient(hub, "member"), HubClient(hub, "client")
        await member.enter()
        await say(hub, b"1")
        entry = await client.ask()
        await say(hub, b"not kept", retention=NOT_KEPT)
        await until(lambda: member.events[-1:] == ["0:not kept"])
        client.activate(entry)
        await say(hub, b"2")
        await until(lambda: client.events == ["2:2"] == member.events[-1:])


@run_async
async def test_the_first_of_a_room_asks_once_where_its_stream_stands() -> None:
    broker = LaggingBroker()
    async with hub_of(broker) as hub:
        await broker.publish(PublishRequest(ROOM, b"1", retention=KEPT.retention))
        before = len(broker.calls)
        first, second = HubClient(hub, "first"), HubClient(hub, "second")
        await first.enter()
        assert broker.calls[before:] == ["subscribe", "position"]
        await second.enter()
        assert broker.calls[before:] == ["subscribe", "position", "position"]
        assert first.position == second.position == (await broker.history(ROOM, retention=KEPT.retention)).top


# Whole lives


class Traveller(HubClient):
    """A client that comes and goes, always with its position; where it is refused or put out, it comes again."""

    def __init__(self, hub: Hub, name: str) -> None:
        super().__init__(hub, name)
        self.unrecovered = 0
        self.retries = 0
        self.wants_in = self.is_in = False
        self.task: asyncio.Task[None] | None = None

    async def travel(self) -> None:
        while self.wants_in and not self.is_in:
            entry = await self.ask()
            if not self.wants_in:
                self.hub.cancel(entry)
                return
            since = self.position
            try:
                joined = self.activate(entry)
            except Insufficient:
                self.hub.cancel(entry)
                self.retries += 1
                continue
            self.is_in = True
            self.unrecovered += since is not None and not joined.recovered

    def insufficient(self, room: Room) -> None:
        super().insufficient(room)
        self.is_in = False
        self.come()

    def come(self) -> None:
        self.wants_in = True
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self.travel())

    def go(self) -> None:
        self.wants_in = False
        assert self.leave() is self.is_in
        self.is_in = False


@pytest.mark.parametrize("seed", range(40))
@run_async
async def test_whenever_clients_come_and_go_each_ledger_is_the_stream(seed: int) -> None:
    chance = random.Random(seed)
    broker = LaggingBroker()
    broker.lag = lambda: chance.choice((0, 0, 1, 2, 5))
    loses = seed % 2
    top = 0
    async with hub_of(broker) as hub:
        clients = [Traveller(hub, f"c{n}") for n in range(5)]
        for client in clients:
            client.come()
            await asyncio.gather(client.task)
        for _ in range(80):
            act = chance.random()
            client = chance.choice(clients)
            if act < 0.45 and top < 95:
                top += 1
                unheard = loses and chance.random() < 0.2
                if unheard:
                    await broker.publish_unheard(ROOM, b"%d" % top, retention=KEPT.retention)
                else:
                    await say(hub, b"%d" % top)
            elif act < 0.65:
                client.go()
            elif act < 0.85:
                client.come()
            for _ in range(chance.choice((0, 0, 1, 3))):
                await asyncio.sleep(0)
        for client in clients:
            client.come()
        top += 1
        await broker.publish(PublishRequest(ROOM, b"the last", retention=KEPT.retention))
        await until(lambda: all(client.position and client.position.offset == top for client in clients))
        for client in clients:
            assert client.offsets == list(range(1, top + 1)), client.retries
            assert client.unrecovered == 0
            assert client.put_out == []


class _Broken(HubClient):
    """A member that cannot be written to: there is no such, but for a bug."""

    def write(self, data: bytes) -> None:
        raise RuntimeError("a bug")


@run_async
async def test_a_room_that_cannot_be_delivered_stops_no_other_and_its_members_are_told() -> None:
    async with hub_of(LaggingBroker()) as hub:
        broken, whole = _Broken(hub, "broken"), HubClient(hub, "whole")
        broken.activate(await broken.ask(watches=False))
        whole.activate(await whole.ask(Room("other"), watches=False))
        await asyncio.gather(*[say(hub, b"1", Room(name)) for name in (ROOM, "other")])
        await until(lambda: broken.put_out == [ROOM])
        await say(hub, b"2", Room("other"))
        await until(lambda: whole.offsets == [1, 2])


class _ByRoom(LaggingBroker):
    """Answers for a room's history come when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer: dict[str, asyncio.Event] = {}
        self.asked: list[str] = []
        history = self.history

        async def later(room: Room, **named: Any) -> History:
            page = await history(room, **named)
            self.asked.append(room)
            if room in self.may_answer:
                await self.may_answer[room].wait()
            return page

        setattr(self, "history", later)  # noqa: B010 - as LaggingBroker does it


@run_async
async def test_a_room_that_goes_on_while_it_is_read_gets_nothing_twice() -> None:
    broker = _ByRoom()
    async with hub_of(broker) as hub:
        first, second = HubClient(hub, "first"), HubClient(hub, "second")
        for client, room in ((first, "one"), (second, "two")):
            client.activate(await client.ask(Room(room), watches=False))
            await say(hub, b"1", Room(room))
        await until(lambda: first.offsets == second.offsets == [1])
        broker.may_answer = {"one": asyncio.Event(), "two": asyncio.Event()}
        # A comparison of both rooms has seen that the second misses nothing, and waits for the history of the first.
        await broker.publish_unheard("one", b"2", retention=KEPT.retention)
        hub.on_gap([Room("one"), Room("two")])
        await until(lambda: "one" in broker.asked)
        # Now the second has a gap, and its history is asked for; then it goes on by the older comparison.
        hub.on_gap([Room("two")])
        await say(hub, b"2", Room("two"))
        hub.on_gap([Room("two")])
        await until(lambda: "two" in broker.asked)
        broker.may_answer["one"].set()
        await until(lambda: first.offsets == [1, 2])
        broker.may_answer["two"].set()
        await say(hub, b"3", Room("two"))
        await until(lambda: second.offsets[-1:] == [3])
        assert second.offsets == [1, 2, 3]
