"""What is made of runs: ratios within a round, verdicts, and a report in which a failed run is in no number."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.machine import Noise, describe
from benchmarks.page import page, picture
from benchmarks.report import Results, by_case, markdown
from benchmarks.scenarios import Run
from benchmarks.targets import TARGETS, Verdict, judge, verdicts

QUIET = Noise(0.0, 0.0, 0.0)
TO_THE_FLOOR = TARGETS[0]
WEBSOCKETS = next(each for each in TARGETS if each.name.startswith("S5"))


def a_run(contestant: str, number: int, us: float, *, scenario: str = "S1", faults: tuple[str, ...] = ()) -> Run:
    return Run(
        scenario=scenario,
        contestant=contestant,
        round=number,
        units=1000,
        cpu_us={"workers": us, "broker": 100.0},
        values={},
        curves={"latency": [(50.0, us), (99.0, 10 * us), (99.9, None)]},
        faults=list(faults),
        noise=QUIET,
        is_noisy=False,
    )


def test_a_ratio_is_made_within_a_round_and_their_median_counts() -> None:
    pairs = [(12.0, 10.0), (30.0, 20.0), (11.0, 10.0)]
    runs = [
        a_run(name, number, us)
        for number, pair in enumerate(pairs)
        for name, us in zip(("realtime", "floor"), pair, strict=True)
    ]
    verdict = judge(TO_THE_FLOOR, runs)
    assert (verdict.value, verdict.least, verdict.most, verdict.rounds) == (1.2, 1.1, 1.5, 3)
    assert verdict.word == "met"


def test_a_failed_run_is_in_no_ratio() -> None:
    runs = [a_run("realtime", 0, 1.0, faults=("3 lost",)), a_run("floor", 0, 10.0)]
    assert judge(TO_THE_FLOOR, runs) == Verdict(TO_THE_FLOOR, None)
    assert judge(TO_THE_FLOOR, runs).word == "not measured"


def test_of_two_that_may_stand_for_a_peer_the_better_one_does() -> None:
    runs = [
        a_run("realtime", 0, 30.0, scenario="S5"),
        a_run("websockets (asyncio)", 0, 100.0, scenario="S5"),
        a_run("websockets (uvloop)", 0, 50.0, scenario="S5"),
    ]
    assert judge(WEBSOCKETS, runs).value == 0.6
    assert judge(WEBSOCKETS, runs).is_met is False


def test_the_report_tells_every_run_and_reads_what_it_wrote(tmp_path: Path) -> None:
    results = Results(describe(), "python -m benchmarks", {"ws": "node is not there"}, False, [])
    results.begin_in(tmp_path)
    for each in (a_run("realtime", 0, 12.0), a_run("floor", 0, 10.0), a_run("floor", 1, 1.0, faults=("3 <lost>",))):
        results.runs.append(each)
        results.append_to(tmp_path)
    again = Results.read(tmp_path)
    assert again.runs == results.runs
    [ours, floor] = by_case(again.runs)
    assert (ours.contestant, floor.contestant) == ("realtime", "floor")
    assert floor.cpu is not None
    assert floor.cpu.most == 10.0
    text = markdown(again)
    assert "| S1 CPU per delivery, to the floor | ≤ 1.35 × | **1.2** |" in text
    assert "S1, round 2, floor: 3 <lost>" in text
    assert "ws: node is not there" in text
    drawn = ElementTree.fromstring(picture(again))
    assert drawn.tag.endswith("svg")
    assert "realtime" in [each.text for each in drawn.iter() if each.tag.endswith("text")]
    html = page(again)
    assert "3 &lt;lost&gt;" in html
    assert "<script" not in html
    assert "http" not in html.replace("http-equiv", "").replace("HTTP", "").replace("httptools", "")


def test_without_runs_every_target_is_not_measured() -> None:
    assert {each.word for each in verdicts([])} == {"not measured"}


def test_scenarios_that_are_measured_later_join_those_that_were(tmp_path: Path) -> None:
    first = Results(
        describe(), "one", {}, False, [a_run("realtime", 0, 12.0), a_run("realtime", 0, 3.0, scenario="S5")]
    )
    first.begin_in(tmp_path)
    second = Results(describe(), "two", {}, False, [])
    second.take_over(Results.read(tmp_path), ["S5"])
    second.begin_in(tmp_path)
    second.runs.append(a_run("realtime", 0, 4.0, scenario="S5"))
    second.append_to(tmp_path)
    both = Results.read(tmp_path)
    assert [(each.scenario, each.serving_us) for each in both.runs] == [("S1", 12.0), ("S5", 4.0)]
    assert both.command == "one; two"
    with pytest.raises(ValueError, match="another quick"):
        Results(describe(), "three", {}, True, []).take_over(both, [])
