"""The record of failures, which is pure: delays by slot, and when the start is given up."""

from __future__ import annotations

from sticky.keys.hashing import Slot
from sticky.supervision.restarts import BACKOFF_S, Restarts

A, B = Slot(0), Slot(1)


def test_each_slot_has_a_back_off_of_its_own_that_ends_at_its_longest() -> None:
    restarts = Restarts(boots_max=None)
    delays = [restarts.next_delay_s(A) for _ in range(len(BACKOFF_S) + 2)]
    assert delays == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert restarts.next_delay_s(B) == 0.0


def test_a_cleared_slot_begins_again() -> None:
    restarts = Restarts(boots_max=None)
    for _ in range(3):
        restarts.next_delay_s(A)
    restarts.next_delay_s(B)
    restarts.clear(A)
    assert [restarts.next_delay_s(A), restarts.next_delay_s(B)] == [0.0, 1.0]
    restarts.clear(Slot(7))  # a slot without a record is no error


def test_failed_boots_in_a_row_of_any_slots_end_the_start() -> None:
    restarts = Restarts(boots_max=3)
    assert [restarts.record_failed_boot() for _ in range(3)] == [True, True, False]
    assert restarts.boots_failed == 3


def test_one_worker_that_was_ready_ends_the_counting_for_good() -> None:
    restarts = Restarts(boots_max=3)
    restarts.record_failed_boot()
    assert [restarts.record_ready(), restarts.record_ready()] == [True, False], "the first is told apart"
    assert all(restarts.record_failed_boot() for _ in range(10))


def test_without_a_bound_the_start_is_never_given_up() -> None:
    restarts = Restarts(boots_max=None)
    assert all(restarts.record_failed_boot() for _ in range(100))
