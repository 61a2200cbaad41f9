"""
Where each microsecond goes: samples of the server's processes while they are measured, taken by `perf`.

Runs in the bench's process, where `--profile` asks for it. `perf` interrupts the processes about a thousand times a
second of their processor time; each interrupt has the stack of that moment, which says in whose code it was, and for
whom the kernel worked. The shares are samples, the microseconds are the shares of what the kernel's clocks say. A run
that is profiled costs more, some per cent to three quarters, so none is kept for a report.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.errors import Absent, RunFailed
from benchmarks.scenarios import Run

RATE: Final = 997  # samples a second; a prime, so that it beats with nothing
STOP_S: Final = 60.0
LEAST: Final = 0.005  # of a line; what is less is in its last place

KERNEL: Final = "[kernel"
SYSCALLS: Final = {
    "kernel: sending": "write writev sendto sendmsg sendmmsg",
    "kernel: receiving": "read readv recvfrom recvmsg",
    "kernel: waiting for events": "epoll_wait epoll_pwait epoll_pwait2 poll futex",
    "kernel: connections": "accept accept4 close shutdown getsockopt setsockopt getpeername getsockname fcntl ioctl "
    "epoll_ctl socket",
}
BY_SYSCALL: Final = {name: place for place, names in SYSCALLS.items() for name in names.split()}
SYSCALL: Final = re.compile(r"(?:__(?:x64|arm64)_|_*|k)sys_(\w+)|do_(writev|readv|epoll_wait)")
KERNEL_ELSE: Final = "kernel: interrupts, scheduling, memory"
LIBRARIES: Final = (
    ("uvloop", "uvloop"),
    ("msgspec", "msgspec"),
    ("hiredis", "hiredis"),
    ("httptools", "httptools"),
    ("python", "Python"),
    ("libc.so", "C library"),
    ("libpthread", "C library"),
    ("node", "Node.js"),
    ("floor", "the floor"),
)
LESS: Final = "else"

_FRAME: Final = re.compile(r"^\s*[0-9a-f]+ (?P<symbol>.+) \((?P<file>.*)\)$")
Samples = Counter[tuple[str, str]]  # by group of processes and place


def place_of(stack: Sequence[tuple[str, str]]) -> str:
    """
    Say where a sample belongs.

    Args:
        stack: symbols and the files that hold them, the innermost first.
    """
    if not stack:
        return LESS
    file = stack[0][1]
    if file.startswith(KERNEL):
        for symbol, _ in stack:
            if (found := SYSCALL.fullmatch(symbol)) and (place := BY_SYSCALL.get(found[1] or found[2])):
                return place
        return KERNEL_ELSE
    for word, place in LIBRARIES:
        if word in Path(file).name or f"/{word}/" in file:
            return place
    return LESS


def read(script: Iterable[str], group_of: Mapping[int, str]) -> Samples:
    """Count what `perf script -F pid,ip,sym,dso` printed, by what the processes do."""
    found: Samples = Counter()
    group: str | None = None
    stack: list[tuple[str, str]] = []
    for line in [*script, ""]:
        if not line.strip():
            if group is not None:
                found[group, place_of(stack)] += 1
            group, stack = None, []
        elif frame := _FRAME.match(line):
            stack.append((frame["symbol"], frame["file"]))
        elif line.strip().split("/")[0].isdigit():
            group = group_of.get(int(line.strip().split("/")[0]))
    return found


class Profiler:
    """Samples one window after another."""

    def __init__(self) -> None:
        """
        Raises:
            Absent: there is no `perf` here.
        """
        if shutil.which("perf") is None:
            raise Absent("perf", "Debian: apt install linux-perf")
        self._samples: Samples = Counter()

    @contextlib.contextmanager
    def watching(self, groups: Mapping[str, Iterable[int]]) -> Iterator[None]:
        """
        Sample these processes inside the block.

        Raises:
            RunFailed: perf could not.
        """
        group_of = {pid: name for name, pids in groups.items() for pid in pids}
        with tempfile.TemporaryDirectory(prefix="profile-") as directory:
            data = str(Path(directory) / "data")
            command = ["perf", "record", "--quiet", "-F", str(RATE), "-g", "-o", data]
            with subprocess.Popen(
                [*command, "-p", ",".join(map(str, group_of))], stderr=subprocess.PIPE, text=True
            ) as recording:
                try:
                    yield
                finally:
                    recording.send_signal(signal.SIGINT)
                    _, said = recording.communicate(timeout=STOP_S)
            if not Path(data).exists():
                raise RunFailed("perf recorded nothing", said)
            command = ["perf", "script", "-i", data, "-F", "pid,ip,sym,dso"]
            printed = subprocess.run(command, capture_output=True, text=True, check=False)
            self._samples = read(printed.stdout.splitlines(), group_of)

    def take(self) -> Samples:
        """Return the samples of the last window."""
        taken, self._samples = self._samples, Counter()
        return taken


@dataclass(slots=True)
class Profile:
    """
    A table: for each contestant and what its processes do, microseconds by place.

    Attributes:
        lines: each the sum of so many runs.
    """

    lines: dict[str, tuple[int, dict[str, float]]] = field(default_factory=dict)

    def add(self, run: Run, samples: Samples) -> None:
        """Share out a run's processor time by its samples. A group that did next to nothing gets no line."""
        for group, used_us in run.cpu_us.items():
            counts = {place: count for (of, place), count in samples.items() if of == group}
            total = sum(counts.values())
            if not total or used_us < run.all_us / 20:
                continue
            name = f"{run.scenario} {run.contestant}: {group}"
            runs, line = self.lines.get(name, (0, {}))
            for place, count in counts.items():
                kept = place if count >= LEAST * total else LESS
                line[kept] = line.get(kept, 0.0) + used_us * count / total
            self.lines[name] = (runs + 1, line)

    def markdown(self) -> str:
        """Return the table: means of the runs, the kernel's places first."""
        found = {place for _, line in self.lines.values() for place in line}
        first = [*SYSCALLS, KERNEL_ELSE, "Python", *dict.fromkeys(place for _, place in LIBRARIES)]
        places = [place for place in dict.fromkeys([*first, LESS]) if place in found]
        made = ["| µs per unit | all | " + " | ".join(places) + " |", "| --- |" + " ---: |" * (len(places) + 1)]
        for name, (runs, line) in self.lines.items():
            cells = [f"{line[place] / runs:.3g}" if place in line else "" for place in places]
            made.append(f"| {name} | {sum(line.values()) / runs:.3g} | " + " | ".join(cells) + " |")
        return "\n".join(made) + "\n"
