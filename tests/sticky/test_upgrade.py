"""
The keeper's upgrade, edge by edge of the machine at the head of sticky/keeper/upgrade.py.

No process is started: the successor and the primary are links whose other ends the test has, and `kill` is noted.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from sticky.keeper.lines import receive
from sticky.keeper.primary_process import PrimaryProcess
from sticky.keeper.report import UPGRADE_DONE, UPGRADE_FAILED, UPGRADE_STARTED, Report
from sticky.keeper.upgrade import PREPARE_S, RELEASE_S, Upgrade

NOW = 1000.0


class Process(PrimaryProcess):
    """A primary that is no process: killing it is noted."""

    def __init__(self, pid: int) -> None:
        ours, self.end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        super().__init__(pid, ours, now=NOW)
        self.kills = 0

    def kill(self) -> None:
        self.kills += 1

    def received(self) -> list[str]:
        found = []
        while (each := receive(self.end)) is not None:
            found.append(each[0])
        return found


class Rig:
    """An upgrade over a primary that is ready."""

    def __init__(self) -> None:
        self.primary = Process(11)
        self.spawned: list[Process] = []
        self.can_spawn = True
        self.upgrade = Upgrade(Report(""), self._spawn)

    def _spawn(self) -> PrimaryProcess | None:
        if not self.can_spawn:
            return None
        self.spawned.append(Process(22))
        return self.spawned[-1]

    def start(self) -> Process:
        self.upgrade.start(self.primary, NOW)
        return self.spawned[-1]

    def prepare(self) -> Process:
        """Start a successor that reports PREPARED: what the keeper does then."""
        successor = self.start()
        successor.is_prepared = True
        self.upgrade.prepared(self.primary, NOW + 1)
        return successor

    def close(self) -> None:
        for each in (self.primary, *self.spawned):
            each.sock.close()
            each.end.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def test_a_successor_prepares_itself_while_the_primary_learns_nothing(
    rig: Rig, capfd: pytest.CaptureFixture[str]
) -> None:
    successor = rig.start()
    assert successor.received() == ["PREPARE"]
    assert rig.primary.received() == []
    assert f"{UPGRADE_STARTED} pid=22" in capfd.readouterr().err


def test_a_second_request_during_an_upgrade_starts_nothing(rig: Rig) -> None:
    rig.start()
    rig.start()
    assert len(rig.spawned) == 1


def test_a_successor_that_cannot_be_started_is_answered(rig: Rig) -> None:
    rig.can_spawn = False
    rig.upgrade.start(rig.primary, NOW)
    assert rig.primary.received() == ["UPGRADE-FAILED no process can be started"]
    assert rig.upgrade.successor is None
    rig.can_spawn = True
    rig.start()
    assert len(rig.spawned) == 1, "the next request is another attempt"


def test_a_prepared_successor_is_the_next_primary_once(rig: Rig, capfd: pytest.CaptureFixture[str]) -> None:
    successor = rig.prepare()
    assert rig.primary.received() == ["RELEASE"]
    assert rig.upgrade.take() is successor
    assert f"{UPGRADE_DONE} pid=22" in capfd.readouterr().err
    assert rig.upgrade.take() is None
    assert successor.kills == 0


def test_one_that_is_not_prepared_is_ended_when_the_primary_dies(rig: Rig) -> None:
    successor = rig.start()
    assert rig.upgrade.take() is None, "another primary is started as after any crash"
    assert successor.kills == 1
    assert rig.upgrade.successor is None


@pytest.mark.parametrize(
    ("unfit", "code", "reason"),
    [
        ("", 1, "the successor ended (status 1), the log has why"),
        ("", -9, "the successor ended (killed by SIGKILL), the log has why"),
        ("its settings differ: binds", 0, "its settings differ: binds"),
    ],
)
def test_a_successor_that_ends_leaves_the_primary_with_the_reason(
    rig: Rig, capfd: pytest.CaptureFixture[str], unfit: str, code: int, reason: str
) -> None:
    successor = rig.start()
    successor.unfit = unfit
    rig.upgrade.ended(successor, rig.primary, code)
    assert rig.primary.received() == [f"UPGRADE-FAILED {reason}"]
    assert UPGRADE_FAILED in capfd.readouterr().err
    assert rig.upgrade.successor is None


def test_one_that_ends_without_a_primary_is_only_logged(rig: Rig, capfd: pytest.CaptureFixture[str]) -> None:
    rig.upgrade.ended(rig.start(), None, 1)
    assert UPGRADE_FAILED in capfd.readouterr().err


def test_one_that_loads_for_too_long_is_ended_once_and_says_why(rig: Rig) -> None:
    successor = rig.start()
    rig.upgrade.check(rig.primary, NOW + PREPARE_S - 1)
    assert successor.kills == 0
    for second in range(5):
        rig.upgrade.check(rig.primary, NOW + PREPARE_S + second)
    assert (successor.kills, rig.primary.kills) == (1, 0)
    rig.upgrade.ended(successor, rig.primary, -9)
    assert rig.primary.received() == [f"UPGRADE-FAILED the successor was not ready within {PREPARE_S:g} s"]


def test_a_primary_that_does_not_release_is_killed_for_its_successor_can_go_on(rig: Rig) -> None:
    successor = rig.prepare()
    rig.upgrade.check(rig.primary, NOW + 1 + RELEASE_S - 0.5)
    assert rig.primary.kills == 0
    for second in range(5):
        rig.upgrade.check(rig.primary, NOW + 1 + RELEASE_S + second)
    assert (successor.kills, rig.primary.kills) == (0, 1)
    assert rig.upgrade.take() is successor


def test_without_an_upgrade_no_time_is_too_long(rig: Rig) -> None:
    rig.upgrade.check(rig.primary, NOW + 10 * PREPARE_S)
    assert rig.primary.kills == 0
