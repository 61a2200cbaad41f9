"""
When a worker has lived long enough: a remedy for leaks in applications.

Runs in the primary. Pure, but for `resident_bytes`, which reads from the kernel. Each worker draws its own bounds, so
that workers which were started together are not replaced together. The watchdog checks them, and has the worker
replaced as in a reload: no client is refused. It never ends a worker itself.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Bounds of a worker's life; None: it has none. `jitter` is the share by which each may be shorter, from 0 to 1."""

    seconds: float | None = None
    memory_bytes: int | None = None
    connections: int | None = None  # ever adopted
    jitter: float = 0.1

    def draw(self) -> Lifetime:
        """Return the bounds of one worker. Memory has no jitter: it is not reached by all at once."""
        share = 1 - random.random() * self.jitter  # noqa: S311 - nothing is to be kept secret
        return Lifetime(
            None if self.seconds is None else self.seconds * share,
            self.memory_bytes,
            None if self.connections is None else max(round(self.connections * share), 1),
            0.0,
        )

    def ended(self, *, pid: int, age_s: float, adopted: int) -> str | None:
        """Return why a worker has to be replaced, None when it need not be."""
        if self.seconds is not None and age_s >= self.seconds:
            return f"it has served for {age_s:.0f} s"
        if self.connections is not None and adopted >= self.connections:
            return f"it has had {adopted} connections"
        if self.memory_bytes is not None:
            resident = resident_bytes(pid)
            if resident >= self.memory_bytes:
                return f"it has {resident / 1024**2:.0f} MiB of memory"
        return None


def resident_bytes(pid: int) -> int:
    """Return how much memory a process has in use, in bytes; 0 when it is gone (proc(5), statm)."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0
