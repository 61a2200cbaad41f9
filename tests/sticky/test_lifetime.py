"""When a worker has lived long enough."""

from __future__ import annotations

import os

from sticky.lifetime import Lifetime, resident_bytes


def test_each_bound_ends_a_life_and_none_is_no_bound() -> None:
    assert Lifetime().ended(pid=os.getpid(), age_s=1e9, adopted=10**9) is None
    assert Lifetime(seconds=10.0).ended(pid=0, age_s=9.9, adopted=0) is None
    assert Lifetime(seconds=10.0).ended(pid=0, age_s=10.0, adopted=0) == "it has served for 10 s"
    assert Lifetime(connections=5).ended(pid=0, age_s=0.0, adopted=4) is None
    assert Lifetime(connections=5).ended(pid=0, age_s=0.0, adopted=5) == "it has had 5 connections"


def test_the_memory_of_a_process_is_what_the_kernel_says() -> None:
    used = resident_bytes(os.getpid())
    assert used > 1024**2, "an interpreter has more than a MiB"
    reason = Lifetime(memory_bytes=1024**2).ended(pid=os.getpid(), age_s=0.0, adopted=0)
    assert reason is not None
    assert reason.endswith("MiB of memory")
    assert Lifetime(memory_bytes=1024**4).ended(pid=os.getpid(), age_s=0.0, adopted=0) is None


def test_a_process_that_is_gone_has_no_memory() -> None:
    assert resident_bytes(2**22 + 1) == 0, "above the largest pid that Linux gives"


def test_drawn_bounds_are_shorter_by_at_most_the_jitter_and_draw_again_the_same() -> None:
    bounds = Lifetime(seconds=1000.0, memory_bytes=5, connections=1000, jitter=0.2)
    drawn = [bounds.draw() for _ in range(200)]
    assert all(800.0 <= each.seconds <= 1000.0 for each in drawn if each.seconds is not None)
    assert all(800 <= each.connections <= 1000 for each in drawn if each.connections is not None)
    assert len({each.seconds for each in drawn}) > 100, "workers that start together do not end together"
    assert {each.memory_bytes for each in drawn} == {5}
    assert drawn[0].draw() == drawn[0]


def test_a_bound_of_one_connection_stays_one() -> None:
    assert Lifetime(connections=1, jitter=1.0).draw().connections == 1
