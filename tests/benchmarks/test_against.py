"""Another revision beside the tree: its place in the scenarios, what is started, and the ratios."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.against import CannotBuild, build, ratios, with_revision
from benchmarks.contestants import CONTESTANTS
from benchmarks.machine import Noise
from benchmarks.scenarios import SCENARIOS, Run
from benchmarks.servers import Build, Ours

OTHER = Build("@0123456789ab", "/elsewhere/bin/python", Path("/elsewhere"))


def ran(contestant: str, number: int, cost: float, *faults: str) -> Run:
    noise = Noise(**dict.fromkeys(Noise.__dataclass_fields__, 0.0))
    return Run("S1", contestant, number, 1, {"workers": cost, "broker": 50.0}, {}, {}, list(faults), noise, False)


def test_each_of_ours_stands_in_its_scenarios_a_second_time_and_no_peer_does() -> None:
    scenario = SCENARIOS["S1"]
    [wider], present = with_revision([scenario], CONTESTANTS, OTHER)
    ours = [name for name in scenario.contestants if CONTESTANTS[name].is_ours]
    assert ours
    for name in ours:
        at = wider.contestants.index(name)
        assert wider.contestants[at + 1] == f"{name} {OTHER.name}"
    assert len(wider.contestants) == len(scenario.contestants) + len(ours)
    assert set(wider.contestants) <= present.keys()


def test_the_revision_is_started_by_its_own_interpreter_in_its_own_directory(tmp_path: Path) -> None:
    [_], present = with_revision([SCENARIOS["S1"]], CONTESTANTS, OTHER)
    there, here = present[f"realtime {OTHER.name}"].start(tmp_path), present["realtime"].start(tmp_path)
    assert isinstance(there, Ours)
    assert isinstance(here, Ours)
    assert (there.argv[0], there.cwd) == (OTHER.python, OTHER.directory)
    assert there.argv[1:] == here.argv[1:]
    assert here.argv[0] != OTHER.python


def test_a_ratio_is_the_median_of_the_rounds_in_which_both_were_clean() -> None:
    runs = [
        *(ran("realtime", number, cost) for number, cost in enumerate((9.0, 11.0, 10.0, 99.0))),
        *(ran(f"realtime {OTHER.name}", number, 10.0) for number in range(3)),
        ran(f"realtime {OTHER.name}", 3, 10.0, "lost one"),
    ]
    assert ratios(runs, OTHER) == [f"S1, realtime: 1.000 of {OTHER.name} (0.900 to 1.100 in 3 rounds)"]
    assert ratios([replace(each, faults=["lost"]) for each in runs], OTHER) == []


def test_a_revision_that_is_not_known_is_refused_in_a_sentence() -> None:
    with pytest.raises(CannotBuild, match="git rev-parse"):
        build("no-such-revision")
