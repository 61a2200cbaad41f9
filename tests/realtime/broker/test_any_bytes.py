"""
Names and payloads of any bytes, answers of any size, and callers that are cancelled at any moment, with every broker.

Hypothesis draws names and payloads. A worker subscribes to all names of one example, so that a message in the wrong
room shows.
"""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from realtime.broker.base import ClientInfo, ConnectionId, Position, PublishRequest, Retention
from tests.realtime.broker.workers import KEPT, NOT_KEPT, Place
from tests.support.aio import run_async, run_async_for

SEPARATE = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
CHARACTERS = st.characters(exclude_categories=["Cs"])  # everything but half characters, NUL and line ends included
SPECIAL = st.sampled_from(
    ["{", "}", "{}", "}{", "*", "?", "[a]", "\\", "%", "%7B", " ", "\n", "\r\n", "\0", ":", "~", "'"]
)
NAMES = st.lists(CHARACTERS | SPECIAL, max_size=60).map("".join).filter(lambda name: len(name.encode()) <= 246)
EVERY_BYTE = [chr(code) for code in range(0x80)] + [chr(0x80 + code) for code in range(64)]
EVERY_BYTE += [bytes([lead, 0x80]).decode() for lead in range(0xC2, 0xE0)]
EVERY_BYTE += [bytes([lead, 0xA0 if lead == 0xE0 else 0x80, 0x80]).decode() for lead in range(0xE0, 0xF0)]
EVERY_BYTE += [bytes([lead, 0x90 if lead == 0xF0 else 0x80, 0x80, 0x80]).decode() for lead in range(0xF0, 0xF5)]
LARGE = Retention(size=2_000, ttl_s=600.0)


def test_the_names_below_have_every_byte_that_utf8_allows() -> None:
    found = {byte for character in EVERY_BYTE for byte in character.encode()}
    assert found == set(range(0x80)) | set(range(0x80, 0xC0)) | set(range(0xC2, 0xF5))


@SEPARATE
@given(names=st.lists(NAMES, min_size=1, max_size=12, unique=True), data=st.lists(st.binary(max_size=200), max_size=4))
def test_names_and_payloads_of_any_bytes(place: Place, names: list[str], data: list[bytes]) -> None:
    come_as_they_were_said(Place(place.kind, place.url), names, data)


@pytest.mark.parametrize("end", ["", "*", "}"])
def test_a_name_of_every_character_class_and_one_of_255_bytes(place: Place, end: str) -> None:
    names = [f"{character}{end}" for character in dict.fromkeys(EVERY_BYTE)]
    come_as_they_were_said(place, [*names, "x" * (246 - len(end)) + end], [bytes(range(256))])


@run_async_for(60)
async def come_as_they_were_said(place: Place, names: list[str], data: list[bytes]) -> None:
    rooms = [place.room(name) for name in names]
    assert all(len(room.encode()) <= 255 for room in rooms)
    async with place.worker() as worker:
        await asyncio.gather(*[worker.broker.subscribe(room) for room in rooms])
        said = {room: [*data, room.encode()] for room in rooms}
        await asyncio.gather(*[worker.publish(room, *said[room]) for room in rooms])
        info = {room: ClientInfo(room, room) for room in rooms}
        await asyncio.gather(*[worker.broker.add_member(room, info[room], announce=True) for room in rooms])
        expected = sum(map(len, said.values())) + len(rooms)
        await worker.heard.until(lambda: len(worker.heard.events) >= expected)
        assert {room: [each.data for each in worker.heard.publications[room]] for room in rooms} == said
        assert sorted(worker.heard.told("join"), key=str) == sorted((("join", each) for each in info.items()), key=str)
        pages = await asyncio.gather(*[worker.broker.history(room, retention=KEPT, limit=9) for room in rooms])
        assert [[each.data for each in page.publications] for page in pages] == list(said.values())
        for room in rooms:
            assert await worker.broker.members(room) == {room: info[room]}
            assert await worker.broker.remove_member(room, ConnectionId(room), announce=True) == 0


@pytest.mark.parametrize("retention", [KEPT, NOT_KEPT], ids=["kept", "not kept"])
@run_async
async def test_payloads_of_64_kib(place: Place, retention: Retention) -> None:
    room, data = place.room(), [bytes([n]) + bytes(range(256)) * 256 for n in range(20)]
    async with place.worker() as worker:
        await worker.broker.subscribe(room)
        await asyncio.gather(*[worker.broker.publish(PublishRequest(room, each, retention=retention)) for each in data])
        got = await worker.heard.count(room, len(data))
        assert [each.data for each in got] == data


@pytest.mark.parametrize("place", ["memory", "local", "redis", "cluster"], indirect=True)  # fakeredis cannot
@run_async_for(60)
async def test_a_page_of_twenty_megabytes_is_an_answer_like_any_other(place: Place) -> None:
    room, small = place.room(), place.room("small")
    one = bytes(range(256)) * 64
    async with place.worker() as worker:
        for begin in range(0, 1_280, 64):
            await asyncio.gather(
                *[
                    worker.broker.publish(PublishRequest(room, b"%d:" % n + one, retention=LARGE))
                    for n in range(begin, begin + 64)
                ]
            )
        (top,) = await worker.publish(small, b"1")
        asked = worker.broker.history(room, retention=LARGE, limit=LARGE.size)
        page, behind = await asyncio.gather(asked, worker.broker.position(small, retention=KEPT))
        assert sum(len(each.data) for each in page.publications) > 20_000_000
        assert sorted(each.data for each in page.publications) == sorted(b"%d:" % n + one for n in range(1_280))
        assert behind == top, "what was asked after it is answered after it"


@SEPARATE
@given(plan=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=5, max_size=40))
def test_a_cancelled_caller_never_shifts_an_answer(place: Place, plan: list[tuple[int, int]]) -> None:
    everybody_gets_his_own(Place(place.kind, place.url), plan)


@run_async_for(60)
async def everybody_gets_his_own(place: Place, plan: list[tuple[int, int]]) -> None:
    """Ask something for each (kind, turns); callers with turns left over 0 go away after so many turns of the loop."""
    rooms = [place.room(str(number)) for number in range(5)]
    async with place.worker() as worker:
        broker = worker.broker
        for number, room in enumerate(rooms):
            await worker.publish(room, *[b"%d" % number] * (number + 1))
            await broker.add_member(room, ClientInfo(str(number), "c"), announce=False)

        async def check(kind: int, number: int) -> None:
            room = rooms[number]
            if kind == 0:
                assert (await broker.position(room, retention=KEPT)).offset == number + 1
            elif kind == 1:
                assert await broker.members(room) == {"c": ClientInfo(str(number), "c")}
            elif kind == 2:
                page = await broker.history(room, retention=KEPT, since=Position("", 0), limit=9)
                assert [each.data for each in page.publications] == [b"%d" % number] * (number + 1)
            elif kind == 3:
                found = await broker.positions(rooms)
                assert [found[each].offset for each in rooms] == [1, 2, 3, 4, 5]
            else:
                assert (
                    await broker.publish(PublishRequest(place.room("other"), b"", retention=NOT_KEPT))
                ).position.offset == 0

        staying, going = [], []
        for index, (kind, turns) in enumerate(plan):
            task = asyncio.create_task(check(kind, index % 5))
            (going if turns else staying).append(task)
            for _ in range(turns - 1):
                await asyncio.sleep(0)
            if turns:
                task.cancel()
        await asyncio.gather(*staying)
        for task in going:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await asyncio.gather(*[check(kind, number) for kind in range(5) for number in range(5)])
