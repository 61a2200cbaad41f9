"""
The table of states stays true, whatever is done to a worker, and in whichever state: starting, ready, draining.

A worker is stopped or killed there, or crashes again and again. Afterwards every slot has one worker, ready and alive;
the table names exactly the primary's children, and everybody is served.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from sticky.loop.log_lines import WORKER_HUNG, WORKER_RESTART_DELAYED
from tests.support.log_lines import exited, pattern
from tests.support.tiny_cluster import TinyCluster

SIGNALS = [signal.SIGKILL, signal.SIGSTOP]
QUICK = {"heartbeat_s": 0.2, "hung_s": 1.5}  # the bound after which a silent worker is killed


def children(pid: int) -> set[int]:
    return {int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def only(status: dict[str, Any], state: str, slot: int) -> int | None:
    """Return the process that is in this state in this slot, if there is one."""
    found = [each["pid"] for each in status["workers"] if (each["state"], each["slot"]) == (state, slot)]
    assert len(found) < 2
    return found[0] if found else None


def is_whole(cluster: TinyCluster, status: dict[str, Any]) -> bool:
    """Whether each slot has one worker, which is ready, and the primary has no other child."""
    table = [(each["slot"], each["state"]) for each in status["workers"]]
    return (
        table == [(0, "ready"), (1, "ready")]
        and status["live"] == [0, 1]
        and {each["pid"] for each in status["workers"]} == children(cluster.process.pid)
    )


def assert_recovers(cluster: TinyCluster, gone: int) -> None:
    status = cluster.wait_until(lambda status: is_whole(cluster, status), "every slot has one worker again")
    assert gone not in {each["pid"] for each in status["workers"]}
    assert {cluster.get(client=f"127.0.9.{n}")["slot"] for n in range(1, 40)} == {0, 1}
    cluster.wait_until(
        lambda status: all(each["unacked"] == each["waiting"] == 0 for each in status["workers"]),
        "no parcel is left",
    )


@pytest.mark.parametrize("number", SIGNALS)
def test_a_worker_that_is_starting(number: signal.Signals, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with TinyCluster(workers=2, config={"boot": "wait-if", "path": str(gate)}, boot_s=3.0, **QUICK) as cluster:
        gate.touch()
        os.kill(cluster.pids()[1], signal.SIGKILL)
        status = cluster.wait_until(lambda status: only(status, "starting", 1), "slot 1 is starting")
        pid = only(status, "starting", 1)
        assert pid is not None
        os.kill(pid, number)
        cluster.log.wait_for(exited("killed by SIGKILL", slot=1, pid=pid))
        gate.unlink()
        assert_recovers(cluster, pid)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_worker_that_is_ready(number: signal.Signals) -> None:
    with TinyCluster(workers=2, **QUICK) as cluster:
        pid = cluster.pids()[1]
        os.kill(pid, number)
        cluster.log.wait_for(exited("killed by SIGKILL", slot=1, pid=pid))
        assert_recovers(cluster, pid)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_worker_that_drains(number: signal.Signals) -> None:
    with TinyCluster(workers=2, config={"drain": "never"}, **{**QUICK, "drain_s": 25.0}) as cluster:
        cluster.process.send_signal(signal.SIGHUP)
        status = cluster.wait_until(lambda status: only(status, "draining", 1), "slot 1's old worker drains")
        pid = only(status, "draining", 1)
        assert pid is not None
        os.kill(pid, number)
        cluster.log.wait_for(exited("killed by SIGKILL", pid=pid))
        for other in [each["pid"] for each in cluster.status()["workers"] if each["state"] == "draining"]:
            os.kill(other, signal.SIGKILL)
        assert_recovers(cluster, pid)
        cluster.process.send_signal(signal.SIGQUIT)  # for they never drain


@pytest.mark.parametrize("who", ["the primary", "all"])
def test_a_primary_that_was_stopped_takes_nobody_for_hung(who: str) -> None:
    with TinyCluster(workers=2, **QUICK) as cluster:
        pids = cluster.pids()
        stopped = [cluster.process.pid, *(pids.values() if who == "all" else ())]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(QUICK["hung_s"] + 0.5)  # that so much time passes is what is tested
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        for number, live in ((signal.SIGTTIN, [0, 1, 2]), (signal.SIGTTOU, [0, 1])):  # while it looks again
            cluster.process.send_signal(number)
            cluster.wait_for_live(live)
        assert cluster.pids() == pids
        assert not cluster.log.find_all(WORKER_HUNG)


def test_a_worker_that_crashes_at_every_boot(tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    with TinyCluster(workers=2, config={"boot": "fail-if", "path": str(fault)}, **QUICK) as cluster:
        fault.touch()
        pid = cluster.pids()[1]
        os.kill(pid, signal.SIGKILL)
        for wait_s in (1, 2):
            cluster.log.wait_for(pattern(WORKER_RESTART_DELAYED, slot=1, delay_s=wait_s))
            assert [each["slot"] for each in cluster.status()["workers"] if each["state"] == "ready"] == [0]
            assert cluster.get()["slot"] == 0, "the other serves all"
        fault.unlink()
        assert_recovers(cluster, pid)


def test_a_worker_that_is_killed_as_often_as_it_comes() -> None:
    with TinyCluster(workers=2, **QUICK) as cluster:
        for _ in range(3):
            pid = cluster.pids()[1]
            os.kill(pid, signal.SIGKILL)
            cluster.log.wait_for(exited(slot=1, pid=pid))
            cluster.wait_for_live([0, 1])
        assert_recovers(cluster, pid)
