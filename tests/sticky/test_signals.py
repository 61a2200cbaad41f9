"""Signals as events of the loop: queued, in order, and the handlers from before come back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from sticky.loop.poller import Poller
from sticky.process.signals import queued_signals

NUMBERS = (signal.SIGUSR1, signal.SIGTTIN)


@pytest.fixture
def poller() -> Iterator[Poller]:
    poller = Poller()
    yield poller
    poller.close()


def test_a_signal_is_handled_in_the_loop_and_not_when_it_comes(poller: Poller) -> None:
    seen: list[list[signal.Signals]] = []
    with queued_signals(poller, NUMBERS, seen.append):
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTTIN)
        assert seen == [], "only queued"
        while sum(map(len, seen)) < 2:
            poller.run_once()
    assert [number for batch in seen for number in batch] == [signal.SIGUSR1, signal.SIGTTIN]


def test_a_signal_that_is_none_of_them_is_left_out(poller: Poller) -> None:
    seen: list[list[signal.Signals]] = []
    handled: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: handled.append(number))
    try:
        with queued_signals(poller, NUMBERS, seen.append):
            os.kill(os.getpid(), signal.SIGUSR2)
            poller.run_once()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert (seen, handled) == ([[]], [signal.SIGUSR2])


def test_afterwards_all_is_as_before(poller: Poller) -> None:
    handlers = [signal.getsignal(number) for number in NUMBERS]
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(RuntimeError), queued_signals(poller, NUMBERS, lambda numbers: None):
        raise RuntimeError("the loop ends with an error")
    assert [signal.getsignal(number) for number in NUMBERS] == handlers
    assert signal.set_wakeup_fd(-1) == wakeup
    signal.set_wakeup_fd(wakeup)
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_an_error_in_the_handler_does_not_end_the_watching(poller: Poller) -> None:
    seen: list[signal.Signals] = []

    def handle(numbers: list[signal.Signals]) -> None:
        seen.extend(numbers)
        raise RuntimeError("a bug")

    with queued_signals(poller, NUMBERS, handle):
        for count in (1, 2):
            os.kill(os.getpid(), signal.SIGUSR1)
            while len(seen) < count:
                poller.run_once()
    assert poller.counters["callbacks_failed"] == 2
