"""
The order of the runs, and one run from its server's start to its end.

Runs in the bench's process. In each round every contestant of a scenario has its turn; every second round goes the
other way round (A B B A), so that what drifts on the machine falls on all alike. Each run has fresh processes. A server
that fails makes a failed run, never the end of the bench.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contestants import Contestant
from benchmarks.errors import RunFailed
from benchmarks.machine import Noise
from benchmarks.scenarios import Run, Scenario


@dataclass(frozen=True, slots=True)
class Turn:
    """One run to come."""

    scenario: Scenario
    contestant: Contestant
    round: int


def in_turn(scenarios: Iterable[Scenario], contestants: dict[str, Contestant], *, rounds: int) -> Iterator[Turn]:
    """Give the turns of all scenarios; contestants that are not in the dictionary have none."""
    for scenario in scenarios:
        present = [contestants[name] for name in scenario.contestants if name in contestants]
        for number in range(rounds):
            for contestant in present if number % 2 == 0 else reversed(present):
                yield Turn(scenario, contestant, number)


def run(turn: Turn, *, quick: bool = False) -> Run:
    """Start the contestant, measure it, and end it."""
    try:
        with (
            tempfile.TemporaryDirectory(prefix="bench-") as directory,
            turn.contestant.start(Path(directory)) as server,
        ):
            try:
                facts = turn.scenario.measure(turn.contestant, server, quick)
                facts["command"] = server.command()
            except RunFailed as failure:
                raise RunFailed(str(failure), server.log()) from failure
    except (RunFailed, OSError) as failure:
        return failed(turn, str(failure))
    return Run(scenario=turn.scenario.name, contestant=turn.contestant.name, round=turn.round, **facts)


def failed(turn: Turn, why: str) -> Run:
    """Return the run of a contestant that could not be measured."""
    return Run(
        scenario=turn.scenario.name,
        contestant=turn.contestant.name,
        round=turn.round,
        units=0,
        cpu_us={},
        values={},
        curves={},
        faults=[why],
        noise=Noise(0, 0, 0),
        is_noisy=False,
    )


def good(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that count: a dirty ledger is a failed run, whatever its speed."""
    return [each for each in runs if not each.faults]
