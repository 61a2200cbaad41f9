"""
What is promised: each target as a ratio of medians, or an amount, and whether the runs at hand meet it.

Pure: runs in, verdicts out. A ratio is made within a round, of runs that stood beside each other in time, and the
median of the rounds counts. A failed run is in no ratio. Where nothing can be compared, that is the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from benchmarks.rounds import good
from benchmarks.scenarios import Run

Amount = Callable[[Run], float]


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: a scenario, who may stand for it (the better one does), and what is compared."""

    scenario: str
    contestants: tuple[str, ...]
    amount: Amount
    per: tuple[str, str] | None = None
    """Another scenario and contestant by whose amount it is divided first, within a round."""

    def by_round(self, runs: Sequence[Run]) -> dict[int, float]:
        """Return the amount of each round, of the contestant whose median is the least."""
        best: dict[int, float] = {}
        for name in self.contestants:
            amounts = _amounts(runs, self.scenario, name, self.amount)
            if self.per is not None:
                below = _amounts(runs, *self.per, self.amount)
                amounts = {number: amounts[number] / below[number] for number in amounts if below.get(number)}
            if amounts and (not best or median(amounts.values()) < median(best.values())):
                best = amounts
        return best


def _amounts(runs: Sequence[Run], scenario: str, contestant: str, amount: Amount) -> dict[int, float]:
    same = [each for each in good(runs) if each.scenario == scenario and each.contestant == contestant]
    return {each.round: amount(each) for each in same}


@dataclass(frozen=True, slots=True)
class Target:
    """`ours` over `theirs` is at most `limit`, or at least where `at_least`; without `theirs` it is an amount."""

    name: str
    limit: float
    ours: Side
    theirs: Side | None = None
    at_least: bool = False
    unit: str = "×"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a target stands: the median of the rounds with least and most; None where nothing could be compared."""

    target: Target
    value: float | None
    least: float | None = None
    most: float | None = None
    rounds: int = 0

    @property
    def is_met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.target.limit if self.target.at_least else self.value <= self.target.limit

    @property
    def word(self) -> str:
        return {True: "met", False: "not met", None: "not measured"}[self.is_met]


def judge(target: Target, runs: Sequence[Run]) -> Verdict:
    """Compare what the runs hold."""
    ours = target.ours.by_round(runs)
    if target.theirs is None:
        ratios = list(ours.values())
    else:
        theirs = target.theirs.by_round(runs)
        ratios = [ours[number] / theirs[number] for number in ours if theirs.get(number)]
    if not ratios:
        return Verdict(target, None)
    return Verdict(target, median(ratios), min(ratios), max(ratios), len(ratios))


def _serving(run: Run) -> float:
    return run.serving_us


def _everything(run: Run) -> float:
    return run.all_us


def _primary(run: Run) -> float:
    return run.cpu_us.get("primary", 0.0)


def _units_per_us(run: Run) -> float:
    return 1 / run.serving_us


def _uss_kb(run: Run) -> float:
    value = run.values["uss_bytes"]
    assert value is not None
    return value / 1000


def _per_second(run: Run) -> float:
    value = run.values["per_second"]
    assert value is not None
    return value


def _connection_memory(run: Run) -> float:
    value = run.values["connection_memory"]
    assert value is not None
    return value


def _side(scenario: str, *contestants: str, amount: Amount = _serving, per: tuple[str, str] | None = None) -> Side:
    return Side(scenario, contestants, amount, per)


_S1: Final = _side("S1", "realtime")
_WEBSOCKETS: Final = ("websockets (uvloop)", "websockets (asyncio)")
_MOVES: Final = _side("S13", "realtime", amount=_everything)
_FLAT: Final = "S12-flat-out"

TARGETS: Final = (
    Target("S1 CPU per delivery, to the floor", 1.35, _S1, _side("S1", "floor")),
    Target("S1 CPU per delivery, to ws", 0.75, _S1, _side("S1", "ws")),
    Target("S1 CPU per delivery, to Socket.IO", 0.65, _S1, _side("S1", "Socket.IO")),
    Target("S1 CPU per delivery, to python-socketio", 0.15, _S1, _side("S1", "python-socketio")),
    Target("S2 CPU per delivery in bursts of one client, to our S1", 0.2, _side("S2", "realtime"), _S1),
    Target(
        "S2 CPU per delivery in bursts of the server, to our S1", 0.2, _side("S2", "realtime, server publishes"), _S1
    ),
    Target("S3 CPU per delivery in 1,000 rooms, to our S1", 1.6, _side("S3", "realtime"), _S1),
    *(
        Target(
            f"S4 {title} through Redis, to redis-py's publish + listen, {listeners}",
            0.1,
            _side(scenario, contestant),
            _side(scenario, f"redis-py, {listeners}"),
        )
        for title, scenario, contestant in (
            ("one at a time", "S4", "realtime, Redis"),
            ("sixteen at once", "S4-bursts", "realtime, Redis"),
            ("sixteen at once by the server", "S4-bursts", "realtime, server publishes, Redis"),
        )
        for listeners in ("1 listener", "4 listeners")  # of one publication: each of four costs less than one alone
    ),
    Target(
        "S4 one at a time, all processes: local broker to Redis",
        1.0,
        _side("S4", "realtime, local broker", amount=_everything),
        _side("S4", "realtime, Redis", amount=_everything),
    ),
    Target(
        "S4 sixteen at once, all processes: local broker to Redis",
        1.0,
        _side("S4-bursts", "realtime, local broker", amount=_everything),
        _side("S4-bursts", "realtime, Redis", amount=_everything),
    ),
    Target(
        "S4 sixteen at once by the server, all processes: local broker to Redis",
        1.0,
        _side("S4-bursts", "realtime, server publishes, local broker", amount=_everything),
        _side("S4-bursts", "realtime, server publishes, Redis", amount=_everything),
    ),
    Target("S5 CPU per request, to websockets' echo", 0.5, _side("S5", "realtime"), _side("S5", *_WEBSOCKETS)),
    Target(
        "S6 CPU per connection in the primary, to @socket.io/sticky's",
        0.25,
        _side("S6", "realtime, 2 workers", amount=_primary),
        _side("S6", "Socket.IO, sticky cluster of 2", amount=_primary),
    ),
    Target(
        "S6 CPU per connection, all of it, to Socket.IO's cluster",
        1.0,
        _side("S6", "realtime, 2 workers"),
        _side("S6", "Socket.IO, sticky cluster of 2"),
    ),
    Target("S7 user space per idle connection", 8.0, _side("S7", "realtime", amount=_uss_kb), unit="KB"),
    Target(
        "S12 HTTP requests per CPU, to uvicorn alone",
        0.97,
        _side("S12-http", "realtime hosting", amount=_units_per_us),
        _side("S12-http", "uvicorn", amount=_units_per_us),
        at_least=True,
    ),
    Target(
        "S12 WebSocket echo per CPU, to uvicorn alone",
        0.97,
        _side("S12-echo", "realtime hosting", amount=_units_per_us),
        _side("S12-echo", "uvicorn", amount=_units_per_us),
        at_least=True,
    ),
    Target(
        "S12 requests a second, two workers over one, to gunicorn's",
        1.0,
        _side(_FLAT, "realtime hosting, 2 workers", amount=_per_second, per=(_FLAT, "realtime hosting")),
        _side(_FLAT, "gunicorn, 2 workers", amount=_per_second, per=(_FLAT, "uvicorn")),
        at_least=True,
    ),
    Target("S13 CPU per connection that moves, all processes", 150, _MOVES, unit="µs"),
    Target(
        "S13 CPU per connection that moves, to one that reconnects",
        0.25,
        _MOVES,
        _side("S13", "realtime, without moves", amount=_everything),
    ),
    Target(
        "S13 memory of connections while they move, to before",
        1.2,
        _side("S13", "realtime", amount=_connection_memory),
    ),
)


def verdicts(runs: Sequence[Run]) -> list[Verdict]:
    """Judge every target."""
    return [judge(target, runs) for target in TARGETS]
