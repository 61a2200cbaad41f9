"""
Joins and leaves in a large room: told once in a while, together, as the difference since then; and who asks meanwhile
for who is there ends up knowing the same as all others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from realtime import App
from realtime.broker.base import ClientInfo, ConnectionId, Room, WorkerId
from realtime.broker.memory import MemoryBroker
from realtime.broker.memory_state import StoredMember
from realtime.rooms.presence_view import PresenceView
from tests.support.aio import run_async
from tests.support.client import Refused
from tests.support.hub_client import PRESENT, ROOM, HubClient, hub_of
from tests.support.lagging_broker import LaggingBroker
from tests.support.one_worker import OneWorker, until

LARGE = 3
OTHER = WorkerId("another")


def info(client: str, user: str = "") -> ClientInfo:
    return ClientInfo(user, client)


NAMES = st.sampled_from([f"c{n}" for n in range(6)])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), NAMES),
        st.tuples(st.just("changed"), NAMES),
        st.tuples(st.just("leave"), NAMES),
        st.tuples(st.sampled_from(["digest", "ask"]), st.just("")),
    ),
    max_size=60,
)


@settings(max_examples=300)
@given(st.sets(NAMES), STEPS)
def test_whoever_asks_when_knows_in_the_end_who_is_there_and_is_told_no_more_than_that(
    begun: set[str], steps: list[tuple[str, str]]
) -> None:
    presence_view = PresenceView()
    presence_view.load({ConnectionId(name): info(name) for name in begun})
    views: list[dict[str, ClientInfo]] = []

    def tell() -> None:
        changes = presence_view.digest()
        touched = [each.connection_id for _, each in changes]
        assert len(touched) == len(set(touched)), "each is told of once"
        for view in views:
            for is_join, each in changes:
                if is_join:
                    assert view.get(each.connection_id) != each, "it is news"
                    view[each.connection_id] = each
                else:
                    del view[each.connection_id]  # it was told of before

    for step, name in steps:
        if step == "digest":
            tell()
        elif step == "ask":
            views.append({str(client): each for client, each in presence_view.census().members.items()})
        else:
            presence_view.defer((step != "leave", info(name, "another" if step == "changed" else "")))
    tell()
    now = {str(client): each for client, each in presence_view.census().members.items()}
    assert all(view == now for view in views)
    assert presence_view.digest() == []


def fill(broker: MemoryBroker, *clients: str) -> None:
    for client in clients:
        broker._state.add_member(ROOM, StoredMember(OTHER, info(client), True, False))


class Watcher(HubClient):
    """A member that counts what is written to it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.writes = 0

    def write(self, data: bytes) -> None:
        self.writes += 1
        super().write(data)


@run_async
async def test_who_left_and_came_back_meanwhile_is_not_told_of_and_the_rest_is_one_write() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, PRESENT, large=LARGE, digest_s=0.02) as hub:
        fill(broker, "a", "b", "c", "d")
        watcher = Watcher(hub, "w", PRESENT)
        await watcher.enter()
        await until_told(watcher, "+:w")
        assert watcher.events == ["+:w"]
        writes = watcher.writes
        for _ in range(100):
            broker.listener.on_leave(ROOM, info("a"))
            broker.listener.on_join(ROOM, info("a"))
        broker.listener.on_join(ROOM, info("new"))
        broker.listener.on_leave(ROOM, info("b"))
        broker.listener.on_join(ROOM, info("brief"))
        broker.listener.on_leave(ROOM, info("brief"))
        broker.listener.on_leave(ROOM, info("c"))
        assert watcher.events == ["+:w"], "not at once"
        await until_told(watcher, "-:c")
        assert watcher.events[1:] == ["+:new", "-:b", "-:c"]
        assert watcher.writes == writes + 1


async def until_told(watcher: HubClient, event: str) -> None:
    while event not in watcher.events:  # noqa: ASYNC110 - it is told in its time
        await asyncio.sleep(0.001)


@run_async
async def test_in_a_small_room_each_is_told_of_at_once() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, PRESENT, large=LARGE, digest_s=3600.0) as hub:
        watcher = HubClient(hub, "w", PRESENT)
        await watcher.enter()
        await until_told(watcher, "+:w")
        for _ in range(2):
            broker.listener.on_join(ROOM, info("a"))
            broker.listener.on_leave(ROOM, info("a"))
        await until(lambda: watcher.events == ["+:w", "+:a", "-:a", "+:a", "-:a"])


@run_async
async def test_a_room_that_has_become_small_tells_at_once_again() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, PRESENT, large=LARGE, digest_s=0.02) as hub:
        fill(broker, "a", "b", "c", "d")
        watcher = HubClient(hub, "w", PRESENT)
        await watcher.enter()
        for client in ("a", "b", "c", "d"):
            broker.listener.on_leave(ROOM, info(client))
        await until_told(watcher, "-:d")
        before = list(watcher.events)
        broker.listener.on_join(ROOM, info("e"))
        broker.listener.on_leave(ROOM, info("e"))
        await until(lambda: watcher.events == [*before, "+:e", "-:e"])


@run_async
async def test_who_comes_in_between_two_digests_is_told_what_the_next_one_tells() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, PRESENT, large=LARGE, digest_s=0.05) as hub:
        fill(broker, "a", "b", "c", "d")
        first, late = HubClient(hub, "w", PRESENT), HubClient(hub, "l", PRESENT)
        await first.enter()
        await until_told(first, "+:w")
        broker.listener.on_leave(ROOM, info("a"))
        await late.enter()
        asked = set((await hub.members.census(ROOM)).members)
        assert "a" in asked
        await until_told(late, "+:l")
        assert "-:a" in late.events
        gate = broker.hold_before("add_member")
        door = HubClient(hub, "d2", PRESENT)
        coming = asyncio.create_task(door.ask())
        await gate.reached.wait()
        broker.listener.on_leave(ROOM, info("b"))
        await until_told(first, "-:b")
        broker.let_pass()
        door.activate(await coming)
        assert "-:b" in door.events, "who stood at the door then, too"


@run_async
async def test_a_member_that_moves_to_another_worker_gets_what_was_deferred_first() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, PRESENT, large=LARGE, digest_s=600) as hub:
        fill(broker, "a", "b", "c", "d")
        watcher = HubClient(hub, "w", PRESENT)
        await watcher.enter()
        broker.listener.on_leave(ROOM, info("a"))
        broker.listener.on_join(ROOM, info("e"))
        assert "-:a" not in watcher.events
        hub.delivery.export_position(hub.registry.rooms[ROOM], watcher)
        assert watcher.events[-2:] == ["-:a", "+:e"]


@run_async
async def test_who_asks_in_a_large_room_costs_the_broker_nothing_and_all_share_the_answer() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, PRESENT, large=LARGE, digest_s=0.02) as hub:
        fill(broker, "a", "b", "c", "d")
        watcher = HubClient(hub, "w", PRESENT)
        await watcher.enter()
        await until_told(watcher, "+:w")
        before = len(broker.calls)
        census = await hub.members.census(ROOM)
        assert set(census.members) == {"a", "b", "c", "d", "w"}
        assert await hub.members.census(ROOM) is census
        assert (await hub.members.counts(ROOM)).clients == 5
        assert len(broker.calls) == before
        broker.listener.on_leave(ROOM, info("a"))
        assert await hub.members.census(ROOM) is census, "as it was told"
        await until_told(watcher, "-:a")
        assert set((await hub.members.census(ROOM)).members) == {"b", "c", "d", "w"}


@run_async
async def test_what_a_fault_swallowed_is_told_in_a_large_room_as_well() -> None:
    broker = LaggingBroker()
    async with hub_of(broker, PRESENT, large=LARGE, digest_s=0.01, settle_s=0.0) as hub:
        fill(broker, "a", "b", "c", "d")
        watcher = HubClient(hub, "w", PRESENT)
        await watcher.enter()
        broker.lose_link()
        broker._state.remove_member(ROOM, ConnectionId("a"))
        fill(broker, "e")
        broker.restore_link()
        await until_told(watcher, "-:a")
        await until_told(watcher, "+:e")
        assert set((await hub.members.census(ROOM)).members) == {"b", "c", "d", "e", "w"}


# By the protocol


def hall() -> tuple[App, list[str]]:
    app, left = App(), []

    @app.room("hall", presence=True, open=True, history=50)
    class Hall:
        async def on_leave(self, member: ClientInfo) -> None:
            left.append(member.connection_id)

    return app, left


async def crowd_of(worker: OneWorker, count: int) -> list[Any]:
    clients = [await worker.join(user=f"u{n}") for n in range(count)]
    for client in clients:
        await client.ask("subscribe", channel="hall")
    return clients


@run_async
async def test_flaps_in_a_crowd_are_told_as_what_came_of_them_and_every_hook_is_called() -> None:
    app, left = hall()
    async with OneWorker(app, large=LARGE, commands_per_second=0) as worker:
        *others, restless, goes = await crowd_of(worker, 8)
        me, gone = restless.connected["client"], goes.connected["client"]
        watcher = others[0]

        def told(kind: str) -> list[str]:
            pushes = [each["push"] for each in watcher.heard if "push" in each]
            return [push[kind]["info"]["client"] for push in pushes if kind in push]

        while gone not in told("join"):
            await watcher.push("join")
        joins, leaves = len(told("join")), len(told("leave"))
        flaps = 30
        for _ in range(flaps):
            await restless.ask("unsubscribe", channel="hall")
            await restless.ask("subscribe", channel="hall")
        await goes.ask("unsubscribe", channel="hall")
        while gone not in told("leave"):
            await watcher.push("leave")
        assert len(told("join")) - joins + len(told("leave")) - leaves < flaps, "before: two for each flap"
        await until(lambda: left.count(me) == flaps and left.count(gone) == 1)
        found = (await watcher.ask("presence", channel="hall"))["presence"]
        assert set(found) == {each.connected["client"] for each in (*others, restless)}


@run_async
async def test_who_has_just_come_finds_itself_among_those_who_are_there() -> None:
    app, _ = hall()
    async with OneWorker(app, large=LARGE) as worker:
        clients = await crowd_of(worker, 6)
        late = await worker.join(user="late")
        await late.ask("subscribe", channel="hall")
        found = (await late.ask("presence", channel="hall"))["presence"]
        assert found[late.connected["client"]] == {"user": "late", "client": late.connected["client"]}
        while set(found) != {each.connected["client"] for each in (*clients, late)}:
            found = (await clients[0].ask("presence", channel="hall"))["presence"]
            await asyncio.sleep(0.05)


# What large answers cost


async def refusal(ask: Callable[[], Awaitable[object]]) -> Refused:
    """Ask until it is refused."""
    for _ in range(50):
        try:
            await ask()
        except Refused as error:
            return error
    raise AssertionError("it never is")


@run_async
async def test_who_asks_for_more_than_its_share_is_told_so_for_a_while_and_others_are_not() -> None:
    app, _ = hall()
    async with OneWorker(app, answer_bytes=1024) as worker:
        greedy, modest = await crowd_of(worker, 2)
        await greedy.ask("publish", channel="hall", data="x" * 1000)
        for method, fields in (("presence", {}), ("history", {"limit": 50})):
            refused = await refusal(lambda: greedy.ask(method, channel="hall", **fields))  # noqa: B023
            assert (refused.code, refused.temporary) == (111, True)
        assert worker.registry.overruns["answers"] >= 2
        assert len((await modest.ask("presence", channel="hall"))["presence"]) == 2
        await greedy.ask("publish", channel="hall", data="other commands go on")
        assert (await greedy.ask("presence_stats", channel="hall"))["num_clients"] == 2
        while True:  # and it may again, once that is paid off
            try:
                await greedy.ask("presence", channel="hall")
                break
            except Refused:
                await asyncio.sleep(0.05)


@run_async
async def test_coming_back_again_and_again_for_the_whole_history_is_metered_too() -> None:
    app, _ = hall()
    async with OneWorker(app, answer_bytes=1024, commands_per_second=0) as worker:
        (client,) = await crowd_of(worker, 1)
        top = await client.ask("history", channel="hall", limit=0)
        for _ in range(10):
            await client.ask("publish", channel="hall", data="x" * 1000)

        async def come_back() -> None:
            await client.ask("unsubscribe", channel="hall")
            found = await client.ask("subscribe", channel="hall", recover=True, epoch=top["epoch"], offset=0)
            assert len(found["publications"]) == 10

        await come_back()
        refused = await refusal(come_back)
        assert (refused.code, refused.temporary) == (111, True), "an SDK comes again by itself"
        await client.ask("subscribe", channel="hall")


@run_async
async def test_without_a_limit_everybody_is_answered() -> None:
    app, _ = hall()
    async with OneWorker(app, answer_bytes=0, commands_per_second=0) as worker:
        (client,) = await crowd_of(worker, 1)
        for _ in range(100):
            await client.ask("presence", channel="hall")


@run_async
async def test_a_room_of_no_watchers_is_answered_from_one_question_a_second() -> None:
    app = App()
    app.room("quiet", presence=True, join_leave=False, open=True)
    async with OneWorker(app, large=LARGE) as worker:
        clients = [await worker.join() for _ in range(6)]
        for client in clients:
            await client.ask("subscribe", channel="quiet")
        censuses = {id(await worker.hub.members.census(Room("quiet"))) for _ in range(10)}
        assert len(censuses) < 10
        found = (await clients[0].ask("presence", channel="quiet"))["presence"]
        assert clients[0].connected["client"] in found
