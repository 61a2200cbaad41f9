"""
An upgrade: a successor loads its code beside the primary, then the primary leaves everything to it.

Runs in the keeper. It changes the deposit in no way, and starts no process itself: keeper.py does, for the next primary
after a crash is started in the same way.

    IDLE ──upgrade──▶ PREPARING ──PREPARED──▶ RELEASING ──RELEASED, or the end──▶ IDLE: the successor is the primary
      ▲                   │                       │
      │◀─ it ends, or     │                       └── the successor ends: IDLE, another is started after the old one
      │   is too slow ────┘
      └── the old primary dies: the successor is ended, and another primary is started as after any crash

A successor that does not load leaves the primary alone: it is not even asked. A primary that does not release within
`RELEASE_S` is killed. From RELEASED on, the deposit is all that there is, and any primary can go on with it.
"""

from __future__ import annotations

from collections.abc import Callable

from sticky.keeper.primary_process import PrimaryProcess
from sticky.keeper.report import UPGRADE_DONE, UPGRADE_FAILED, UPGRADE_STARTED, Report, describe_end

PREPARE_S = 60.0  # for a successor to load its code, on a machine with a lot to do
RELEASE_S = 5.0  # for the primary to place its pending connections; it takes less than one itself


class Upgrade:
    """The upgrade in progress, if there is one."""

    def __init__(self, report: Report, spawn: Callable[[], PrimaryProcess | None]) -> None:
        """
        Args:
            spawn: starts a primary and returns it, linked; None where that fails, which it has logged.
        """
        self._report = report
        self._spawn = spawn
        self.successor: PrimaryProcess | None = None
        """The process that prepares itself, or waits for the deposit."""
        self._until = 0.0

    def start(self, primary: PrimaryProcess, now: float) -> None:
        """Start a successor of a primary that is ready."""
        if self.successor is not None:
            return
        successor = self.successor = self._spawn()
        if successor is None:
            primary.send("UPGRADE-FAILED no process can be started")
            return
        successor.send("PREPARE")
        self._until = now + PREPARE_S
        self._report.log("info", UPGRADE_STARTED, pid=successor.pid)

    def prepared(self, primary: PrimaryProcess, now: float) -> None:
        """Have the primary release everything: its successor can take over."""
        primary.send("RELEASE")
        self._until = now + RELEASE_S

    def take(self) -> PrimaryProcess | None:
        """
        Return the successor, if it is to be the next primary now; None where there is none.

        One that was not prepared is ended: a primary that starts after a crash needs no comparison with its code.
        """
        successor, self.successor = self.successor, None
        if successor is None:
            return None
        if not successor.is_prepared:
            successor.kill()
            return None
        self._report.log("info", UPGRADE_DONE, pid=successor.pid)
        return successor

    def ended(self, successor: PrimaryProcess, primary: PrimaryProcess | None, code: int) -> None:
        """Note that the successor has ended before it took over."""
        self.successor = None
        self._fail(primary, successor.unfit or f"the successor ended ({describe_end(code)}), the log has why")

    def check(self, primary: PrimaryProcess, now: float) -> None:
        """End what takes too long."""
        successor = self.successor
        if successor is None or now < self._until:
            return
        self._until = now + PREPARE_S  # it is ended once
        if successor.is_prepared:
            primary.kill()
        else:
            successor.unfit = f"the successor was not ready within {PREPARE_S:g} s"
            successor.kill()

    def _fail(self, primary: PrimaryProcess | None, reason: str) -> None:
        self._report.log("error", UPGRADE_FAILED, reason=reason)
        if primary is not None:
            primary.send(f"UPGRADE-FAILED {reason}")
