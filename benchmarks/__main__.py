"""
`python -m benchmarks`: the command. Measures scenarios, ours and the peers' in turn, tells, and writes a report.

Runs in the bench's process, on the standard output of whoever measures. Exit status: 0 when every ledger of ours was
clean, 1 when one was not, 2 when nothing could be measured.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.against import CannotBuild, build, ratios, with_revision
from benchmarks.compile import program
from benchmarks.contestants import CONTESTANTS, Contestant
from benchmarks.errors import Absent, BenchError
from benchmarks.files import write
from benchmarks.machine import command_line, describe, raise_descriptor_limit
from benchmarks.profile import Profile, Profiler
from benchmarks.report import Results, by_case, words_for
from benchmarks.rounds import in_turn, run
from benchmarks.scenarios import SCENARIOS, Run, Scenario, Window, families
from benchmarks.targets import verdicts

FILE_COLUMNS: Final = 180  # of what is told, where nobody's terminal says how wide it is


def chosen_scenarios(names: Sequence[str]) -> list[Scenario]:
    """
    Return the scenarios that were named, all where none was.

    Raises:
        UsageError: there is no such.
    """
    if not names:
        return list(SCENARIOS.values())
    found: list[str] = []
    for name in names:
        if not families(name):
            raise click.UsageError(f"{name} is none of {', '.join(SCENARIOS)}")
        found += [each for each in families(name) if each not in found]
    return [SCENARIOS[name] for name in found]


def chosen_contestants(scenarios: Sequence[Scenario], only: str) -> tuple[dict[str, Contestant], dict[str, str]]:
    """Return who takes part, and why the others of these scenarios do not."""
    wanted = [each.strip().lower() for each in only.split(",") if each.strip()]
    present: dict[str, Contestant] = {}
    absent: dict[str, str] = {}
    for name in dict.fromkeys(name for scenario in scenarios for name in scenario.contestants):
        if wanted and not any(name.lower().startswith(each) for each in wanted):
            continue
        if why := CONTESTANTS[name].absent():
            absent[name] = why
        else:
            present[name] = CONTESTANTS[name]
    return present, absent


@click.command()
@click.argument("names", nargs=-1, metavar="[SCENARIO]...")
@click.option(
    "--rounds", type=click.IntRange(1, 50), help="Runs of each contestant, in turn.  [default: 5; quick or profile: 1]"
)
@click.option(
    "--quick", is_flag=True, help="Small runs, two minutes for all, to see that it works; the numbers mean little."
)
@click.option("--only", default="", metavar="NAME,NAME", help="Contestants whose names begin so.")
@click.option("--report", "directory", type=click.Path(file_okay=False, path_type=Path), help="Write a report there.")
@click.option("--more", is_flag=True, help="Keep the runs of other scenarios that are in its directory.")
@click.option("--again", is_flag=True, help="Measure nothing: write the report anew from the runs in its directory.")
@click.option(
    "--profile",
    "table",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a table there of where each microsecond goes, by perf, instead of a report.",
)
@click.option("--against", "revision", metavar="REV", help="Measure another revision of this project beside the tree.")
@click.option("--list", "listing", is_flag=True, help="Show the scenarios, and who takes part here.")
def bench(
    names: Sequence[str],
    rounds: int | None,
    quick: bool,
    only: str,
    directory: Path | None,
    more: bool,
    again: bool,
    table: Path | None,
    revision: str | None,
    listing: bool,
) -> None:
    """
    Measure what a delivery, a connection, a request and an idle client cost, beside a floor and other servers.

    \b
    Examples:
      python -m benchmarks --list
      python -m benchmarks S1 S5 --only realtime,floor
      python -m benchmarks --report docs/bench           all of it, about two hours
      python -m benchmarks S1 S6 --only realtime --against v0.1.0
      python -m benchmarks S5 --report docs/bench --more           one scenario anew
      python -m benchmarks S1 --only realtime,floor --profile profile.md
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=FILE_COLUMNS)
    scenarios = chosen_scenarios(names)
    if directory is None and (again or more):
        raise click.UsageError("--again and --more need --report: the directory that has runs.jsonl")
    if directory is not None and table is not None:
        raise click.UsageError("--report or --profile: a run that is profiled costs more than one that is not")
    if again and directory is not None:
        write(directory, Results.read(directory))
        return
    present, absent = chosen_contestants(scenarios, only)
    for name, why in absent.items():
        console.print(f"absent: {name}: {why}", style="yellow", highlight=False)
    other = None
    if revision:
        console.print(f"building {revision}, once", style="dim", highlight=False)
        try:
            other = build(revision)
        except CannotBuild as problem:
            raise click.UsageError(f"--against {revision}: {problem}") from None
        scenarios, present = with_revision(scenarios, present, other)
    if listing:
        console.print(listed(scenarios, present))
        return
    try:
        program("load"), program("floor")
    except BenchError as problem:
        console.print(f"nothing can be measured: {problem}", style="bold red", highlight=False)
        sys.exit(2)
    raise_descriptor_limit()
    profiler, profile = None, Profile()
    if table is not None:
        try:
            profiler = Profiler()
        except Absent as problem:
            raise click.UsageError(f"--profile: {problem}") from None
        Window.watch = profiler.watching
    turns = list(in_turn(scenarios, present, rounds=rounds or (1 if quick or table else 5)))
    results = Results(describe(), command_line(), dict(absent), quick, [])
    if directory is not None:
        if more:
            try:
                results.take_over(Results.read(directory), [each.name for each in scenarios])
            except (OSError, ValueError) as problem:
                raise click.UsageError(f"--more: {directory}: {problem}") from None
        results.begin_in(directory)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(turns))
        for turn in turns:
            progress.update(task, description=f"{turn.scenario.name} round {turn.round + 1}: {turn.contestant.name}")
            results.runs.append(run(turn, quick=quick))
            if profiler is not None:
                profile.add(results.runs[-1], profiler.take())
            if directory is not None:
                results.append_to(directory)
            progress.advance(task)
    tell(console, results)
    for line in ratios(results.runs, other) if other is not None else ():
        console.print(line, highlight=False)
    if table is not None:
        table.write_text(profile.markdown())
        console.print(f"profile: {table}", highlight=False)
    if directory is not None:
        write(directory, results)
        console.print(f"report: {directory}/report.html, report.md, runs.jsonl", highlight=False)
    sys.exit(1 if any(each.faults and present[each.contestant].is_ours for each in results.runs[-len(turns) :]) else 0)


def listed(scenarios: Sequence[Scenario], present: dict[str, Contestant]) -> Table:
    """Put the scenarios and who takes part into a table."""
    made = Table("scenario", "what", "unit", "contestants", box=None, pad_edge=False)
    for each in scenarios:
        made.add_row(each.name, each.title, each.unit, ", ".join(name for name in each.contestants if name in present))
    return made


def tell(console: Console, results: Results) -> None:
    """Show medians, targets and faults."""
    versions = ", ".join(f"{name} {number}" for name, number in results.machine["versions"].items())
    console.print(versions, style="dim", highlight=False)
    heads = ("", "contestant", "CPU, µs", "by", "p50, µs", "p99, µs", "")
    made = Table(*heads, box=None, pad_edge=False)
    for words in words_for(by_case(results.runs)):
        made.add_row(*words)
    console.print(made)
    for each in verdicts(results.runs):
        if each.value is not None and not results.quick:  # small runs decide nothing
            style = "green" if each.is_met else "red"
            sign = "≥" if each.target.at_least else "≤"
            told = (
                f"{each.word}: {each.target.name}: {each.value:.3g} {each.target.unit} ({sign} {each.target.limit:g})"
            )
            console.print(told, style=style, highlight=False)
    for wrong in failed_runs(results.runs):
        console.print(wrong, style="bold red", highlight=False, markup=False)


def failed_runs(runs: Sequence[Run]) -> list[str]:
    """Give a sentence for each failed run."""
    return [
        f"FAILED {each.scenario}, round {each.round + 1}, {each.contestant}: {'; '.join(each.faults)}"
        for each in runs
        if each.faults
    ]


if __name__ == "__main__":
    bench()
