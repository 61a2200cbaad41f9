"""
How much processor time processes have used, and how much memory: clocks and counters of the kernel.

Runs in the bench's process and looks at others. A process's clock is read by `clock_gettime` with the clock id that
clock_getcpuclockid(3) makes of its pid, in nanoseconds and with all its threads. It never samples and never estimates.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

CPUCLOCK_SCHED: Final = 2  # linux/posix-timers.h: nanoseconds that the scheduler counted
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
Groups = Mapping[str, Iterable[int]]


def spent_ns(pid: int) -> int:
    """Return what all threads of one process have used so far; 0 when it is gone."""
    try:
        return time.clock_gettime_ns((~pid << 3) | CPUCLOCK_SCHED)
    except OSError:
        return 0


def parent(pid: int) -> int:
    """Return the process whose child a process is."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


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


def listed_children(pid: int) -> list[int]:
    """Return what `children` returns, in a fraction of the time. One may be missing while another ends (proc(5))."""
    try:
        lists = [each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # a thread ended
        lists = []
    return sorted(int(each) for text in lists for each in text.split()) if lists else children(pid)


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


class Gauge:
    """
    What is read of one process many times a second: its clock, how many descriptors it has open, and its own memory.

    `own_bytes` is what is in no file: heap and stacks. The kernel walks through no page table for it, as it does for
    `memory_bytes`. Each reading raises OSError when the process has ended. The caller must `close` it.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._folder = f"/proc/{pid}/fd"
        self._memory = os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)

    def spent_us(self) -> float:
        return time.clock_gettime_ns((~self.pid << 3) | CPUCLOCK_SCHED) / 1000

    def descriptors(self) -> int:
        return os.stat(self._folder).st_size or len(os.listdir(self._folder))  # the size: since Linux 6.2

    def own_bytes(self) -> int:
        fields = os.pread(self._memory, 200, 0).split()
        if not fields:
            raise ProcessLookupError(self.pid)
        return (int(fields[1]) - int(fields[2])) * PAGE

    def close(self) -> None:
        os.close(self._memory)
