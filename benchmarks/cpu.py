"""How much processor time processes have used. Read from /proc; in nanoseconds where the kernel counts them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path


def spent_s(pid: int) -> float:
    """Return what the main thread and its siblings of one process have used so far, in seconds."""
    total_ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total_ns += int((task / "schedstat").read_text().split()[0])
    return total_ns / 1e9


class Meter:
    """Processor time of named groups of processes, between two moments."""

    def __init__(self, groups: Mapping[str, Iterable[int]]) -> None:
        self._groups = {name: list(pids) for name, pids in groups.items()}
        self._before = self._read()

    def _read(self) -> dict[str, float]:
        return {name: sum(map(spent_s, pids)) for name, pids in self._groups.items()}

    def used_s(self) -> dict[str, float]:
        """Return what each group has used since this meter was made."""
        now = self._read()
        return {name: now[name] - self._before[name] for name in self._groups}
