"""
Publications that a worker misses while it is cut off: the offsets show the gap, and the history has what is missing.

The cable of one worker is pulled out while others go on. What only Redis can do to a worker is in test_redis.py.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from realtime.broker.base import ClientInfo, Position, PublishRequest
from realtime.errors import BrokerUnavailable
from tests.realtime.broker.cable import cable
from tests.realtime.broker.workers import KEPT, Place, flushed
from tests.support.aio import eventually, run_async

ANN = ClientInfo("ann", "c1")


@pytest.fixture(params=["local", "redis"])
def on_a_socket(request: pytest.FixtureRequest) -> Place:
    """A broker that is on a Unix socket, so that a cable fits."""
    return Place(request.param, request.getfixturevalue(f"{request.param}_url"))


@run_async
async def test_what_is_published_while_a_worker_is_cut_off_is_in_the_history(
    on_a_socket: Place, tmp_path: Path
) -> None:
    room = on_a_socket.room()
    async with cable(on_a_socket, tmp_path) as (laid, near), on_a_socket.worker("b") as b, near.worker("a") as a:
        await a.broker.subscribe(room)
        await b.publish(room, b"1", b"2")
        last = (await a.heard.count(room, 2))[-1]
        await laid.pull_out()
        await a.heard.until(lambda: a.heard.how_often("link lost"))
        with pytest.raises(BrokerUnavailable):
            await a.publish(room, b"never")
        await b.publish(room, b"3", b"4")
        await laid.plug_in()
        await a.heard.until(lambda: a.heard.how_often("link restored"))
        await b.publish(room, b"5")
        got = await a.heard.count(room, 3)
        assert [each.offset for each in got] == [1, 2, 5], "the hole shows"
        page = await a.broker.history(room, retention=KEPT, since=Position(last.epoch, last.offset), limit=9)
        assert [(each.offset, each.data) for each in page.publications] == [(3, b"3"), (4, b"4"), (5, b"5")]
        assert page.top == Position(last.epoch, 5)
        assert await a.broker.positions([room]) == {room: page.top}


@run_async
async def test_an_idempotency_key_makes_a_publication_that_failed_safe_to_repeat(
    on_a_socket: Place, tmp_path: Path
) -> None:
    room = on_a_socket.room()
    async with cable(on_a_socket, tmp_path) as (laid, near), near.worker("a") as a:
        await a.publish(on_a_socket.room("other"), b"1")  # Redis knows the script from now on: one question is enough
        laid.keep_answers()
        asked = asyncio.create_task(a.broker.publish(PublishRequest(room, b"1", retention=KEPT, idempotency_key="key")))
        async with on_a_socket.worker("b") as b:

            async def has_happened() -> bool:
                return bool(await b.broker.positions([room]))

            await eventually(has_happened)
        assert not asked.done()
        await laid.pull_out()
        with pytest.raises(BrokerUnavailable):
            await asked
        await laid.plug_in()
        await a.heard.until(lambda: a.heard.how_often("link restored"))
        done = await a.broker.publish(PublishRequest(room, b"1", retention=KEPT, idempotency_key="key"))
        assert (done.duplicate, done.position.offset) == (True, 1), "it had happened"


@run_async
async def test_members_of_a_worker_that_was_cut_off_for_a_moment_stay(on_a_socket: Place, tmp_path: Path) -> None:
    room = on_a_socket.room()
    async with cable(on_a_socket, tmp_path) as (laid, near), on_a_socket.worker("b") as b, near.worker("a") as a:
        await b.broker.subscribe(room)
        await a.broker.add_member(room, ANN, announce=True)
        await laid.pull_out()
        await a.heard.until(lambda: a.heard.how_often("link lost"))
        assert await b.broker.members(room) == {ANN.connection_id: ANN}
        await laid.plug_in()
        await a.heard.until(lambda: a.heard.how_often("link restored"))
        await flushed(b, room)
        assert b.heard.told("join", "leave") == [("join", (room, ANN))]
        assert await b.broker.members(room) == {ANN.connection_id: ANN}


@run_async
async def test_members_of_a_worker_that_was_wrongly_reaped_return(on_a_socket: Place, tmp_path: Path) -> None:
    room = on_a_socket.room()
    async with cable(on_a_socket, tmp_path) as (laid, near), on_a_socket.worker("b") as b, near.worker("a") as a:
        await b.broker.subscribe(room)
        await a.broker.add_member(room, ANN, announce=True)
        await laid.pull_out()
        await a.heard.until(lambda: a.heard.how_often("link lost"))
        await b.broker.reap(a.id)
        assert await b.broker.members(room) == {}
        await laid.plug_in()
        await a.heard.until(lambda: a.heard.how_often("link restored"))
        assert await b.broker.members(room) == {ANN.connection_id: ANN}
        await flushed(b, room)
        assert [kind for kind, _ in b.heard.told("join", "leave")] == ["join", "leave", "join"]


@pytest.mark.parametrize("cut_after", [{1: 1}, {2: 1}, {1: 2}, {2: 2}, {1: 2, 2: 2}, {1: 3, 2: 2}, {1: 3}, {1: 4}])
@run_async
async def test_a_link_that_is_lost_while_reconnecting_is_reopened(
    on_a_socket: Place, tmp_path: Path, cut_after: dict[int, int]
) -> None:
    room = on_a_socket.room()
    async with cable(on_a_socket, tmp_path) as (laid, near), on_a_socket.worker("b") as b, near.worker("a") as a:
        await a.broker.subscribe(room)
        await laid.pull_out()
        await a.heard.until(lambda: a.heard.how_often("link lost"))
        await laid.plug_in(cut_after)

        async def is_back() -> bool:
            try:
                await a.broker.members(room)
            except BrokerUnavailable:
                return False
            await b.publish(room, b"1")
            return bool(a.heard.publications.get(room))

        await eventually(is_back)
        links = [kind for kind, _ in a.heard.events if kind.startswith("link")]
        assert links == (["link lost", "link restored"] * len(links))[: len(links)], "said in turn"
