"""The pace of a drain, by a clock of the test's: evenly up to the deadline, whoever leaves or comes meanwhile."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.process.pace import Pace
from tests.support.uniform import CHI_SQUARE_MAX, chi_square

BEGIN_S = 1000.0


def times_of(pace: Pace, left: int, steps: list[float]) -> list[float]:
    """Look at the clock at these times, and note when how many were due."""
    found = []
    for now_s in steps:
        count = pace.due(now_s, left)
        found += [now_s] * count
        left -= count
    return found


def every(step_s: float, length_s: float) -> list[float]:
    return [BEGIN_S + step_s * number for number in range(int(length_s / step_s) + 2)]


@pytest.mark.parametrize("length_s", [1.0, 10.0, 60.0, 86_400.0])
@pytest.mark.parametrize("count", [1, 2, 3, 400, 10_000])
def test_the_kth_of_n_is_due_when_k_nths_of_the_time_are_over(count: int, length_s: float) -> None:
    pace = Pace(BEGIN_S, BEGIN_S + length_s)
    now_s, times = BEGIN_S, []
    while len(times) < count:
        assert pace.due(now_s, count - len(times)) == (1 if times or now_s > BEGIN_S else 0)
        if now_s > BEGIN_S:
            times.append(now_s)
        now_s += max(pace.wait_s(now_s, count - len(times)), 1e-9)
    assert times == pytest.approx([BEGIN_S + (k + 1) * length_s / count for k in range(count)], rel=1e-9)


@pytest.mark.parametrize("length_s", [10.0, 60.0, 3600.0])
def test_the_times_of_400_closes_are_uniform(length_s: float) -> None:
    times = times_of(Pace(BEGIN_S, BEGIN_S + length_s), 400, every(0.02, length_s))
    assert len(times) == 400
    assert chi_square(times, BEGIN_S, length_s + 0.04) < CHI_SQUARE_MAX


def test_the_test_of_uniformity_finds_what_closes_all_at_once() -> None:
    assert chi_square([BEGIN_S + 0.3 * n / 400 for n in range(400)], BEGIN_S, 10.0) > 1000


def test_a_loop_that_was_blocked_is_brought_back_to_the_deadline_and_not_behind_it() -> None:
    late = [BEGIN_S, BEGIN_S + 1, BEGIN_S + 4, BEGIN_S + 4.1, BEGIN_S + 9, BEGIN_S + 10]
    assert times_of(Pace(BEGIN_S, BEGIN_S + 10), 10, late) == [late[1], *[late[2]] * 3, *[late[4]] * 5, late[5]]


def test_who_leaves_by_itself_gives_its_time_to_the_others() -> None:
    pace = Pace(BEGIN_S, BEGIN_S + 100)
    assert pace.due(BEGIN_S + 10, 10) == 0, "they are seen for the first time now: 90 s for 10"
    assert pace.due(BEGIN_S + 19, 10) == 1
    assert pace.wait_s(BEGIN_S + 19, 9) == pytest.approx(9)
    assert pace.wait_s(BEGIN_S + 19, 3) == pytest.approx(27), "six have left"
    assert pace.wait_s(BEGIN_S + 19, 1) == pytest.approx(81), "the last one lives to the deadline"


def test_who_comes_late_is_spread_over_what_is_left_and_not_due_at_once() -> None:
    pace = Pace(BEGIN_S, BEGIN_S + 100)
    assert pace.due(BEGIN_S, 1) == 0
    assert pace.due(BEGIN_S + 50, 100) == 0
    assert times_of(pace, 100, every(1, 100)[51:]) == [BEGIN_S + 50 + n // 2 for n in range(2, 102)]


@pytest.mark.parametrize("end_s", [BEGIN_S, BEGIN_S - 5])
def test_without_time_all_are_due_at_once(end_s: float) -> None:
    assert Pace(BEGIN_S, end_s).due(BEGIN_S, 7) == 7
    assert Pace(BEGIN_S, end_s).wait_s(BEGIN_S, 7) == 0
    assert Pace(BEGIN_S, end_s).wait_s(BEGIN_S, 0) == 0


@given(
    st.lists(st.tuples(st.floats(0, 3), st.integers(-5, 5)), max_size=60),
    st.integers(0, 50),
    st.floats(0, 60),
)
def test_never_more_than_there_are_and_all_at_the_deadline(
    turns: list[tuple[float, int]], left: int, length_s: float
) -> None:
    pace, now_s = Pace(BEGIN_S, BEGIN_S + length_s), BEGIN_S
    for passed_s, change in turns:
        now_s += passed_s
        left = max(left + change, 0)
        due = pace.due(now_s, left)
        assert 0 <= due <= left
        left -= due
        assert not left or now_s < BEGIN_S + length_s
    left += random.randint(0, 3)
    assert pace.due(max(now_s, BEGIN_S + length_s), left) == left
