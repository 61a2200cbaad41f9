"""A reload over fake processes: its order, and what happens when successors die or hang and when it meets a scaling."""

from __future__ import annotations

import signal

import pytest

from sticky.handoff.channel import Unreadable
from sticky.handoff.worker_handle import WorkerState
from sticky.keys.hashing import Slot
from sticky.supervision.reload import KILLED_MAX
from tests.support.cluster_without_processes import ClusterWithoutProcesses
from tests.support.fake_environment import no_such_program


def reloading(workers: int = 3) -> ClusterWithoutProcesses:
    cluster = ClusterWithoutProcesses(workers=workers)
    cluster.start()
    cluster.reloads_ended = 0
    cluster.supervisor.reload()
    return cluster


def left(cluster: ClusterWithoutProcesses) -> int:
    found = cluster.supervisor.describe_reload()["left"]
    assert isinstance(found, int)
    return found


def generations(cluster: ClusterWithoutProcesses) -> list[int]:
    return [cluster.workers.live[slot].generation for slot in sorted(cluster.workers.live)]


def test_one_slot_at_a_time_and_the_old_worker_serves_until_the_new_one_is_ready() -> None:
    cluster = reloading()
    for slot in range(3):
        successor = cluster.starting()
        old = cluster.live(slot)
        assert (successor.slot, old.state) == (slot, WorkerState.READY)
        assert sorted(cluster.workers.live) == [0, 1, 2], "no slot is ever without a worker"
        assert cluster.reloads_ended == 0
        cluster.boot()
        assert cluster.live(slot) is successor
        assert old.state is WorkerState.DRAINING
    assert generations(cluster) == [2, 2, 2]
    assert cluster.reloads_ended == 1
    cluster.check()


def test_a_successor_that_reports_that_it_cannot_boot_ends_the_reload() -> None:
    cluster = reloading()
    cluster.boot()
    before = dict(cluster.workers.live)
    cluster.fail_boot(cluster.starting(), "the new version is broken")
    assert cluster.workers.live == before, "each old worker goes on, and so does the new one of slot 0"
    assert cluster.supervisor.describe_reload() == {"generation": 2, "left": 0, "failed": "the new version is broken"}
    assert cluster.reloads_ended == 1
    cluster.run_alive(60.0)
    assert generations(cluster) == [2, 1, 1], "nothing is tried again by itself"


@pytest.mark.parametrize("kills", range(1, KILLED_MAX + 1))
def test_a_successor_that_is_killed_once_twice_three_times(kills: int) -> None:
    cluster = reloading()
    order = []
    for _ in range(kills):
        order.append(cluster.starting().slot)
        cluster.kill(cluster.starting())
    assert order == [0, 1, 2][:kills], "the next slot has its turn, and the killed one comes last"
    assert sorted(cluster.workers.live) == [0, 1, 2]
    if kills == KILLED_MAX:
        assert generations(cluster) == [1, 1, 1]
        assert "killed by SIGKILL" in cluster.supervisor.describe_reload()["failed"]
        assert left(cluster) == 0
        return
    while left(cluster):
        cluster.boot()
    assert generations(cluster) == [2, 2, 2]
    assert cluster.supervisor.describe_reload()["failed"] is None


def test_a_successor_that_is_ready_ends_the_row_of_kills() -> None:
    cluster = reloading()
    for _ in range(2):
        for _ in range(KILLED_MAX - 1):
            cluster.kill(cluster.starting(), signal.SIGSEGV)
        cluster.boot()
    cluster.boot()
    assert generations(cluster) == [2, 2, 2]


def test_a_successor_that_exits_by_itself_is_no_kill_from_outside() -> None:
    cluster = reloading()
    cluster.exit(cluster.starting(), 1)
    assert cluster.supervisor.describe_reload()["failed"] == "it ended before it was ready (status 1)"


def test_a_successor_that_does_not_boot_in_time_is_killed_and_ends_the_reload() -> None:
    cluster = reloading()
    successor = cluster.starting()
    while successor.pid in cluster.workers.by_pid:
        cluster.run_alive(1.0)
        cluster.reap()
    assert successor.was_killed
    assert successor.state is WorkerState.GONE
    assert generations(cluster) == [1, 1, 1]
    assert "ended before it was ready" in cluster.supervisor.describe_reload()["failed"]


def test_a_successor_with_an_illegal_message_ends_the_reload() -> None:
    cluster = reloading()
    cluster.send(cluster.starting(), Unreadable("not msgpack"))
    cluster.reap()
    assert "sent a message that cannot be right: not msgpack" in cluster.supervisor.describe_reload()["failed"]
    assert generations(cluster) == [1, 1, 1]


def test_a_successor_that_cannot_be_started_ends_the_reload() -> None:
    cluster = ClusterWithoutProcesses(workers=2)
    cluster.start()
    cluster.environment.fails = [no_such_program()]
    cluster.supervisor.reload()
    failed = cluster.supervisor.describe_reload()["failed"]
    assert failed == "no process can be started: No such file or directory"
    assert generations(cluster) == [1, 1]


def test_the_slot_of_an_old_worker_that_dies_meanwhile_is_filled_by_the_successor() -> None:
    cluster = reloading()
    cluster.kill(cluster.live(0))
    assert cluster.states()[0] == ["starting"], "the successor is on its way: no other is started"
    cluster.run_alive(1.0)
    assert cluster.states()[0] == ["starting"]
    cluster.boot(0)
    while left(cluster):
        cluster.boot()
    assert generations(cluster) == [2, 2, 2]
    cluster.kill(cluster.live(0))
    cluster.poller.run_for(0.0)
    assert cluster.states()[0] == ["starting"], "at once: the loss before was no failure of this slot"


def test_where_the_old_worker_and_its_successor_die_the_slot_gets_another() -> None:
    cluster = reloading()
    cluster.kill(cluster.live(0))
    cluster.kill(cluster.starting(0))
    while left(cluster) or len(cluster.workers.live) < 3:
        for worker in [each for each in cluster.workers.by_pid.values() if each.state is WorkerState.STARTING]:
            cluster.boot(worker.slot)
        cluster.run_alive(1.0)
    assert generations(cluster) == [2, 2, 2]


def test_a_slot_that_waits_for_its_back_off_gets_a_new_worker_at_once() -> None:
    cluster = ClusterWithoutProcesses(workers=2)
    cluster.start()
    for _ in range(2):
        cluster.kill(cluster.live(0))
        cluster.poller.run_for(0.0)
        if cluster.workers.is_starting(Slot(0)):
            cluster.boot(0)
    assert 0 not in cluster.states(), "its next worker would come in a second"
    cluster.supervisor.reload()
    assert cluster.boot(0).generation == 2
    cluster.boot(1)
    assert generations(cluster) == [2, 2]


def test_a_reload_during_a_reload_replaces_again_what_the_first_has_replaced() -> None:
    cluster = reloading()
    cluster.boot()
    cluster.supervisor.reload()
    while left(cluster):
        cluster.boot()
    assert generations(cluster) == [3, 3, 3]


def test_a_successor_of_an_older_generation_that_fails_does_not_end_the_newer_reload() -> None:
    cluster = reloading()
    cluster.supervisor.reload()
    cluster.fail_boot(cluster.starting(), "the version before was broken")
    assert cluster.supervisor.describe_reload()["failed"] is None
    while left(cluster):
        cluster.boot()
    assert generations(cluster) == [3, 3, 3]


def test_scaling_up_during_a_reload() -> None:
    cluster = reloading(workers=2)
    cluster.scale(4)
    for slot in (2, 3):
        assert cluster.boot(slot).generation == 2, "an added slot has the new version from the start"
    while left(cluster):
        cluster.boot()
    assert generations(cluster) == [2, 2, 2, 2]
    cluster.check()


def test_scaling_down_during_a_reload_retires_the_successor_when_it_is_ready() -> None:
    cluster = reloading(workers=2)
    cluster.boot(0)
    successor = cluster.starting(1)
    cluster.scale(1)
    assert sorted(cluster.workers.live) == [0]
    cluster.boot(1)
    assert successor.state is WorkerState.DRAINING
    assert sorted(cluster.workers.live) == [0]
    assert left(cluster) == 0
    cluster.check()


def test_scaling_down_during_a_reload_skips_the_slots_that_are_gone() -> None:
    cluster = reloading(workers=3)
    cluster.scale(1)
    cluster.boot(0)
    assert left(cluster) == 0
    assert generations(cluster) == [2]
    assert [each.slot for each in cluster.workers.by_pid.values() if each.state is WorkerState.STARTING] == []


def test_a_successor_of_a_slot_that_is_not_wanted_any_more_is_killed() -> None:
    cluster = reloading(workers=2)
    cluster.boot(0)
    cluster.scale(1)
    cluster.kill(cluster.starting(1))
    assert left(cluster) == 0
    cluster.run_alive(60.0)
    assert sorted(cluster.workers.live) == [0]
    assert not cluster.workers.is_starting(Slot(1))


def test_a_stop_during_a_reload_kills_the_successor_and_starts_no_other() -> None:
    cluster = reloading()
    successor = cluster.starting()
    cluster.supervisor.stop()
    assert cluster.process(successor).signals == [signal.SIGKILL]
    cluster.reap()
    assert left(cluster) <= 1
    assert {state for states in cluster.states().values() for state in states} == {"draining"}


def test_a_slot_is_replaced_once_however_often_that_is_requested() -> None:
    cluster = ClusterWithoutProcesses(workers=1)
    cluster.start()
    cluster.supervisor.replace(Slot(0))
    cluster.supervisor.replace(Slot(0))
    cluster.boot(0)
    assert cluster.states() == {0: ["draining", "ready"]}
    assert cluster.live(0).generation == 1, "the same version: only a reload makes a new generation"
