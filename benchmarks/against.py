"""
Another revision of this project beside the tree, for `--against REV`: built once, and measured in the same rounds.

Runs in the bench's process. The revision's files go to a directory of their own, with an environment of their own, in
which pip installs them: so the two share neither modules nor settings. The application that is served is the tree's for
both. What a revision cannot do (an option that it lacks) makes its runs fail, and the report says so.
"""

from __future__ import annotations

import io
import statistics
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchmarks.compile import CACHE
from benchmarks.contestants import Contestant
from benchmarks.errors import BenchError
from benchmarks.scenarios import Run, Scenario
from benchmarks.servers import BUILD, ROOT, Build

DIGITS: Final = 12  # of a revision's hash, in names


class CannotBuild(BenchError):
    """A revision is not known, or pip could not install it."""


def build(revision: str) -> Build:
    """
    Return a revision as it can be started; build it where that was not done before.

    Args:
        revision: anything that `git rev-parse` knows.

    Raises:
        CannotBuild: there is no such revision, or it cannot be installed.
    """
    full = _run(["git", "rev-parse", "--verify", f"{revision}^{{commit}}"]).decode().strip()
    name = full[:DIGITS]
    place = CACHE / "against" / name
    python = place / "venv" / "bin" / "python"
    done = place / "installed"
    if not done.exists():
        source = place / "source"
        source.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(_run(["git", "archive", "--format=tar", full]))) as archive:
            archive.extractall(source, filter="data")
        _run([sys.executable, "-m", "venv", str(place / "venv")])
        # The same versions of other packages for both: what differs is this project alone.
        frozen = _run([sys.executable, "-m", "pip", "freeze", "--exclude-editable", "--exclude", "realtime-cluster"])
        constraints = place / "constraints.txt"
        constraints.write_bytes(b"\n".join(line for line in frozen.splitlines() if b" @ " not in line))
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
        _run([*pip, "install", "--constraint", str(constraints), str(source)])
        done.touch()
    return Build(f"@{name}", str(python), place)


def _run(argv: Sequence[str]) -> bytes:
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise CannotBuild(f"{' '.join(argv[:4])} …: {' '.join(last) or f'ended with {done.returncode}'}")
    return done.stdout


def with_revision(
    scenarios: Sequence[Scenario], present: dict[str, Contestant], other: Build
) -> tuple[list[Scenario], dict[str, Contestant]]:
    """Put each of our contestants into the scenarios a second time, right behind the first, as the revision has it."""
    more = {name: _of(contestant, other) for name, contestant in present.items() if contestant.is_ours}
    wider = []
    for scenario in scenarios:
        names: list[str] = []
        for name in scenario.contestants:
            names += [name, more[name].name] if name in more else [name]
        wider.append(replace(scenario, contestants=tuple(names)))
    return wider, {**present, **{each.name: each for each in more.values()}}


def _of(contestant: Contestant, other: Build) -> Contestant:
    def start(directory: Path) -> Any:
        with _building(other):
            return contestant.start(directory)

    return replace(contestant, name=f"{contestant.name} {other.name}", start=start)


@contextmanager
def _building(other: Build) -> Iterator[None]:
    token = BUILD.set(other)
    try:
        yield
    finally:
        BUILD.reset(token)


def ratios(runs: Sequence[Run], other: Build) -> list[str]:
    """
    Give a sentence for each of our contestants: what primary and workers cost per unit, as a ratio to that.

    The ratio is the median over the rounds in which both runs were clean; a round is a pair.
    """
    clean = {(run.scenario, run.contestant, run.round): run for run in runs if not run.faults}
    pairs: dict[tuple[str, str], list[float]] = {}
    for (scenario, contestant, number), run in clean.items():
        there = clean.get((scenario, f"{contestant} {other.name}", number))
        if there is not None and there.serving_us > 0:
            pairs.setdefault((scenario, contestant), []).append(run.serving_us / there.serving_us)
    return [
        f"{scenario}, {contestant}: {statistics.median(found):.3f} of {other.name} "
        f"({min(found):.3f} to {max(found):.3f} in {len(found)} rounds)"
        for (scenario, contestant), found in pairs.items()
    ]
