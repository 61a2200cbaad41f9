"""The poller that unit tests use behaves as the real one: time, order, readiness and failures."""

from __future__ import annotations

from collections import Counter

import pytest

from sticky.loop.poller import FAILED, HANGUP, READ, WRITE
from tests.support.fake_poller import READABLE, START_S, FakePoller


def test_timers_run_in_the_order_of_their_time_and_see_that_time() -> None:
    poller = FakePoller()
    called: list[tuple[str, float]] = []
    poller.after(2.0, lambda: called.append(("late", poller.now() - START_S)))
    poller.after(1.0, lambda: called.append(("early", poller.now() - START_S)))
    poller.after(1.5, lambda: called.append(("cancelled", 0.0))).cancel()
    poller.run_due(1.9)
    assert called == [("early", 1.0)]
    poller.run_due(2.0)
    assert called == [("early", 1.0), ("late", 2.0)]
    assert poller.passed_s == 2.0


def test_a_timer_that_a_callback_adds_runs_in_the_same_stretch_of_time() -> None:
    poller = FakePoller()
    called: list[float] = []

    def again() -> None:
        called.append(poller.passed_s)
        poller.after(1.0, again)

    poller.after(1.0, again)
    poller.run_for(3.5)
    assert called == [1.0, 2.0, 3.0]
    assert poller.next_due() == START_S + 4.0


def test_a_descriptor_gets_the_events_that_it_is_watched_for() -> None:
    poller = FakePoller()
    seen: list[int] = []
    poller.watch(7, READ, seen.append)
    poller.make_ready(7, READABLE | WRITE)
    poller.change(7, HANGUP)
    poller.make_ready(7, WRITE)
    poller.make_ready(7, HANGUP)
    assert seen == [READABLE, HANGUP]
    assert poller.mask_of(7) == HANGUP
    poller.forget(7)
    assert poller.mask_of(7) is None
    with pytest.raises(AssertionError, match="not watched"):
        poller.make_ready(7, READABLE)


def test_a_callback_that_raises_ends_neither_the_loop_nor_the_others() -> None:
    counters: Counter[str] = Counter()
    poller = FakePoller(counters=counters)
    called: list[str] = []

    def fail() -> None:
        raise RuntimeError("a bug")

    poller.after(1.0, fail, on_failed=lambda: called.append("closed"))
    poller.after(1.0, lambda: called.append("the other"))
    poller.watch(7, READ, lambda events: fail())
    poller.run_due(1.0)
    poller.make_ready(7, READABLE)
    assert called == ["closed", "the other"]
    assert poller.mask_of(7) is None, "without on_failed it is watched no longer"
    assert counters[FAILED] == 2
