"""`python -m benchmarks`: run every scenario for us and for the peer in turn, and print a table of medians."""

from __future__ import annotations

import asyncio
import platform
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median
from typing import Any

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.scenarios import Run, broadcast, connects
from benchmarks.servers import Ours, Peer

Scenario = Callable[[Any], Coroutine[Any, Any, Run]]


@click.command()
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 50), help="Runs of each, in turn.")
@click.option("--members", default=500, show_default=True, type=click.IntRange(1, 5000), help="Members of the room.")
@click.option("--publications", default=100, show_default=True, type=click.IntRange(1, 100_000))
@click.option("--connections", default=1000, show_default=True, type=click.IntRange(1, 100_000))
def bench(rounds: int, members: int, publications: int, connections: int) -> None:
    """Measure what a delivery and a connection cost, beside `websockets`' own server."""
    scenarios: dict[str, Scenario] = {
        "broadcast": lambda server: broadcast(server, members=members, publications=publications, per_second=20),
        "connect": lambda server: connects(server, count=connections),
    }
    plan = [
        (name, ours)
        for number in range(rounds)
        for name in scenarios
        for ours in ((True, False), (False, True))[number % 2]
    ]
    console = Console()
    runs: list[Run] = []
    for name, ours in track(plan, "measuring", console=Console(stderr=True)):
        with tempfile.TemporaryDirectory() as directory:
            server: AbstractContextManager[Any] = (Ours if ours else Peer)(Path(directory))
            with server as running:
                runs.append(asyncio.run(scenarios[name](running)))
    console.print(f"Python {platform.python_version()}, {platform.machine()}, Linux {platform.release()}")
    console.print(table(runs))
    wrong = [f"{run.scenario}, {run.server}: {each}" for run in runs for each in run.faults]
    for each in wrong:
        console.print(f"ledger: {each}")
    console.print("every ledger is clean" if not wrong else "a run with such a ledger counts for nothing")
    sys.exit(1 if wrong else 0)


def table(runs: list[Run]) -> Table:
    """Put each scenario's medians beside each other."""
    made = Table("scenario", "server", "processor time", "of which", "least", "most", box=None, pad_edge=False)
    by_case: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        by_case[run.scenario, run.server].append(run)
    for (scenario, server), same in sorted(by_case.items()):
        totals = [run.total_us for run in same]
        parts = {name: median(run.per_unit_us[name] for run in same) for name in same[0].per_unit_us}
        made.add_row(
            scenario,
            server,
            f"{median(totals):.1f} µs a {same[0].unit}",
            ", ".join(f"{name} {value:.1f}" for name, value in parts.items()),
            f"{min(totals):.1f}",
            f"{max(totals):.1f}",
        )
    return made


if __name__ == "__main__":
    bench()
