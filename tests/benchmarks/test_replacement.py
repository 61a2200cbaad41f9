"""What is made of samples of a worker's replacement, and what a gauge reads of a process."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from benchmarks.cpu import Gauge, children, listed_children
from benchmarks.replacement import SETTLE_S, Observed, Replacement, Sample, observe, rates_us

CONNECTIONS = 100
MB = 1024 * 1024
IDLE = {"source": 0.0, "primary": 0.0}


def at(at_s: float, **of: tuple[float, int, int]) -> Sample:
    """A sample: for each process its microseconds, descriptors and megabytes."""
    return Sample(at_s, {name: Observed(us, fds, mb * MB) for name, (us, fds, mb) in of.items()})


def a_move(*last: Sample) -> Replacement:
    """A hundred connections leave a worker that has twenty descriptors beside them."""
    return Replacement(
        [
            at(0.0, primary=(1000, 9, 5), source=(5000, 120, 40)),
            at(0.5, primary=(1900, 9, 5), source=(5100, 120, 40), target=(90000, 12, 20)),  # it boots
            at(0.9, primary=(1950, 9, 5), source=(5180, 121, 40), target=(300000, 13, 25)),  # both have a file open
            at(1.0, primary=(2000, 9, 5), source=(5200, 120, 40), target=(400000, 19, 30)),  # it has booted
            at(1.1, primary=(2050, 9, 5), source=(7000, 120, 42), target=(402000, 60, 35)),  # 120: copies on their way
            at(1.2, primary=(2100, 9, 5), source=(9200, 20, 38), target=(404000, 120, 40)),
            *last,
        ],
        CONNECTIONS,
    )


SETTLED = at(1.2 + SETTLE_S, primary=(2300, 9, 5), target=(405000, 120, 40))
ENDING = at(1.25, primary=(2200, 9, 5), source=(99000, 5, 38), target=(404500, 120, 40))


def test_it_is_over_when_the_new_worker_has_all_connections_and_the_old_one_none() -> None:
    whole = a_move()
    assert whole.is_over
    for number in range(1, len(whole.samples)):
        assert not Replacement(whole.samples[:number], CONNECTIONS).is_over
    left = at(1.2, source=(9200, 21, 38), target=(404000, 120, 40))
    assert not Replacement([*whole.samples[:-1], left], CONNECTIONS).is_over
    missing = at(1.2, source=(9200, 20, 38), target=(404000, 111, 40))
    assert not Replacement([*whole.samples[:-1], missing], CONNECTIONS).is_over


def test_an_old_worker_that_has_ended_has_let_go() -> None:
    ended = at(1.2, primary=(2100, 9, 5), target=(404000, 120, 40))
    assert Replacement([*a_move().samples[:-1], ended], CONNECTIONS).is_over


def test_neither_the_start_of_the_new_worker_nor_the_end_of_the_old_one_is_counted() -> None:
    for between in ((), (ENDING,)):
        cost = a_move(*between, SETTLED).cost_us(IDLE)
        assert cost == {"primary": 300, "source": 4000, "target": 5000}
    assert a_move(SETTLED).seconds == pytest.approx(0.2)


def test_what_the_load_costs_anyway_is_subtracted_and_both_workers_share_it() -> None:
    cost = a_move(SETTLED).cost_us({"source": 1000.0, "primary": 100.0})
    assert cost == pytest.approx({"primary": 300 - 30, "source": 4000 - 150, "target": 5000 - 150})


def test_what_all_of_it_used_has_the_start_and_the_end_in_it() -> None:
    assert a_move(ENDING, SETTLED).used_us() == {"primary": 1300, "source": 94000, "target": 405000}


def test_memory_is_the_most_that_both_workers_have_at_once() -> None:
    """Of the source 30 MB are there without connections, and of the target 30: it held 10 MB for them, then 18."""
    assert a_move(SETTLED).memory(empty=30 * MB) == (pytest.approx(1.8), pytest.approx(78 / 40))


def test_rates_are_by_second() -> None:
    before, after = at(1.0, source=(5000, 1, 1)), at(3.0, source=(9000, 1, 1))
    assert rates_us(before, after) == {"source": 2000}


def test_a_gauge_reads_a_process_until_it_ends() -> None:
    gauge = Gauge(os.getpid())
    before = observe(gauge)
    kept = mmap.mmap(-1, 8 * MB, flags=mmap.MAP_PRIVATE)  # no memory that was free already
    kept.write(os.urandom(8 * MB))
    read, write = os.pipe()
    after = observe(gauge)
    os.close(read), os.close(write)
    gauge.close()
    assert before is not None
    assert after is not None
    assert after.descriptors == before.descriptors + 2
    assert after.own > before.own + len(kept) // 2
    assert after.used_us > before.used_us


def test_a_process_that_has_ended_is_not_observed() -> None:
    argv: Sequence[str] = [sys.executable, "-c", "input()"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
        assert process.pid in listed_children(os.getpid())
        assert process.pid in children(os.getpid())
        gauge = Gauge(process.pid)
        assert observe(gauge) is not None
        process.communicate(b"\n")
    assert observe(gauge) is None
    gauge.close()
    assert process.pid not in listed_children(os.getpid())
