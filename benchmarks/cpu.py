"""
How much processor time processes have used, and how much memory: clocks and counters of the kernel.

Runs in the bench's process and looks at others. A process's clock is read by `clock_gettime` with the clock id that
clock_getcpuclockid(3) makes of its pid, in nanoseconds and with all its threads. It never samples and never estimates.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

CPUCLOCK_SCHED: Final = 2  # linux/posix-timers.h: nanoseconds that the scheduler counted
Groups = Mapping[str, Iterable[int]]


def spent_ns(pid: int) -> int:
    """Return what all threads of one process have used so far; 0 when it is gone."""
    try:
        return time.clock_gettime_ns((~pid << 3) | CPUCLOCK_SCHED)
    except OSError:
        return 0


def children(pid: int) -> list[int]:
    """Return the processes that a process started itself, and that live."""
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return sorted(found)


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [pid]
    for each in found:
        found += children(each)
    return found


class Meter:
    """Processor time of named groups of processes, between two moments."""

    def __init__(self, groups: Groups) -> None:
        self._groups = {name: list(pids) for name, pids in groups.items()}
        self._before = self._read()

    def _read(self) -> dict[str, int]:
        return {name: sum(map(spent_ns, pids)) for name, pids in self._groups.items()}

    def used_us(self) -> dict[str, float]:
        """Return what each group has used since this meter was made, in microseconds."""
        now = self._read()
        return {name: (now[name] - self._before[name]) / 1000 for name in self._groups}


def memory_bytes(pids: Iterable[int]) -> dict[str, int]:
    """Return the user space of processes: `uss`, theirs alone, and `pss`, with their share of what they share."""
    found = {"uss": 0, "pss": 0}
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in ("Private_Clean", "Private_Dirty"):
                found["uss"] += int(rest.split()[0]) * 1024
            elif name == "Pss":
                found["pss"] += int(rest.split()[0]) * 1024
    return found
