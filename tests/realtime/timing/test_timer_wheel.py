"""
The timer wheel: what runs when, in which order, and the effect of a cancelled or failing callback on the others.

Times are arguments, never waited for. One test makes a random sequence of operations and compares the wheel with the
plain definition: never early, at most a tick late.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.timing.timer_wheel import CANCELLED_MIN, TICK_S, TimerWheel, run_wheel
from tests.support.aio import run_async


def test_timers_run_in_the_order_of_their_ticks_and_within_a_tick_as_they_were_made() -> None:
    ran: list[str] = []
    wheel = TimerWheel(100.0, tick_s=1.0)
    for delay_s, name in ((5, "c"), (1, "a"), (5.5, "d"), (2, "b"), (9, "e")):
        wheel.after(delay_s, ran.append, name)
    wheel.advance(106.999)
    assert ran == ["a", "b", "c", "d"]
    wheel.advance(200.0)
    assert ran == ["a", "b", "c", "d", "e"]
    assert len(wheel) == 0


def test_a_timer_runs_once() -> None:
    ran: list[None] = []
    wheel = TimerWheel(0.0)
    wheel.after(1, ran.append)
    for now in range(100):
        wheel.advance(float(now))
    assert ran == [None]


@pytest.mark.parametrize("delay_s", [0, 0.001, 0.25, 0.2499, 1, 24.999, 25, 3600])
@pytest.mark.parametrize("start_s", [0.0, 0.1, 0.25, 12345.678])
def test_a_timer_is_never_early_and_at_most_a_tick_late(start_s: float, delay_s: float) -> None:
    ran: list[None] = []
    wheel = TimerWheel(start_s)
    wheel.after(delay_s, ran.append)
    if delay_s:
        wheel.advance(start_s + delay_s - 1e-6)
        assert ran == []
    wheel.advance(start_s + delay_s + TICK_S)
    assert ran == [None]


def test_what_is_cancelled_does_not_run_and_is_forgotten_with_its_tick() -> None:
    ran: list[str] = []
    wheel = TimerWheel(0.0)
    kept, cancelled = wheel.after(1, ran.append, "kept"), wheel.after(1, ran.append, "cancelled")
    cancelled.cancel()
    cancelled.cancel()
    assert cancelled.argument is None, "it holds nothing alive"
    assert len(wheel) == 2
    wheel.advance(2)
    assert (ran, len(wheel)) == (["kept"], 0)
    kept.cancel()


def test_a_callback_may_cancel_another_of_the_same_tick() -> None:
    ran: list[str] = []
    wheel = TimerWheel(0.0)
    wheel.after(1, lambda _: other.cancel())
    other = wheel.after(1, ran.append, "other")
    wheel.advance(2)
    assert ran == []


def test_a_callback_that_makes_a_timer_makes_it_from_now_on() -> None:
    ran: list[float] = []
    wheel = TimerWheel(0.0, tick_s=1.0)

    def again(argument: Any) -> None:
        ran.append(argument)
        if len(ran) < 4:
            wheel.after(0, again, argument + 1)

    wheel.after(0, again, 1)
    wheel.advance(1)
    assert ran == [1], "one that is due at once waits for the next tick: no callback holds up the loop for ever"
    for now in range(2, 6):
        wheel.advance(float(now))
    assert ran == [1, 2, 3, 4]


def test_a_callback_that_fails_is_logged_and_the_others_run(caplog: pytest.LogCaptureFixture) -> None:
    ran: list[str] = []
    wheel = TimerWheel(0.0)

    def fail(_: Any) -> None:
        raise RuntimeError("a bug")

    wheel.after(1, fail)
    wheel.after(1, ran.append, "same tick")
    wheel.after(2, ran.append, "later tick")
    with caplog.at_level(logging.ERROR, "realtime.wheel"):
        wheel.advance(5)
    assert ran == ["same tick", "later tick"]
    assert "RuntimeError: a bug" in caplog.text


@pytest.mark.parametrize("now", [-5.0, 0.0, 9.9])
def test_a_clock_that_goes_back_or_stands_still_does_nothing(now: float) -> None:
    ran: list[None] = []
    wheel = TimerWheel(10.0)
    wheel.after(0.5, ran.append)
    wheel.advance(now)
    assert ran == []
    wheel.advance(10.75)
    assert ran == [None]


def test_after_a_long_stop_everything_due_runs_once_and_in_order() -> None:
    ran: list[int] = []
    wheel = TimerWheel(0.0)
    for number in (3, 1, 2):
        wheel.after(number * 1000.0, ran.append, number)
    wheel.after(10.0**9, ran.append, 4)
    wheel.advance(10.0**7)
    assert ran == [1, 2, 3]
    assert len(wheel) == 1


def test_what_was_cancelled_does_not_wait_for_its_time_which_may_be_a_month_away() -> None:
    ran: list[int] = []
    wheel = TimerWheel(0.0)
    kept = [wheel.after(86400.0 * 30, ran.append, number) for number in range(100)]
    for number in range(20_000):
        wheel.after(86400.0 + number, ran.append, None).cancel()
        assert len(wheel) <= 2 * len(kept) + CANCELLED_MIN
    kept[0].cancel()
    wheel.advance(86400.0 * 31)
    assert ran == list(range(1, 100))
    assert len(wheel) == 0


def test_a_timer_that_ran_holds_nothing_alive_and_may_be_cancelled() -> None:
    wheel = TimerWheel(0.0)
    timer = wheel.after(1, lambda _: None, "argument")
    wheel.advance(2)
    timer.cancel()
    assert (timer.callback, timer.argument) == (None, None)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("after"), st.floats(0, 50)),
            st.tuples(st.just("advance"), st.floats(0, 30)),
            st.tuples(st.just("cancel"), st.floats(0, 1, exclude_max=True)),
        ),
        max_size=60,
    )
)
def test_whatever_happens_each_timer_runs_in_its_time(acts: list[tuple[str, float]]) -> None:
    wheel, now = TimerWheel(7.0), 7.0
    due: list[float] = []
    timers = []
    ran: dict[int, float] = {}
    gone: set[int] = set()

    def run(number: int) -> None:
        ran[number] = now

    for act, value in acts:
        if act == "after":
            timers.append(wheel.after(value, run, len(due)))
            due.append(now + value)
        elif act == "cancel" and timers:
            number = int(value * len(timers))
            timers[number].cancel()
            if number not in ran:
                gone.add(number)
        elif act == "advance":
            now += value
            wheel.advance(now)
            for number, at in enumerate(due):
                assert number not in ran or ran[number] >= at - 1e-9, "never early"
                if number not in gone and now >= at + TICK_S + 1e-9:
                    assert number in ran, "at most a tick late"
    assert not gone & ran.keys()


@run_async
async def test_the_loops_own_time_turns_it_until_cancelled() -> None:
    wheel = TimerWheel(asyncio.get_running_loop().time())
    came = asyncio.Event()
    turning = asyncio.create_task(run_wheel(wheel))
    wheel.after(0, lambda _: came.set())
    await came.wait()
    turning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turning
