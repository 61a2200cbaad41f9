"""
How many processors this process may use: what `--workers auto` means.

Counts the processors of the affinity mask, and of the control group when it has a quota, as containers have. Runs once
in the primary; it reads /proc and /sys and never fails: where nothing can be read there is no limit.
"""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath


def usable_cpus(root: Path = Path("/")) -> int:
    """Give the number of processors that this process may use, at least 1."""
    counted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_cpus(root)
    return max(1, counted if quota is None else min(counted, math.ceil(quota)))


def cgroup_cpus(root: Path) -> float | None:
    """Give the tightest processor quota of our control group and those around it, None without any."""
    return min(_quotas(root), default=None)


def _quotas(root: Path) -> list[float]:
    found = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            base, read = root / "sys/fs/cgroup", _quota_v2
        elif "cpu" in controllers.split(","):
            base, read = root / "sys/fs/cgroup/cpu", _quota_v1
        else:
            continue
        # In a container the group is mounted as the root of the hierarchy while its path is still the outer one, so
        # every level is tried, and levels that are not there count for nothing.
        inside = PurePosixPath(path.lstrip("/"))
        for level in (inside, *inside.parents):
            quota = read(base / level)
            if quota is not None:
                found.append(quota)
    return found


def _quota_v2(group: Path) -> float | None:
    """`cpu.max` holds "$MAX $PERIOD"; "max" is no limit (cgroup-v2, "CPU Interface Files")."""
    quota, _, period = _read(group / "cpu.max").partition(" ")
    return _ratio(quota, period)


def _quota_v1(group: Path) -> float | None:
    """A quota of -1 is no limit (sched-bwc)."""
    return _ratio(_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float | None:
    quota, period = quota.strip(), period.strip()
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(quota) and int(period) else None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
