"""Timers of the primary's loop: each is called once, in its time, or not at all, and none outstays its use."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from sticky.loop.poller import CANCELLED_MIN, FAILED, READ, WRITE, Poller
from tests.support.fake_poller import READABLE, FakeEpoll


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


def test_cancelled_timers_do_not_wait_for_their_time(poller: Poller, clock: Clock) -> None:
    called: list[int] = []
    kept = [poller.after(300.0 - number, lambda number=number: called.append(number)) for number in range(10)]
    for _ in range(20_000):  # as many clients, each of which sends a complete head at once
        poller.after(300.0, lambda: called.append(-1)).cancel()
        assert len(poller._timers) <= 2 * len(kept) + CANCELLED_MIN + 1
    clock.now += 400.0
    poller.run_once()
    assert called == list(range(9, -1, -1))
    assert not poller._timers


def test_a_timer_that_was_called_may_be_cancelled(poller: Poller, clock: Clock) -> None:
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


def test_timers_of_one_time_run_in_the_order_in_which_they_were_armed(poller: Poller, clock: Clock) -> None:
    called: list[int] = []
    for number in range(5):
        poller.after(1.0, lambda number=number: called.append(number))  # type: ignore[misc]
    clock.now += 1.0
    poller.run_once()
    assert called == [0, 1, 2, 3, 4]


def test_a_timer_that_is_armed_without_delay_by_a_timer_runs_in_the_same_round(poller: Poller, clock: Clock) -> None:
    called: list[str] = []
    poller.after(0.0, lambda: poller.after(0.0, lambda: called.append("inner")))
    poller.run_once()
    assert called == ["inner"]


def test_a_descriptor_that_is_forgotten_in_a_round_gets_no_event_of_that_round(poller: Poller) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[int] = []

    def on_readable(own: int, other: int) -> None:
        called.append(own)
        poller.forget(other)

    fds = [ours.fileno() for ours, _ in pairs]
    poller.watch(fds[0], READ, lambda events: on_readable(fds[0], fds[1]))
    poller.watch(fds[1], READ, lambda events: on_readable(fds[1], fds[0]))
    for _, theirs in pairs:
        theirs.send(b"x")
    poller.run_once()
    assert len(called) == 1, "both were ready, and the first took the other out"
    poller.forget(fds[0])  # once more is no error
    for pair in pairs:
        for sock in pair:
            sock.close()


def test_a_message_that_came_in_time_is_handled_before_its_deadline(poller: Poller, clock: Clock) -> None:
    ours, theirs = socket.socketpair()
    order: list[str] = []
    poller.watch(ours.fileno(), READ, lambda events: order.append("message") or ours.recv(1))
    poller.after(1.0, lambda: order.append("deadline"))
    theirs.send(b"x")
    clock.now += 1.0
    poller.run_once()
    assert order == ["message", "deadline"]
    ours.close()
    theirs.close()


def test_what_is_watched_can_be_changed(poller: Poller) -> None:
    ours, theirs = socket.socketpair()
    seen: list[int] = []
    poller.watch(ours.fileno(), READ, seen.append)
    poller.change(ours.fileno(), WRITE)
    poller.run_once()
    assert seen == [WRITE]
    ours.close()
    theirs.close()


def test_guarded_calls_go_on_whatever_one_of_them_raises(poller: Poller) -> None:
    called: list[str] = []

    def fail() -> None:
        raise RuntimeError("a bug")

    poller.guard(fail, on_failed=lambda: called.append("closed"))
    poller.guard(lambda: called.append("the next"))
    assert called == ["closed", "the next"]
    assert poller.counters[FAILED] == 1


def test_a_timer_can_be_cancelled_after_the_poller_was_closed(clock: Clock) -> None:
    poller = Poller(clock)
    timer = poller.after(1.0, lambda: None)
    poller.close()
    timer.cancel()


def test_a_message_that_came_while_the_process_was_stopped_is_handled_before_its_deadline(clock: Clock) -> None:
    class StoppedEpoll(FakeEpoll):
        """The process gets SIGSTOP inside the call that waits: the call ends without events when it continues."""

        def poll(self, timeout_s: float, /) -> list[tuple[int, int]]:
            if timeout_s:
                clock.now += 100.0
                self.ready.append((7, READABLE))
                return []
            return super().poll(timeout_s)

    poller = Poller(clock, epoll=StoppedEpoll())
    order: list[str] = []
    poller.watch(7, READ, lambda events: order.append("message"))
    poller.after(1.0, lambda: order.append("deadline"))
    poller.run_once()
    assert order == ["message", "deadline"]
