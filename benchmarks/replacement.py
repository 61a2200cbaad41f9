"""
What it costs to replace a worker while clients are connected: samples of all processes, and what is made of them.

Runs in the bench's process and looks at others. A process that ends takes its clock with it, and a process that begins
has used some processor time before a client comes near it. So the clocks are read every few milliseconds, and what
counts is the time in which connections change hands. The number of open descriptors of a process says when that is: a
connection is one of them.

    source        N ─────────┐                       the old worker
    descriptors              └──────┐_____ N fewer
    target                   ┌──────────── N more    the new worker
                   boots ────┘
                             ▲      ▲    ▲
                       begins  source  settled
                               is over

`begins` is the last sample at which the source has all its descriptors, before the target has more than an empty
worker. By then the target has booted. Both are of one kind: without connections they have as many descriptors.
The source counts until it has let go of the last connection: how a worker ends is no part of a connection. All others
count until `SETTLE_S` after the new worker has them. What the same load costs in this time without a reload is
subtracted.

The samples never touch the measured processes, and read nothing for which the kernel walks through their memory.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from benchmarks.cpu import Gauge, listed_children
from benchmarks.errors import RunFailed

EVERY_S: Final = 0.002  # 2 µs for each of 1,000 connections is what a sample may be late
LOOK_EVERY: Final = 10  # samples between two looks for the new worker, which boots much longer
SETTLE_S: Final = 0.1
OTHERS: Final = 8  # descriptors of a worker that come and go: the channel of a move, a file that is read
SOURCE: Final = "source"
TARGET: Final = "target"


@dataclass(frozen=True, slots=True)
class Observed:
    """
    One process at one moment.

    Attributes:
        used_us: its processor time so far.
        descriptors: how many it has open.
        own: bytes of memory that it shares with no file.
    """

    used_us: float
    descriptors: int
    own: int


@dataclass(frozen=True, slots=True)
class Sample:
    """All processes at one moment, by what they do. A process that has not begun or has ended is not in it."""

    at_s: float
    of: Mapping[str, Observed]


def observe(gauge: Gauge) -> Observed | None:
    """Look at one process. None where it has ended."""
    try:
        return Observed(gauge.spent_us(), gauge.descriptors(), gauge.own_bytes())
    except OSError:
        return None


class Watcher:
    """
    Looks at all processes of a server while a worker is replaced. Leave the `with` block to end it.

    Attributes:
        connections: how many the worker has.
    """

    def __init__(self, pids: Mapping[str, int], *, parent: int, connections: int) -> None:
        """
        Args:
            pids: the processes by what they do; the worker is `source`.
            parent: whose child the worker is, and the new one will be.
            connections: how many the worker has.
        """
        self.connections = connections
        self._parent = parent
        self._gauges = {name: Gauge(pid) for name, pid in pids.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for each in self._gauges.values():
            each.close()

    def sample(self) -> Sample:
        """Look at all processes, once."""
        found = {name: observe(gauge) for name, gauge in self._gauges.items()}
        return Sample(time.monotonic(), {name: each for name, each in found.items() if each is not None})

    def watch(self, start: Callable[[], object], *, patience_s: float) -> Replacement:
        """
        Have the worker be replaced, and look on until its connections are with another one.

        Args:
            start: begins the replacement, and does not wait for it.

        Raises:
            RunFailed: it took longer than `patience_s`.
        """
        earlier = set(listed_children(self._parent))
        samples = [self.sample()]
        start()
        give_up_at = time.monotonic() + patience_s
        while time.monotonic() < give_up_at:
            if TARGET not in self._gauges and len(samples) % LOOK_EVERY == 0:
                self._look_for_target(earlier)
            samples.append(self.sample())
            if TARGET in self._gauges and Replacement(samples, self.connections).is_over:
                time.sleep(SETTLE_S)
                return Replacement([*samples, self.sample()], self.connections)
            time.sleep(EVERY_S)
        raise RunFailed(f"a worker's {self.connections} connections were not with another one within {patience_s:g} s")

    def _look_for_target(self, earlier: Collection[int]) -> None:
        for pid in listed_children(self._parent):
            if pid not in earlier:
                with contextlib.suppress(OSError):  # something else, which has ended
                    self._gauges[TARGET] = Gauge(pid)


@dataclass(frozen=True, slots=True)
class Replacement:
    """The replacement of one worker, as samples. The first is from before it."""

    samples: Sequence[Sample]
    connections: int

    @property
    def is_over(self) -> bool:
        """Whether the last sample has all connections with the new worker, and none with the old one."""
        target = self.samples[-1].of.get(TARGET)
        return target is not None and self._has_let_go(self.samples[-1]) and target.descriptors >= self._full - OTHERS

    @property
    def _full(self) -> int:
        """The descriptors of a worker that has all connections."""
        return self.samples[0].of[SOURCE].descriptors

    def _has_let_go(self, each: Sample) -> bool:
        source = each.of.get(SOURCE)
        return source is None or source.descriptors <= self._full - self.connections

    @property
    def begins(self) -> int:
        """The number of the last sample before the first connection leaves."""
        found = 0
        for number, each in enumerate(self.samples):
            source, target = each.of.get(SOURCE), each.of.get(TARGET)
            if target is not None and target.descriptors > self._full - self.connections + OTHERS:
                break
            if source is not None and source.descriptors == self._full:
                found = number
        return found

    @property
    def _window(self) -> Sequence[Sample]:
        return self.samples[self.begins :]

    @property
    def seconds(self) -> float:
        """How long it took until every connection was with the new worker."""
        return self._window[-1].at_s - self._window[0].at_s - SETTLE_S

    def cost_us(self, idle: Mapping[str, float]) -> dict[str, float]:
        """
        Return the processor time of each process for all connections.

        Args:
            idle: what each uses in a second of the same load without a reload. The new worker does the old one's work,
                so half of this time counts for each of them.
        """
        window = self._window
        seconds = window[-1].at_s - window[0].at_s
        found: dict[str, float] = {}
        for name in dict.fromkeys(name for each in window for name in each.of):
            counted = [each.of[name].used_us for each in window if name in each.of]
            if name == SOURCE:
                until = next((number for number, each in enumerate(window) if self._has_let_go(each)), len(window))
                counted = [each.of[name].used_us for each in window[: until + 1] if name in each.of]
            share = 0.5 if name in (SOURCE, TARGET) else 1.0
            rate = idle.get(SOURCE if name == TARGET else name, 0.0)
            found[name] = counted[-1] - counted[0] - rate * share * seconds
        return found

    def used_us(self) -> dict[str, float]:
        """Return all processor time of each process since the first sample, its start and its end included."""
        found: dict[str, float] = {}
        for each in self.samples:
            for name, one in each.of.items():
                found[name] = one.used_us
        before = self.samples[0].of
        return {name: us - (before[name].used_us if name in before else 0.0) for name, us in found.items()}

    def memory(self, empty: int) -> tuple[float, float]:
        """
        Return the most memory of both workers together, as a ratio to the old worker's before: first of connections
        alone, beyond what each worker has without any, then of the whole processes.

        Args:
            empty: bytes of the old worker before the first client came.
        """
        before = self.samples[0].of[SOURCE].own
        booted = self._window[0].of[TARGET].own
        most = max(sum(each.of[name].own for name in (SOURCE, TARGET) if name in each.of) for each in self._window)
        return (most - empty - booted) / max(before - empty, 1), most / before


def rates_us(before: Sample, after: Sample) -> dict[str, float]:
    """Return the processor time that each process uses in a second, between two samples."""
    seconds = after.at_s - before.at_s
    return {name: (each.used_us - before.of[name].used_us) / seconds for name, each in after.of.items()}
