"""Percentiles out of buckets: close to the exact ones, and what never came is infinite."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from realtime.loadtest.histogram import Histogram, bucket, upper_us


def of(*durations_us: int) -> Histogram:
    found = Histogram()
    for each in durations_us:
        found.add(each)
    return found


@given(st.integers(0, 2**31 - 1))
def test_a_bucket_holds_its_duration_within_a_sixty_fourth(us: int) -> None:
    number = bucket(us)
    assert us <= upper_us(number) <= us + us / 64
    assert number == 0 or upper_us(number - 1) < us


@given(st.lists(st.integers(0, 10**8), min_size=1, max_size=200), st.floats(0.001, 1))
def test_a_percentile_is_that_of_the_sorted_list(durations_us: list[int], share: float) -> None:
    exact = sorted(durations_us)[max(1, math.ceil(share * len(durations_us))) - 1]
    assert exact <= of(*durations_us).percentile_us(share) <= exact + exact / 64


def test_nothing_has_no_percentiles() -> None:
    assert math.isnan(Histogram().percentile_us(0.5))
    assert math.isnan(Histogram().worst_us)


def test_what_never_came_is_above_everything() -> None:
    found = of(*range(1, 91))
    found.missed = 10
    assert found.percentile_us(0.5) == 50
    assert found.percentile_us(0.9) == 90
    assert found.percentile_us(0.91) == math.inf
    assert found.worst_us == math.inf


def test_absurd_durations_are_kept_in_the_last_bucket() -> None:
    found = of(-5, 2**40)
    assert found.measured == 2
    assert found.percentile_us(0.5) == 0
    assert found.max_us == 2**40


def test_buckets_are_told_with_both_ends_and_clearing_begins_anew() -> None:
    found = of(5, 5, 1000)
    assert [(low, number) for low, _, number in found.buckets()] == [(5, 2), (1000, 1)]
    found.clear()
    assert (found.measured, list(found.buckets())) == (0, [])
