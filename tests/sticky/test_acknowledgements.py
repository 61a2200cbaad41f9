"""
Acknowledgements: what a worker has adopted, and when the primary may forget it.

The channel is real and the test plays the primary; the clock is the test's. tests/realtime/transport/test_first_byte.py
has the transports that report the first byte.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Callable, Iterator

import pytest

from sticky.handoff.journal import ADOPTING, ENTRIES, NO_MARK, OPEN, SIZE, Journal
from sticky.handoff.messages import Ack, Nack
from sticky.worker.acknowledgements import SETTLE_S, UNREAD_MAX_S, Acknowledgements
from sticky.worker.settlement import NO_SETTLEMENT, Settlement
from tests.support.aio import run_async
from tests.support.fake_poller import FakePoller
from tests.support.worker_ends import PrimaryEnd

TICK_S = 2 * SETTLE_S  # the timer may have run just before a connection was read


class Rig:
    """A worker's acknowledgements, with the primary's end of the channel and a clock that the test moves."""

    def __init__(self) -> None:
        self.primary = PrimaryEnd()
        self.timers = FakePoller()
        self.acknowledgements = Acknowledgements(self.primary.link, self.timers)

    def adopt(self, *numbers: int, is_raw: bool = False) -> list[Settlement]:
        """Adopt handoffs in one turn of the loop."""
        found = [self.acknowledgements.adopted(number, NO_MARK, is_raw=is_raw) for number in numbers]
        self.acknowledgements.acknowledge()
        return found


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.primary.close()


def test_one_message_acknowledges_every_handoff_so_far(rig: Rig) -> None:
    rig.adopt(1, 2, 3)
    rig.acknowledgements.acknowledge()
    assert rig.primary.received() == [Ack(3, 0)]


def test_a_connection_is_settled_soon_after_its_first_byte(rig: Rig) -> None:
    [settlement] = rig.adopt(1)
    rig.timers.run_for(UNREAD_MAX_S / 2)
    assert rig.primary.received() == [Ack(1, 0)], "it was not read"
    settlement.first_byte_read()
    assert rig.primary.received() == [], "the primary can still answer for this worker"
    rig.timers.run_for(TICK_S)
    assert rig.primary.received() == [Ack(1, 1)]


def test_further_reads_do_not_postpone_it(rig: Rig) -> None:
    [settlement] = rig.adopt(1)
    for _ in range(10):
        settlement.first_byte_read()
        rig.timers.run_for(TICK_S / 10)
    assert rig.primary.received() == [Ack(1, 0), Ack(1, 1)]


def test_a_connection_that_nothing_is_reported_of_is_settled_after_a_bound(rig: Rig) -> None:
    rig.adopt(1)
    rig.timers.run_for(UNREAD_MAX_S - SETTLE_S)
    assert rig.primary.received() == [Ack(1, 0)]
    rig.timers.run_for(TICK_S)
    assert rig.primary.received() == [Ack(1, 1)]
    assert rig.timers.next_due() is None, "the timer runs only while something is not settled"


def test_time_in_which_the_loop_did_not_turn_does_not_count_for_the_bound(rig: Rig) -> None:
    rig.adopt(1)
    rig.timers.clock.now_s += 100 * UNREAD_MAX_S  # a handler has blocked the loop, and the timer is late
    rig.timers.run_for(SETTLE_S)
    rig.acknowledgements.acknowledge()
    assert rig.primary.received() == [Ack(1, 0)], "it is read as soon as the loop turns"
    rig.timers.run_for(UNREAD_MAX_S)
    assert rig.primary.received() == [Ack(1, 1)]


def test_a_connection_waits_for_the_one_before_it(rig: Rig) -> None:
    first, second = rig.adopt(1, 2)
    second.first_byte_read()
    rig.timers.run_for(TICK_S)
    assert rig.primary.received() == [Ack(2, 0)]
    first.first_byte_read()
    rig.timers.run_for(TICK_S)
    assert rig.primary.received() == [Ack(2, 2)]


def test_the_end_of_a_connection_settles_it_at_once_with_what_was_read_before_it(rig: Rig) -> None:
    first, second, _ = rig.adopt(1, 2, 3)
    first.first_byte_read()
    second.ended()
    rig.timers.run_for(0)
    assert rig.primary.received() == [Ack(3, 0), Ack(3, 2)]


def test_many_ends_in_one_turn_are_settled_by_one_message(rig: Rig) -> None:
    for settlement in rig.adopt(1, 2, 3):
        settlement.ended()
        settlement.ended()
    rig.timers.run_for(0)
    assert rig.primary.received() == [Ack(3, 0), Ack(3, 3)]


def test_the_end_of_a_settled_connection_is_not_news(rig: Rig) -> None:
    [settlement] = rig.adopt(1)
    settlement.first_byte_read()
    rig.timers.run_for(TICK_S)
    settlement.ended()
    assert rig.timers.next_due() is None
    assert rig.primary.received() == [Ack(1, 0), Ack(1, 1)]


def test_a_raw_connection_is_settled_with_its_adoption(rig: Rig) -> None:
    rig.adopt(1, is_raw=True)
    assert rig.primary.received() == [Ack(1, 1)]


def test_a_rejection_is_sent_before_the_number_that_covers_it(rig: Rig) -> None:
    rig.acknowledgements.adopted(1, NO_MARK)
    rig.acknowledgements.reject(2)
    rig.acknowledgements.acknowledge()
    assert rig.primary.received() == [Nack(2), Ack(2, 0)]


def test_a_rejection_after_the_adoption_settles_it(rig: Rig) -> None:
    settlement = rig.acknowledgements.adopted(1, NO_MARK)
    rig.acknowledgements.reject(1, settlement)
    rig.acknowledgements.acknowledge()
    assert rig.primary.received() == [Nack(1), Ack(1, 1)]


def test_what_found_no_room_is_acknowledged_later(rig: Rig) -> None:
    rig.primary.fill()
    rig.acknowledgements.adopted(1, NO_MARK)
    rig.acknowledgements.reject(2)
    assert not rig.acknowledgements.acknowledge()
    rig.primary.drain()
    assert rig.acknowledgements.acknowledge()
    assert rig.primary.received() == [Nack(2), Ack(2, 0)]


def test_everything_is_settled_where_that_is_called_for(rig: Rig) -> None:
    rig.adopt(1, 2)
    rig.acknowledgements.reject(3)
    assert rig.acknowledgements.settle_all()
    assert rig.primary.received() == [Ack(2, 0), Nack(3), Ack(3, 3)]


def test_a_number_that_goes_back_undoes_no_acknowledgement(rig: Rig) -> None:
    rig.adopt(5)
    rig.acknowledgements.settle_all()
    rig.adopt(3)
    rig.acknowledgements.settle_all()
    assert rig.primary.received() == [Ack(5, 0), Ack(5, 5)]


@pytest.mark.parametrize("end", [Settlement.ended, Settlement.settle])
def test_the_journal_has_the_adoption_until_the_connection_is_settled_or_ends(
    rig: Rig, end: Callable[[Settlement], None]
) -> None:
    memory = mmap.mmap(-1, SIZE)
    journal = Journal(memory)
    mark = journal.open(b"key")
    settlement = rig.acknowledgements.adopted(1, mark)
    states = [memory[0]]
    settlement.first_byte_read()
    states.append(memory[0])
    end(settlement)
    states.append(memory[0])
    assert states == [OPEN | ADOPTING, OPEN | ADOPTING, OPEN]
    del mark
    assert memory[:ENTRIES].count(b"\0") == ENTRIES, "the settlement does not keep the entry"


def test_a_connection_without_a_primary_has_nothing_to_settle() -> None:
    NO_SETTLEMENT.first_byte_read()
    NO_SETTLEMENT.ended()
    assert not NO_SETTLEMENT.is_unread


# What a drain waits for


@run_async
async def test_a_drain_waits_for_the_first_byte_of_every_connection(rig: Rig) -> None:
    first, second, third = rig.adopt(1, 2, 3)
    waiting = asyncio.ensure_future(rig.acknowledgements.wait_until_read())
    for settlement, is_over in ((second, False), (first, False), (third, True)):
        assert not waiting.done()
        settlement.first_byte_read() if settlement is not first else settlement.ended()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert waiting.done() is is_over


@run_async
async def test_a_drain_does_not_wait_for_ever(rig: Rig) -> None:
    rig.adopt(1)
    rig.timers.run_for(UNREAD_MAX_S + TICK_S)
    await rig.acknowledgements.wait_until_read()


@run_async
async def test_a_drain_waits_for_nothing_where_nothing_is_unread(rig: Rig) -> None:
    rig.adopt(1, is_raw=True)
    await rig.acknowledgements.wait_until_read()
