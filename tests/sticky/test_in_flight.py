"""What a primary alone holds is noted at each turn of its loop, and counted as lost by the primary after it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sticky.process.in_flight import IN_FLIGHT, LOST, InFlight
from sticky.process.keeper_link import KeeperLink
from tests.support.keeper_end import KeeperEnd


@dataclass
class Routing:
    """So many connections that no worker has."""

    held: int = 0


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[KeeperEnd]:
    with KeeperEnd(str(tmp_path)) as keeper:
        yield keeper


def lost(end: KeeperEnd) -> int:
    counters: Counter[str] = Counter()
    InFlight(end.link, Routing(), counters)
    return counters[LOST]


def test_a_first_primary_has_lost_nothing(keeper: KeeperEnd) -> None:
    assert lost(keeper) == 0
    assert keeper.receive() == [f"PUT {IN_FLIGHT}"]


def test_the_next_primary_counts_what_was_noted_last(keeper: KeeperEnd) -> None:
    routing = Routing(3)
    in_flight = InFlight(keeper.link, routing, Counter())
    in_flight.note()
    routing.held = 2
    in_flight.note()
    routing.held = 9  # the primary is killed before the end of this turn
    with keeper.successor() as successor:
        assert lost(successor) == 2


def test_a_note_is_no_line_to_the_keeper(keeper: KeeperEnd) -> None:
    routing = Routing()
    in_flight = InFlight(keeper.link, routing, Counter())
    keeper.receive()
    for routing.held in range(100):
        in_flight.note()
    assert keeper.receive() == []


def test_losses_of_all_primaries_add_up(keeper: KeeperEnd) -> None:
    InFlight(keeper.link, Routing(3), Counter()).note()
    with keeper.successor() as second:
        InFlight(second.link, Routing(4), Counter()).note()
        with second.successor() as third:
            assert lost(third) == 7


def test_what_another_version_has_noted_is_not_counted(keeper: KeeperEnd) -> None:
    keeper.link.put_bytes(IN_FLIGHT, b"\1" * 20)
    with keeper.successor() as successor:
        assert lost(successor) == 0


def test_without_a_keeper_nothing_is_noted() -> None:
    before = len(os.listdir("/proc/self/fd"))
    counters: Counter[str] = Counter()
    in_flight = InFlight(KeeperLink(), Routing(5), counters)
    in_flight.note()
    assert counters[LOST] == 0
    assert len(os.listdir("/proc/self/fd")) == before
