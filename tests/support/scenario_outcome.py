"""What the main scenario is played with, what it has shown, and how that is printed. Plain data, and text of it."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Plan:
    """
    How large, and on what.

    Attributes:
        clients: raw clients.
        sdks: clients of each of the five kinds of stock clients.
        rooms, rate: in each room so many publications a second.
        connects: so many connects a second.
        broker: "local" or "redis".
        machines: of which the first is deployed; two need "redis".
        processes: of raw clients.
        only: the steps whose names begin so.
        seconds: no step begins later than that after the first.
    """

    clients: int
    sdks: int
    rooms: int = 50
    rate: float = 2.0
    connects: float = 100.0
    sticky: str = "ip"
    broker: str = "local"
    machines: int = 1
    processes: int = 1
    only: str = ""
    seconds: float = 3600


@dataclass
class Step:
    """What one step has shown."""

    name: str
    took_s: float
    gaps_s: list[float]
    noticed: int
    connects: int
    failed: int


@dataclass
class Outcome:
    """What the whole scenario has shown."""

    plan: Plan
    steps: list[Step] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """Steps that were not played: clients had noticed something before, or the time was over."""
    faults: list[str] = field(default_factory=list)
    moves: list[int] = field(default_factory=list)
    """Of each raw client of the machine that was deployed."""
    not_moved: Counter[str] = field(default_factory=Counter)
    """Offers of a connection that came to nothing, by reason. What stays moves later or is closed, a fault."""
    published: int = 0
    delivered: int = 0
    answered: int = 0
    refused: int = 0
    reset_while_killed: int = 0
    slowest_connect_s: float = 0.0
    tuples: int = 0

    @property
    def gaps_s(self) -> list[float]:
        """The longest gap of each client, in all steps."""
        return [max(each) for each in zip(*(step.gaps_s for step in self.steps), strict=True)]


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)] if values else 0.0


def row(step: Step) -> str:
    gaps = [percentile(step.gaps_s, share) * 1000 for share in (0.5, 0.99, 1.0)]
    return (
        f"{step.name:26} {step.took_s:6.1f} s  gap p50 {gaps[0]:4.0f}  p99 {gaps[1]:5.0f}  max {gaps[2]:5.0f} ms  "
        f"noticed {step.noticed}  connects {step.connects}, failed {step.failed}"
    )


def summary(outcome: Outcome) -> str:
    gaps = [percentile(outcome.gaps_s, share) * 1000 for share in (0.5, 0.99, 1.0)]
    moves = outcome.moves or [0]
    lines = [
        f"{outcome.plan}",
        f"connections              {outcome.tuples}, with the same TCP 4-tuple and socket before and after",
        f"moved                    {sum(moves)} times ({min(moves)} to {max(moves)} each)",
        f"stayed for a while       {dict(outcome.not_moved) or 'none'}",
        f"published, delivered     {outcome.published}, {outcome.delivered}",
        f"connects                 {outcome.answered} answered, {outcome.refused} refused, "
        f"{outcome.reset_while_killed} reset while pending in a killed primary; "
        f"slowest {outcome.slowest_connect_s:.2f} s",
        f"gap of a client          p50 {gaps[0]:.0f}  p99 {gaps[1]:.0f}  max {gaps[2]:.0f} ms",
        f"load average             {' '.join(f'{each:.1f}' for each in os.getloadavg())}",
        f"steps left out           {', '.join(outcome.left_out) or 'none'}",
        f"what a client noticed    {len(outcome.faults)}",
    ]
    return "\n".join([*lines, *outcome.faults[:40]])
