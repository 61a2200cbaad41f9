"""
What else the machine did while something was measured, and what it is.

Runs in the bench's process; reads /proc and asks programs for their versions. A window is *noisy* when a hypervisor
took time away, or when other processes than the measured ones had more than a small share of a core. It never decides
that a run does not count: it marks it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

STEAL_MAX: Final = 0.01  # of the window, on one core: above what an idle virtual machine shows
OTHERS_MAX: Final = (
    0.10  # cores; the kernel's own work for the load (soft interrupts that it charges to nobody) is below
)


@dataclass(frozen=True, slots=True)
class Noise:
    """What happened beside the measured processes, in cores (steal, others) and as the kernel's load average."""

    steal: float
    others: float
    load_average: float

    @property
    def is_noisy(self) -> bool:
        return self.steal > STEAL_MAX or self.others > OTHERS_MAX


class Surroundings:
    """The machine's own counters between two moments."""

    def __init__(self) -> None:
        self._load_average = os.getloadavg()[0]  # before: the run itself raises it
        self._began = time.monotonic()
        self._before = self._read()

    @staticmethod
    def _read() -> tuple[float, float]:
        ticks = [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        user, nice, system, _idle, _wait, irq, soft, steal = ticks[:8]
        hertz = os.sysconf("SC_CLK_TCK")
        return (user + nice + system + irq + soft) / hertz, steal / hertz

    def noise(self, measured_s: float) -> Noise:
        """Return what happened since; `measured_s` is the processor time of server and load client together."""
        busy, steal = self._read()
        seconds = max(time.monotonic() - self._began, 1e-9)
        others = max(busy - self._before[0] - measured_s, 0.0) / seconds
        return Noise(round((steal - self._before[1]) / seconds, 4), round(others, 4), self._load_average)


def describe() -> dict[str, Any]:
    """Return what this machine is, and the versions of everything that is measured."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo)
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": model[1] if model else platform.machine(),
        "memory_gib": round(int(memory[1]) / 1024**2, 1) if memory else None,
        "kernel": platform.release().partition("-")[0],
        "virtual": "hypervisor" in cpuinfo,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return the version of each program and package that there is."""
    found = {"Python": platform.python_version()}
    names = "realtime-cluster uvloop websockets msgspec hiredis redis uvicorn httptools picows python-socketio"
    for name in [*names.split(), "channels", "channels-redis", "django", "starlette", "gunicorn"]:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    for name, command in {
        "Node.js": ["node", "--version"],
        "Redis": ["redis-server", "--version"],
        "C compiler": ["cc", "--version"],
    }.items():
        if shutil.which(command[0]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            number = re.search(r"\d+\.\d+(\.\d+)?", done.stdout)
            found[name] = number[0] if number else "unknown"
    if commit := _commit():
        found["realtime-cluster"] += f" at {commit}"
    modules = Path(__file__).parent / "peers" / "node_modules"
    for name in ("ws", "bufferutil", "socket.io", "@socket.io/sticky", "@socket.io/redis-adapter"):
        package = modules / name / "package.json"
        if package.exists() and (number := re.search(r'"version": "([^"]+)"', package.read_text())):
            found[name] = number[1]
    return found


def raise_descriptor_limit() -> None:
    """Let this process, and the servers that inherit it, have as many connections as the machine allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def command_line() -> str:
    """Return the command that made a report."""
    return " ".join(["python -m benchmarks", *sys.argv[1:]])


def _commit() -> str:
    """Return which commit this is, with a + where something was changed since; "" outside a clone."""
    if not shutil.which("git"):
        return ""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()
