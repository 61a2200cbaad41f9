"""
A command that cannot be encoded fails for its caller alone; no other caller gets an answer that is not its own.

Answers are matched by their order. A command that could not be written must therefore have no place in that order.
"""

from __future__ import annotations

import asyncio

import pytest

from realtime.broker.base import ClientInfo, Position, PublishRequest, Room
from tests.realtime.broker.workers import KEPT, Place
from tests.support.aio import run_async


@run_async
async def test_a_command_that_cannot_be_written_moves_no_answer_to_another_caller(shared: Place) -> None:
    rooms = [shared.room(f"{number}") for number in range(5)]
    unsayable = Room(shared.room("\ud800"))  # half a character
    async with shared.worker() as worker:
        for number, room in enumerate(rooms):
            await worker.publish(room, *[b"1"] * (number + 1))
        for wrong in (
            lambda: worker.broker.position(unsayable, retention=KEPT),
            lambda: worker.broker.publish(PublishRequest(unsayable, b"1", retention=KEPT)),
            lambda: worker.broker.history(unsayable, retention=KEPT, since=Position("e", 2**70), limit=1),
            lambda: worker.broker.publish(
                PublishRequest(rooms[0], b"1", retention=KEPT, info=ClientInfo("\ud800", "c"))
            ),
        ):
            before = [worker.broker.position(room, retention=KEPT) for room in rooms]
            answers = await asyncio.gather(wrong(), *before, return_exceptions=True)
            assert isinstance(answers[0], Exception)
            assert [answer.offset for answer in answers[1:]] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("offset", [0, 1, 2**31, 2**53 - 1])
@run_async
async def test_a_page_may_begin_at_every_offset_that_clients_may_name(place: Place, offset: int) -> None:
    room = place.room()
    async with place.worker() as worker:
        (top,) = await worker.publish(room, b"1")
        page = await worker.broker.history(room, retention=KEPT, since=Position("", offset), limit=9)
        assert (page.top, len(page.publications)) == (top, 0 if offset else 1)
        if offset:
            page = await worker.broker.history(room, retention=KEPT, since=Position("", offset), limit=9, reverse=True)
            assert (page.top, len(page.publications)) == (top, 0 if offset == 1 else 1)
