"""How often something may happen: what a declaration says, and what is taken of it, by a clock of our own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.timing.rate import Meter, Rate


@pytest.mark.parametrize(
    ("text", "count", "period_s"),
    [("5/s", 5, 1.0), ("20/10s", 20, 10.0), ("100/min", 100, 60.0), (" 1000 / h ", 1000, 3600.0), ("2/500ms", 2, 0.5)],
)
def test_a_declaration(text: str, count: int, period_s: float) -> None:
    rate = Rate.parse(text)
    assert (rate.count, rate.period_s) == (count, pytest.approx(period_s))


@pytest.mark.parametrize("text", ["", "5", "0/s", "5/0s", "5/d", "-1/s", "5/s/s", "five/s", "1.5/s"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no rate: write 5/s"):
        Rate.parse(text)


def test_a_burst_may_come_at_once_and_then_one_by_one() -> None:
    meter, rate = Meter(), Rate(5, 10.0)
    assert [meter.take(100.0, rate) for _ in range(7)] == [True] * 5 + [False] * 2
    assert not meter.take(101.9, rate)
    assert meter.take(102.0, rate)
    assert not meter.take(102.1, rate)
    assert not meter.is_clear(111.0)
    assert meter.is_clear(112.0)


@given(st.lists(st.floats(0, 3), max_size=200), st.integers(1, 20), st.floats(0.1, 5))
def test_in_no_period_are_there_more_than_two_bursts_and_in_the_long_run_the_rate(
    waits: list[float], count: int, period_s: float
) -> None:
    meter, rate, now, taken = Meter(), Rate(count, period_s), 0.0, []
    for wait in waits:
        now += wait
        if meter.take(now, rate):
            taken.append(now)
    for index, begin in enumerate(taken):
        within = [at for at in taken[index:] if at < begin + period_s]
        assert len(within) <= 2 * count
    assert len(taken) <= count + now / rate.interval_s + 1
