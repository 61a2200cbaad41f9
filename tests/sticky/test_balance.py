"""Ways to choose a slot, and the reserve of descriptors: what the primary does before it knows a client."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest

from sticky.accept.descriptors import RESERVE, DescriptorReserve
from sticky.errors import SettingsError
from sticky.keys.balance import balance_named
from sticky.keys.hashing import Slot


@dataclass
class Loaded:
    connections: int


def live(**connections: int) -> dict[Slot, Loaded]:
    return {Slot(int(slot[1:])): Loaded(count) for slot, count in connections.items()}


def test_least_takes_the_slot_with_the_fewest_connections_and_of_equal_ones_the_lowest() -> None:
    least = balance_named("least")
    assert least(live(s0=3, s1=1, s2=2)) == 1
    assert least(live(s2=1, s1=1)) == 1


def test_round_robin_takes_each_slot_in_turn_whichever_are_live() -> None:
    turns = balance_named("round-robin")
    assert [turns(live(s0=0, s1=0, s3=0)) for _ in range(4)] == [0, 1, 3, 0]
    assert turns(live(s0=0, s3=0)) == 3, "slot 1 has gone"
    assert turns(live(s0=0, s1=0)) == 0


def test_a_way_that_there_is_not_is_refused() -> None:
    with pytest.raises(SettingsError, match="balance: 'most' is neither 'least' nor 'round-robin'"):
        balance_named("most")


@pytest.mark.parametrize(("limit", "first_reserved"), [(1024, 1024 - RESERVE), (64, 56), (8, 7)])
def test_the_highest_numbers_are_the_reserve(limit: int, first_reserved: int) -> None:
    reserve = DescriptorReserve(limit)
    assert reserve.has_room_for(first_reserved - 1)
    assert not reserve.has_room_for(first_reserved)
    reserve.close()


def test_the_spare_descriptor_is_given_up_once_and_can_be_filled_again() -> None:
    before = set(os.listdir("/proc/self/fd"))
    reserve = DescriptorReserve(1024)
    assert reserve.give_up_spare()
    assert not reserve.give_up_spare()
    reserve.refill()
    reserve.refill()
    assert reserve.give_up_spare()
    reserve.close()
    assert set(os.listdir("/proc/self/fd")) == before
