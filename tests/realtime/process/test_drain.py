"""Closing evenly, on a loop whose clock jumps: the times are exact, and hours take no time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest

from realtime.process.drain import FEW, FEW_GAP_S, LAST_S, STEP_S, Closable, close_evenly
from tests.support.uniform import CHI_SQUARE_MAX, chi_square
from tests.support.virtual_time import VirtualLoop, run_virtually

KINDS = ("native", "hosted", "stream")


class Worker:
    """Connections of several kinds, whose peers answer a close at once, unless they linger."""

    def __init__(self, count: int, *, lingers: bool = False, look_s: float = 0.0) -> None:
        self.open = {number: KINDS[number % len(KINDS)] for number in range(count)}
        self.lingering: set[int] = set()
        self.closed: list[tuple[float, str]] = []
        self.begin_s = asyncio.get_running_loop().time()
        self._lingers = lingers
        self._look_s = look_s  # what it takes to list the connections
        self._none = asyncio.Event()
        self._note()

    def closables(self) -> Iterator[Closable]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.spend(self._look_s)
        for number in self.open:
            yield Closable(partial(self.open.__contains__, number), partial(self.close, number))

    async def wait_until_none(self) -> None:
        await self._none.wait()

    def close(self, number: int) -> None:
        assert number in self.open, "closed once, and not after its end"
        self.closed.append((asyncio.get_running_loop().time() - self.begin_s, self.open[number]))
        if self._lingers:
            self.lingering.add(number)
        self.leave(number)

    def leave(self, number: int) -> None:
        """End by itself."""
        del self.open[number]
        self._note()

    def _note(self) -> None:
        if not self.open and not self.lingering:
            self._none.set()

    def times(self, kind: str | None = None) -> list[float]:
        return [time_s for time_s, each in self.closed if kind in (None, each)]


def drained(count: int, drain_s: float, *, is_stop: bool = False, lingers: bool = False) -> tuple[Worker, float]:
    """Drain a worker. Return it, and how long that took."""

    async def drain() -> tuple[Worker, float]:
        worker = Worker(count, lingers=lingers)
        await close_evenly(worker, drain_s, is_stop=is_stop)
        return worker, asyncio.get_running_loop().time() - worker.begin_s

    return run_virtually(drain())


@pytest.mark.parametrize("is_stop", [False, True])
@pytest.mark.parametrize("drain_s", [10.0, 60.0])
def test_400_clients_are_closed_evenly_and_so_is_each_kind(drain_s: float, is_stop: bool) -> None:
    worker, took_s = drained(400, drain_s, is_stop=is_stop)
    assert len(worker.closed) == 400
    assert chi_square(worker.times(), 0, drain_s) < CHI_SQUARE_MAX
    for kind in KINDS:  # the order is random: one draw in 400,000 is as uneven as this
        assert chi_square(worker.times(kind), 0, drain_s) < 40
    assert took_s == pytest.approx(drain_s, abs=STEP_S)


def test_a_few_connections_of_an_old_worker_live_for_hours() -> None:
    worker, took_s = drained(4, 86_400.0)
    assert worker.times() == pytest.approx([21_600.0, 43_200.0, 64_800.0, 86_400.0])
    assert took_s == pytest.approx(86_400.0)


def test_ten_thousand_are_closed_a_few_at_a_time() -> None:
    worker, _ = drained(10_000, 60.0)
    times = worker.times()
    assert max(Counter(times).values()) <= 10_000 / 60 * STEP_S + 2
    assert chi_square(times, 0, 60.0) < CHI_SQUARE_MAX


@pytest.mark.parametrize("count", range(FEW + 2))
def test_a_server_that_stops_does_not_wait_for_a_few_but_an_old_worker_lets_them_live(count: int) -> None:
    stopped, took_s = drained(count, 60.0, is_stop=True)
    replaced, took_long_s = drained(count, 60.0, is_stop=False)
    assert len(stopped.closed) == len(replaced.closed) == count
    if count <= FEW:
        assert took_s <= count * (FEW_GAP_S + STEP_S)
    else:
        assert took_s == pytest.approx(60.0)
    assert took_long_s == pytest.approx(60.0 if count else 0.0)


def test_a_drain_ends_with_its_last_client() -> None:
    async def drain() -> float:
        worker = Worker(3)
        loop = asyncio.get_running_loop()
        for number in range(3):
            loop.call_later(60.0 * (number + 1), worker.leave, number)
        await close_evenly(worker, 86_400.0, is_stop=False)
        assert worker.closed == [], "each has left before its time"
        return loop.time() - worker.begin_s

    assert run_virtually(drain()) == pytest.approx(180.0, abs=1.5)


def test_who_comes_in_the_middle_is_closed_as_well() -> None:
    async def drain() -> Worker:
        worker = Worker(10)
        loop = asyncio.get_running_loop()
        loop.call_later(30.0, worker.open.update, dict.fromkeys(range(100, 110), "native"))
        await close_evenly(worker, 60.0, is_stop=False)
        return worker

    worker = run_virtually(drain())
    assert len(worker.closed) == 20
    assert max(worker.times()) == pytest.approx(60.0)
    assert max(worker.times().count(each) for each in worker.times()) == 1, "no burst when they came"


def test_at_the_deadline_the_peers_get_a_moment_for_their_half() -> None:
    worker, took_s = drained(400, 10.0, lingers=True)
    assert len(worker.closed) == 400
    assert took_s == pytest.approx(10.0 + LAST_S)
    assert drained(400, 10.0)[1] == pytest.approx(10.0, abs=STEP_S), "nothing is waited for when none is left"


@pytest.mark.parametrize("count", [FEW, FEW + 1, 400])
def test_the_last_is_closed_and_not_left_to_be_cut_though_listing_them_takes_time(count: int) -> None:
    async def drain() -> Worker:
        worker = Worker(count, look_s=0.005)
        await close_evenly(worker, 10.0, is_stop=True)
        return worker

    assert len(run_virtually(drain()).closed) == count


def test_without_time_all_are_closed_at_once_and_still_with_their_code() -> None:
    worker, took_s = drained(400, 0.0, lingers=True)
    assert worker.times() == [0.0] * 400
    assert took_s == pytest.approx(LAST_S)
