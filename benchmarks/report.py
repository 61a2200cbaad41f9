"""
What a report is made of: every run as JSON, medians by contestant, and the tables in Markdown.

Runs in the bench's process; pure but for reading and writing the files of one directory: `runs.jsonl` (its first line
says machine, versions and command, each other line is one run), `report.md`, and `report.html` and `costs.svg` by
`page`. It measures nothing.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.rounds import good
from benchmarks.scenarios import SCENARIOS, SERVING, Run
from benchmarks.targets import Verdict, verdicts

RUNS: Final = "runs.jsonl"
OURS: Final = "realtime-cluster"
DASH: Final = "–"


@dataclass(slots=True)
class Results:
    """All that one bench found. `older`: when, and with which version of ours, scenarios taken over were measured."""

    machine: dict[str, Any]
    command: str
    absent: dict[str, str]
    quick: bool
    runs: list[Run]
    older: dict[str, str] = field(default_factory=dict)

    def head(self) -> str:
        """Return the first line of runs.jsonl."""
        return json.dumps({name: value for name, value in asdict(self).items() if name != "runs"})

    def begin_in(self, directory: Path) -> None:
        """Begin the file, with the runs that there are."""
        directory.mkdir(parents=True, exist_ok=True)
        lines = [self.head(), *[json.dumps(each.raw()) for each in self.runs]]
        (directory / RUNS).write_text("\n".join(lines) + "\n")

    def append_to(self, directory: Path) -> None:
        """Write the last run behind the others."""
        with (directory / RUNS).open("a") as file:
            file.write(json.dumps(self.runs[-1].raw()) + "\n")

    def take_over(self, before: Results, scenarios: Collection[str]) -> None:
        """
        Take over what was measured before, but for scenarios that are measured anew.

        Raises:
            ValueError: that was something else: another machine, other versions but ours, or quick runs.
        """
        here, there = ({**each.machine, "date": "", "quick": each.quick} for each in (self, before))
        for each in (here, there):
            each["versions"] = {**each["versions"], OURS: ""}
        if differences := [name for name in here if here[name] != there.get(name)]:
            raise ValueError(f"the runs there are of another {', '.join(differences)}")
        self.runs = [each for each in before.runs if each.scenario not in scenarios]
        made = f"on {before.machine['date']} at {before.machine['versions'][OURS]}"
        self.older = {name: before.older.get(name, made) for name in dict.fromkeys(each.scenario for each in self.runs)}
        self.command = f"{before.command}; {self.command}"
        self.absent = {**before.absent, **self.absent}

    @classmethod
    def read(cls, directory: Path) -> Results:
        """Return what `begin_in` and `append_to` wrote."""
        head, *runs = [json.loads(line) for line in (directory / RUNS).read_text().splitlines()]
        return cls(**head, runs=[Run.from_raw(each) for each in runs])


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and most."""

    middle: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{short(self.middle)} ({short(self.least)}{DASH}{short(self.most)})"


def spread(amounts: Iterable[float]) -> Spread | None:
    """Return the spread of what there is, None of nothing."""
    all_of_them = list(amounts)
    return Spread(median(all_of_them), min(all_of_them), max(all_of_them)) if all_of_them else None


def short(amount: float | None) -> str:
    """Write an amount with three digits that count; what never came is ∞."""
    if amount is None:
        return "∞"
    if abs(amount) >= 100:
        return f"{amount:,.0f}"
    return f"{amount:.1f}" if abs(amount) >= 10 else f"{amount:.2f}"


@dataclass(frozen=True, slots=True)
class Case:
    """One contestant in one scenario, over all rounds. Failed runs are counted, and are in no number."""

    scenario: str
    contestant: str
    runs: tuple[Run, ...]

    @property
    def counted(self) -> list[Run]:
        return good(self.runs)

    @property
    def failed(self) -> int:
        return len(self.runs) - len(self.counted)

    @property
    def noisy(self) -> int:
        return sum(each.is_noisy for each in self.counted)

    @property
    def cpu(self) -> Spread | None:
        """Microseconds of primary and workers per unit."""
        return spread(each.serving_us for each in self.counted if each.cpu_us)

    def parts(self) -> dict[str, float]:
        """Return the median of each group of processes."""
        names = dict.fromkeys(name for each in self.counted for name in each.cpu_us)
        return {name: median(each.cpu_us.get(name, 0.0) for each in self.counted) for name in names}

    def value(self, name: str) -> Spread | None:
        """Return the spread of another thing that was measured."""
        found = [each.values.get(name) for each in self.counted]
        return spread(each for each in found if each is not None)

    def curve(self, name: str = "latency") -> list[tuple[float, float | None]]:
        """Return the delays by percentile, each the median of the rounds; None where half of them have none."""
        by_share: dict[float, list[float]] = defaultdict(list)
        for each in self.counted:
            for share, us in each.curves.get(name, []):
                by_share[share].append(float("inf") if us is None else us)
        middles = {share: median(all_of_them) for share, all_of_them in by_share.items()}
        return [(share, None if us == float("inf") else us) for share, us in sorted(middles.items())]

    def at(self, share: float) -> str:
        """Write one percentile of the delays, or of connecting."""
        for curve in (self.curve(), self.curve("connect")):
            for each, us in curve:
                if each == share:
                    return short(us)
        return ""

    def remarks(self) -> str:
        """Say what a reader has to know about the runs."""
        said = []
        if self.failed:
            said.append(f"{self.failed} of {len(self.runs)} failed")
        if self.noisy:
            said.append(f"{self.noisy} of {len(self.counted)} noisy")
        return ", ".join(said)


def by_case(runs: Sequence[Run]) -> list[Case]:
    """Put the runs of each contestant together, in the order of the scenarios."""
    found: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for each in runs:
        found[each.scenario, each.contestant].append(each)
    order = {name: number for number, name in enumerate(SCENARIOS)}
    cases = [Case(scenario, contestant, tuple(same)) for (scenario, contestant), same in found.items()]
    places = {
        (name, contestant): number
        for name, scenario in SCENARIOS.items()
        for number, contestant in enumerate(scenario.contestants)
    }
    return sorted(cases, key=lambda case: (order[case.scenario], places.get((case.scenario, case.contestant), 99)))


def words_for(cases: Iterable[Case]) -> list[list[str]]:
    """Return a row of words for each case, for the terminal."""
    return [
        [
            case.scenario,
            case.contestant,
            str(case.cpu or ""),
            ", ".join(f"{name} {short(us)}" for name, us in case.parts().items()),
            case.at(50),
            case.at(99),
            ", ".join(filter(None, [_extra(case), case.remarks()])),
        ]
        for case in cases
    ]


EXTRA: Final = {
    "S6": (("per_second", "a second"),),
    "S7": (("uss_bytes", "bytes"),),
    "S8": (("delivered_share", "delivered"), ("doubled", "doubled"), ("returns", "returns"), ("refused", "refused")),
    "S9": (("delivered_share", "delivered"), ("doubled", "doubled"), ("returns", "returns")),
    "S10": (("messages_per_member", "messages"), ("frames_per_member", "frames"), ("bytes_per_member", "bytes")),
    "S11": (("bytes_per_delivery", "bytes"),),
    "S12-flat-out": (("per_second", "a second"),),
    "S13": (
        ("wait_p99_ms", "wait p99, ms"),
        ("wait_max_ms", "wait at most, ms"),
        ("connection_memory", "memory of connections, ×"),
        ("worker_memory", "memory of workers, ×"),
        ("seconds", "seconds"),
        ("returns", "returns"),
    ),
}


def _extra(case: Case) -> str:
    told = [(name, case.value(value)) for value, name in EXTRA.get(case.scenario, ())]
    return ", ".join(f"{short(found.middle)} {name}" for name, found in told if found is not None)


# Markdown


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table; all but the first column to the right."""
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    return "\n".join([*lines, *[f"| {' | '.join(row)} |" for row in rows]])


def goal(verdict: Verdict) -> str:
    """Write what a target asks for."""
    sign = "≥" if verdict.target.at_least else "≤"
    return f"{sign} {verdict.target.limit:g} {verdict.target.unit}"


def targets_table(runs: Sequence[Run]) -> str:
    """Write every target, with how it stands."""
    rows = []
    for each in verdicts(runs):
        numbers = ["", ""]
        if each.value is not None:
            numbers = [f"**{each.value:.3g}**", f"{each.least:.3g}{DASH}{each.most:.3g}"]
        rows.append([each.target.name, goal(each), *numbers, each.word])
    return table(["target", "asked", "median", "least–most", ""], rows)


def columns(scenario: str) -> list[tuple[str, str]]:
    """Return what else a scenario's table shows: the value's name, and the column's."""
    return list(EXTRA.get(scenario, ()))


def scenario_rows(cases: Sequence[Case]) -> tuple[list[str], list[list[str]]]:
    """Return the heads and rows of one scenario's table."""
    scenario = SCENARIOS[cases[0].scenario]
    first = next((case.cpu for case in cases if case.cpu), None)
    parts = [name for name in (*SERVING, "broker") if any(name in case.parts() for case in cases)]
    extra = columns(scenario.name)
    heads = ["", f"CPU, µs per {scenario.unit}", f"to {cases[0].contestant}", *parts, "p50, µs", "p99, µs"]
    heads += [name for _, name in extra] + ["runs"]
    rows = []
    for case in cases:
        ratio = short(case.cpu.middle / first.middle) if case.cpu and first and first.middle else ""
        of_parts = [short(case.parts()[name]) if name in case.parts() else "" for name in parts]
        row = [case.contestant, str(case.cpu or ""), ratio, *of_parts, case.at(50), case.at(99)]
        row += [short(found.middle) if (found := case.value(value)) else "" for value, _ in extra]
        rows.append([*row, f"{len(case.counted)}" + (f" ({case.remarks()})" if case.remarks() else "")])
    return heads, rows


def replay_words(cases: Sequence[Case]) -> list[str]:
    """Say how soon who returned was there, and had what it missed: that is in no other delay."""
    said = []
    for case in cases:
        back, replay = dict(case.curve("back")), dict(case.curve("replay"))
        if not back:
            continue
        missed = "what was missed never came."
        if replay:
            missed = (
                f"what was missed came {short(replay.get(50))} µs (median), {short(replay.get(99))} µs (p99) after it "
                "was due, the absence included."
            )
        said.append(
            f"- {case.contestant}: back {short(back.get(50))} µs (median), {short(back.get(99))} µs (p99) after the "
            f"new connection's first packet; {missed}"
        )
    return said


def older_words(results: Results, scenario: str) -> list[str]:
    """Say when a scenario was measured, if not with the rest."""
    made = results.older.get(scenario)
    return [f"Measured {made}."] if made else []


def markdown(results: Results) -> str:
    """Write the report for a README, or for who reads in a terminal."""
    machine = results.machine
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    parts = [
        "# What it costs, measured",
        f"Made by `{results.command}` on {machine['date']}: {machine['cores']} cores of {machine['processor']}"
        f"{' (virtual)' if machine['virtual'] else ''}, {machine['memory_gib']} GiB, Linux {machine['kernel']}."
        + (" **Quick runs: they show that everything works, and their numbers mean little.**" if results.quick else ""),
        f"{versions}.",
        METHOD,
        "## Targets",
        targets_table(results.runs),
    ]
    cases = by_case(results.runs)
    for scenario in SCENARIOS.values():
        same = [case for case in cases if case.scenario == scenario.name]
        if same:
            parts += [f"## {scenario.name}: {scenario.title}", *older_words(results, scenario.name)]
            parts += [scenario.note] if scenario.note else []
            parts += [table(*scenario_rows(same))]
            parts += ["\n".join(said)] if (said := replay_words(same)) else []
    parts += ["## How they were started"]
    parts += ["\n".join(f"- {name}: `{command}`" for name, command in commands(results).items())]
    parts += ["## Absent", "\n".join(f"- {name}: {why}" for name, why in results.absent.items()) or "Nobody."]
    failures = [
        f"- {each.scenario}, round {each.round + 1}, {each.contestant}: {'; '.join(each.faults).splitlines()[0]}"
        for each in results.runs
        if each.faults
    ]
    parts += ["## Failed runs", "\n".join(failures) or "None: every ledger was clean."]
    return "\n\n".join(parts) + "\n"


METHOD: Final = """CPU is processor time of the server's processes by the kernel's clock of each process; the broker
(the local one, or Redis) has a column of its own. Numbers are medians of the rounds, with least and most; targets are
medians of the ratios of each round. Contestants take turns, every second round the other way round. Delays count from
when a message was due; what was not delivered took for ever; what a client got on its return is told by itself. One
load client, in C, loads all. A run is noisy when a
hypervisor took more than 1 % of a core, or other programs more than 10 %. A run with anything lost, doubled or out of
order failed, and is in no number."""


def commands(results: Results) -> dict[str, str]:
    """Return how each contestant was started; ports were drawn."""
    found = {each.contestant: each.command for each in results.runs if each.command}
    return {name: re.sub(r"\b\d{5}\b", "PORT", command) for name, command in found.items()}
