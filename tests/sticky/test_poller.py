"""Timers of the primary's loop: each is called once, in its time, or not at all, and none outstays its use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sticky.poller import CANCELLED_MIN, Poller


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def poller(clock: Clock) -> Iterator[Poller]:
    poller = Poller(clock)
    yield poller
    poller.close()


def test_timers_that_are_called_off_do_not_wait_for_their_time(poller: Poller, clock: Clock) -> None:
    called: list[int] = []
    kept = [poller.after(300.0 - number, lambda number=number: called.append(number)) for number in range(10)]
    for _ in range(20_000):  # as many clients, each of which says something whole at once
        poller.after(300.0, lambda: called.append(-1)).cancel()
        assert len(poller._timers) <= 2 * len(kept) + CANCELLED_MIN + 1
    clock.now += 400.0
    poller.run_once()
    assert called == list(range(9, -1, -1))
    assert not poller._timers


def test_a_timer_that_was_called_may_be_called_off(poller: Poller, clock: Clock) -> None:
    called: list[str] = []
    first = poller.after(1.0, lambda: called.append("first"))
    second = poller.after(1.0, lambda: first.cancel())
    third = poller.after(1.5, lambda: called.append("third"))
    clock.now += 1.0
    poller.run_once()
    first.cancel()
    second.cancel()
    third.cancel()
    third.cancel()
    clock.now += 1.0
    poller.after(0.0, lambda: called.append("last"))
    poller.run_once()
    assert called == ["first", "last"]
