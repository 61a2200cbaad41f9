"""
The bench itself: a tiny S1 through the real harness, with real processes and the load client in C.

Nothing here asserts a time or a rate. What is asserted is that the ledger is kept: clean for servers that deliver, and
a failed run for one that does not, however fast it is.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.compile import program
from benchmarks.contestants import CONTESTANTS, PLAIN_SPEAKS, Contestant
from benchmarks.rounds import Turn, run
from benchmarks.scenarios import SCENARIOS, Run
from benchmarks.servers import Server

pytestmark = pytest.mark.compiler


def _measured(contestant: Contestant) -> Run:
    return run(Turn(SCENARIOS["S1"], contestant, 0), quick=True)


def _floor_with(*dirt: str) -> Contestant:
    def start(directory: Path) -> Server:
        return Server([str(program("floor")), *dirt], directory)

    return Contestant("floor with dirt", start, lambda: None, PLAIN_SPEAKS)


@pytest.mark.parametrize("name", ["realtime", "floor"])
def test_who_delivers_everything_has_a_clean_ledger(name: str) -> None:
    measured = _measured(CONTESTANTS[name])
    assert measured.faults == []
    report = measured.report
    assert report["delivered"] == report["expected"] > 0
    assert measured.units == report["latency"]["count"] > 0
    assert measured.cpu_us["workers"] > 0
    assert [share for share, us in measured.curves["latency"] if us is None] == []


@pytest.mark.parametrize(
    ("dirt", "told"), [("--drop", "(lost|undelivered)"), ("--double", "doubled")], ids=["drop", "double"]
)
def test_a_dirty_ledger_is_a_failed_run(dirt: str, told: str) -> None:
    measured = _measured(_floor_with(dirt, "10"))
    assert re.search(rf"\b[1-9]\d* {told}\b", measured.faults[0])


def test_a_server_that_does_not_start_is_a_failed_run_and_not_the_end() -> None:
    def start(directory: Path) -> Server:
        return Server(["false"], directory)

    measured = _measured(Contestant("nobody", start, lambda: None, PLAIN_SPEAKS))
    assert "ended" in measured.faults[0]
    assert measured.units == 0
