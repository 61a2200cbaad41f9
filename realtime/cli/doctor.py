"""
`realtime doctor`: check this machine for what would keep a server from running well.

Each check is a function that returns a `Finding`; none changes anything. The command fails only for what would fail a
start. It runs in a process of its own, and asks no server but Redis.
"""

from __future__ import annotations

import asyncio
import enum
import importlib.metadata
import json
import os
import platform
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

import realtime
import realtime_cluster
from realtime.broker.server_versions import versions
from realtime.cli.options import GroupedCommand, settings_options
from realtime.errors import BrokerUnavailable, SettingsError
from realtime.settings import Settings, resolve, runtime_directory, without_password
from realtime.settings.cpus import usable_cpus

ENOUGH_DESCRIPTORS = 10_000  # a worker holds one for each client: below it, this limit is met before the processor's
REDIS_AT_LEAST = (6, 2)


class Grade(enum.Enum):
    """How a check came out."""

    GOOD = "good"
    FAIR = "fair"
    BAD = "bad"


@dataclass(frozen=True)
class Finding:
    """What a check found, and what to do about it when it is not good."""

    check: str
    grade: Grade
    found: str
    advice: str = ""


def python(settings: Settings) -> Finding:
    """Python 3.11 is what the code is written for."""
    good = sys.version_info >= (3, 11)
    found = f"{platform.python_implementation()} {platform.python_version()}"
    return Finding("Python", Grade.GOOD if good else Grade.BAD, found, "" if good else "Python 3.11 or newer is needed")


def package(settings: Settings) -> Finding:
    """Another distribution on PyPI has a package of our name: both cannot be in one environment."""
    wrong, other = realtime_cluster.problem(), realtime_cluster.other_version()
    if wrong is not None:
        return Finding("Package", Grade.BAD, "overwritten", wrong)
    found = f"{realtime_cluster.OURS} {realtime.__version__}"
    if other is None:
        return Finding("Package", Grade.GOOD, found)
    name = realtime_cluster.OTHER
    advice = (
        f"'{name}' {other} has a package of the same name: removing it removes files of this package. "
        f"pip uninstall {name}; pip install --force-reinstall --no-deps {realtime_cluster.OURS}"
    )
    return Finding("Package", Grade.FAIR, f"{found}, and '{name}' {other} beside it", advice)


def system(settings: Settings) -> Finding:
    """The primary needs epoll and SOCK_SEQPACKET with descriptors."""
    found = f"{platform.system()} {platform.release()} {platform.machine()}"
    if sys.platform == "linux":
        return Finding("System", Grade.GOOD, found)
    return Finding("System", Grade.BAD, found, "the server runs on Linux (epoll, SOCK_SEQPACKET)")


def processors(settings: Settings) -> Finding:
    """`--workers auto` and what there is."""
    usable, there = usable_cpus(), os.cpu_count() or 1
    found = f"{usable} usable" + (f" of {there}" if there != usable else "") + f"; {settings.workers} workers"
    if settings.workers <= 2 * usable:
        return Finding("Processors", Grade.GOOD, found)
    return Finding("Processors", Grade.FAIR, found, "more workers than processors share them, and gain nothing")


def event_loop(settings: Settings) -> Finding:
    """A worker runs on uvloop."""
    return _package("Event loop", "uvloop", "no worker can start without it: pip install uvloop")


def frames(settings: Settings) -> Finding:
    """The C helper of websockets masks and unmasks; Python's fallback costs a hundred times more."""
    try:
        from websockets import speedups
    except ImportError:
        advice = "websockets has no C helper here: install it from a wheel"
        return Finding("WebSocket frames", Grade.FAIR, "unmasked in Python", advice)
    assert speedups is not None
    return Finding("WebSocket frames", Grade.GOOD, f"unmasked in C (websockets {_version('websockets')})")


def http(settings: Settings) -> Finding:
    """uvicorn with httptools serves HTTP and ASGI applications."""
    return _package("HTTP", "httptools", "no worker can start without it: pip install httptools")


def descriptors(settings: Settings) -> Finding:
    """Each connection costs the primary one descriptor for a moment, and its worker one for good."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = _limit(hard) + (f" (raised from {_limit(soft)} at start)" if soft != hard else "")
    if hard == resource.RLIM_INFINITY or hard >= ENOUGH_DESCRIPTORS:
        return Finding("Open files", Grade.GOOD, found)
    return Finding("Open files", Grade.FAIR, found, f"a worker serves fewer than {hard} clients: raise `ulimit -Hn`")


def backlog(settings: Settings) -> Finding:
    """The kernel caps the backlog silently."""
    try:
        cap = int(Path("/proc/sys/net/core/somaxconn").read_text())
    except (OSError, ValueError):
        return Finding("Backlog", Grade.FAIR, "unknown")
    if cap >= settings.backlog:
        return Finding("Backlog", Grade.GOOD, f"{settings.backlog} (the kernel allows {cap})")
    return Finding("Backlog", Grade.FAIR, f"{cap} instead of {settings.backlog}", "raise net.core.somaxconn")


def sockets(settings: Settings) -> Finding:
    """The control socket and the local broker's live in a directory of this user alone."""
    return Finding("Runtime directory", Grade.GOOD, str(runtime_directory()))


def secret(settings: Settings) -> Finding:
    """Without a secret affinity ends with the server; on two machines it never begins."""
    if settings.secret is not None:
        return Finding("Secret", Grade.GOOD, f"set ({settings.source('secret')})")
    if settings.redis is None or settings.sticky == "none":
        return Finding("Secret", Grade.GOOD, "drawn at start: affinity ends with the server")
    return Finding("Secret", Grade.FAIR, "not set", "set the same REALTIME_SECRET on every machine")


def broker(settings: Settings) -> Finding:
    """Redis, when it is configured, has to answer and to be new enough."""
    if settings.redis is None:
        return Finding("Broker", Grade.GOOD, "local, for one machine (no Redis is configured)")
    shown = without_password(settings.redis)
    try:
        found = asyncio.run(versions(settings.redis))
    except (BrokerUnavailable, SettingsError) as error:
        return Finding("Broker", Grade.BAD, shown, f"does not answer: {error}")
    found_versions = ", ".join(sorted(set(found.values())))
    nodes = f" on {len(found)} nodes" if len(found) > 1 else ""
    for version in found.values():
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
        if numbers and numbers < REDIS_AT_LEAST:
            return Finding("Broker", Grade.BAD, f"{shown}, Redis {found_versions}", "Redis 6.2 or newer is needed")
    if not found_versions:
        advice = "let this user run INFO: without it a failover is not noticed"
        return Finding("Broker", Grade.FAIR, f"{shown}, of an unknown version", advice)
    return Finding("Broker", Grade.GOOD, f"{shown}, Redis {found_versions}{nodes}")


CHECKS: tuple[Callable[[Settings], Finding], ...] = (
    python, package, system, processors, event_loop, frames, http, descriptors, backlog, sockets, secret, broker,
)  # fmt: skip


@click.command(cls=GroupedCommand)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@settings_options(["workers", "backlog", "redis", "secret", "sticky"])
def doctor(as_json: bool, config: str | None, **given: Any) -> int:
    """
    Check this machine and the settings, without starting anything.

    Ends with 1 when something would keep a server from running.

    \b
    Examples:
      realtime doctor
      realtime doctor --redis redis://127.0.0.1:6379
    """
    settings = resolve(given, config=config)
    found = [check(settings) for check in CHECKS]
    if as_json:
        click.echo(_as_json(found))
    else:
        Console(highlight=False).print(_table(found))
    return 1 if any(each.grade is Grade.BAD for each in found) else 0


def _as_json(found: list[Finding]) -> str:
    return json.dumps([asdict(each) | {"grade": each.grade.value} for each in found], indent=2)


def _table(found: list[Finding]) -> Table:
    colours = {Grade.GOOD: "green", Grade.FAIR: "yellow", Grade.BAD: "bold red"}
    table = Table("Check", "", "Found", "What to do", box=None, pad_edge=False, header_style="dim")
    for each in found:
        colour = colours[each.grade]
        table.add_row(each.check, f"[{colour}]{each.grade.value}[/]", each.found, each.advice)
    return table


def _package(check: str, name: str, advice: str) -> Finding:
    version = _version(name)
    if version is None:
        return Finding(check, Grade.BAD, f"no {name}", advice)
    return Finding(check, Grade.GOOD, f"{name} {version}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _limit(value: int) -> str:
    return "no limit" if value == resource.RLIM_INFINITY else str(value)
