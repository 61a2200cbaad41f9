"""What a worker reports to a new primary: open connections by address, then the numbers, in an order that is safe."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sticky.handoff.journal import NO_MARK
from sticky.handoff.messages import Ack, Held, Nack, WorkerIdentity
from sticky.worker.acknowledgements import Acknowledgements
from sticky.worker.ended_report import ENDED_MAX
from sticky.worker.identity_report import IdentityReport
from tests.support.fake_poller import FakePoller
from tests.support.worker_ends import PrimaryEnd


class Rig:
    """A worker's report, and the primary's end of its channel."""

    def __init__(self) -> None:
        self.primary = PrimaryEnd()
        self.acknowledgements = Acknowledgements(self.primary.link, FakePoller())
        self.report = IdentityReport(self.primary.link, self.acknowledgements)

    def answer(self, *, connections: int = 0) -> list[object]:
        self.report.answer(adopted=9, connections=connections, is_draining=False)
        return self.primary.received()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.primary.close()


def test_a_worker_without_connections_reports_its_numbers_only(rig: Rig) -> None:
    assert rig.answer() == [WorkerIdentity(0, 9, 0, False)]


def test_a_draining_worker_says_so(rig: Rig) -> None:
    rig.report.answer(adopted=1, connections=0, is_draining=True)
    assert rig.primary.received() == [WorkerIdentity(0, 1, 0, True)]


def test_the_numbers_come_last_for_they_complete_the_answer(rig: Rig) -> None:
    for address in ("a", "b", "a", "c"):
        rig.report.opened(address)
    rig.report.closed("c")
    assert rig.answer(connections=3) == [Held({"a": 2, "b": 1}), WorkerIdentity(0, 9, 3, False)]


def test_an_end_that_was_never_opened_leaves_no_count(rig: Rig) -> None:
    rig.report.closed("a")
    rig.report.opened("a")
    assert rig.answer(connections=1) == [Held({"a": 1}), WorkerIdentity(0, 9, 1, False)]


def test_more_addresses_than_a_packet_has_room_for_come_in_parts(rig: Rig) -> None:
    for number in range(ENDED_MAX + 1):
        rig.report.opened(f"a{number}")
    first, second, last = rig.answer(connections=ENDED_MAX + 1)
    assert isinstance(first, Held)
    assert isinstance(second, Held)
    assert [len(first.counts), len(second.counts)] == [ENDED_MAX, 1]
    assert last == WorkerIdentity(0, 9, ENDED_MAX + 1, False)


def test_once_an_end_had_no_address_all_connections_count_under_none(rig: Rig) -> None:
    for address in ("a", "a", "b"):
        rig.report.opened(address)
    rig.report.closed("")
    rig.report.opened("c")
    assert rig.answer(connections=3) == [Held({"": 3}), WorkerIdentity(0, 9, 3, False)], "no other count is right"


def test_a_rejected_handoff_is_reported_before_the_number_that_covers_it(rig: Rig) -> None:
    rig.acknowledgements.adopted(4, NO_MARK)
    rig.acknowledgements.reject(5)
    assert rig.answer() == [Nack(5), Ack(5, 0), WorkerIdentity(5, 9, 0, False)]


def test_what_finds_no_room_is_sent_later_with_the_number_of_then(rig: Rig) -> None:
    rig.report.opened("a")
    rig.primary.fill()
    rig.report.answer(adopted=9, connections=1, is_draining=False)
    rig.acknowledgements.adopted(7, NO_MARK)
    rig.primary.drain()
    rig.report.send()
    assert rig.primary.received() == [Ack(7, 0), Held({"a": 1}), WorkerIdentity(7, 9, 1, False)]
    rig.report.send()
    assert rig.primary.received() == [], "it is answered once"


def test_a_second_question_replaces_the_answer_that_waits(rig: Rig) -> None:
    rig.primary.fill()
    rig.report.answer(adopted=1, connections=0, is_draining=False)
    rig.report.answer(adopted=2, connections=0, is_draining=True)
    rig.primary.drain()
    rig.report.send()
    assert rig.primary.received() == [WorkerIdentity(0, 2, 0, True)]
