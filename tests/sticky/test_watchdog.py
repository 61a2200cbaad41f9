"""The watchdog: a worker that does not boot, one that hangs, one that is old, and a primary that stood still."""

from __future__ import annotations

import logging
import signal

import pytest

from sticky.handoff.worker_handle import WorkerState
from sticky.lifetime import Lifetime
from sticky.supervision.introductions import RECEIVING_S
from sticky.supervision.watchdog import CHECKS_PER_BOUND, DUMP_S, MOVING_HUNG_S
from tests.support.cluster_without_processes import ClusterWithoutProcesses

HUNG_S = 6.0
INTERVAL_S = HUNG_S / CHECKS_PER_BOUND


def test_a_worker_without_heartbeats_is_dumped_killed_and_replaced(caplog: pytest.LogCaptureFixture) -> None:
    cluster = ClusterWithoutProcesses(workers=2, hung_s=HUNG_S)
    cluster.start()
    worker, other = cluster.live(0), cluster.live(1)
    while worker.state is WorkerState.READY:
        cluster.beat(other)
        cluster.poller.run_for(0.25)
    assert HUNG_S <= cluster.poller.passed_s <= HUNG_S + INTERVAL_S
    assert cluster.process(worker).signals == [signal.SIGUSR2]
    assert 0 not in cluster.workers.live, "it gets no connection from now on"
    cluster.poller.run_for(DUMP_S)
    assert cluster.process(worker).signals == [signal.SIGUSR2, signal.SIGKILL]
    cluster.reap()
    cluster.poller.run_for(0.0)
    cluster.boot(0)
    assert (cluster.counters["hung"], cluster.counters["died"]) == (1, 1)
    assert other.state is WorkerState.READY
    cluster.check()


def test_heartbeats_that_come_in_time_keep_a_worker_for_ever() -> None:
    cluster = ClusterWithoutProcesses(workers=1, hung_s=HUNG_S)
    cluster.start()
    worker = cluster.live(0)
    cluster.run_alive(600.0)
    assert cluster.live(0) is worker
    assert cluster.process(worker).signals == []


def test_a_worker_that_does_not_boot_in_time_is_killed_without_a_dump() -> None:
    cluster = ClusterWithoutProcesses(workers=1, boot_s=30.0, boots_max=None)
    cluster.start(ready=False)
    worker = cluster.starting()
    cluster.poller.run_for(29.9)
    assert worker.state is WorkerState.STARTING, "heartbeats are not expected yet"
    cluster.poller.run_for(INTERVAL_S + DUMP_S)
    assert cluster.process(worker).signals == [signal.SIGKILL]


def test_a_worker_that_ends_while_its_stacks_are_dumped_is_not_killed() -> None:
    cluster = ClusterWithoutProcesses(workers=1, hung_s=HUNG_S)
    cluster.start()
    worker = cluster.live(0)
    while worker.state is WorkerState.READY:
        cluster.poller.run_for(0.25)
    cluster.exit(worker)
    cluster.poller.run_for(10 * DUMP_S)
    assert cluster.process(worker).signals == [signal.SIGUSR2]


def test_a_worker_that_sends_again_after_it_was_found_hung_is_killed_all_the_same() -> None:
    cluster = ClusterWithoutProcesses(workers=1, hung_s=HUNG_S)
    cluster.start()
    worker = cluster.live(0)
    while worker.state is WorkerState.READY:
        cluster.poller.run_for(0.25)
    cluster.beat(worker)
    cluster.poller.run_for(DUMP_S)
    assert cluster.process(worker).signals == [signal.SIGUSR2, signal.SIGKILL]
    assert cluster.counters["hung"] == 1


def test_the_worker_of_the_inspected_slot_may_be_silent() -> None:
    cluster = ClusterWithoutProcesses(workers=2, hung_s=HUNG_S, inspected=0)
    cluster.start()
    stopped = cluster.live(0)
    for _ in range(60):
        cluster.beat(cluster.live(1))
        cluster.poller.run_for(1.0)
    assert cluster.live(0) is stopped


def test_a_paused_worker_may_be_silent_because_its_heartbeats_are_not_received() -> None:
    cluster = ClusterWithoutProcesses(workers=1, hung_s=HUNG_S)
    cluster.start()
    worker = cluster.live(0)
    cluster.workers.pause(worker, True)
    cluster.poller.run_for(3 * HUNG_S)
    assert worker.state is WorkerState.READY
    cluster.workers.pause(worker, False)
    cluster.poller.run_for(HUNG_S + INTERVAL_S)
    assert worker.state is WorkerState.HUNG


def test_time_in_which_the_primary_itself_stood_still_counts_for_no_worker() -> None:
    cluster = ClusterWithoutProcesses(workers=2, hung_s=HUNG_S, boot_s=30.0)
    cluster.start(ready=False)
    serving, booting = cluster.boot(0), cluster.starting(1)
    cluster.poller.clock.now_s += 300.0  # SIGSTOP, then SIGCONT: no timer has run
    cluster.poller.run_for(0.0)
    assert (serving.state, booting.state) == (WorkerState.READY, WorkerState.STARTING)
    cluster.poller.run_for(HUNG_S + INTERVAL_S)
    assert serving.state is WorkerState.HUNG, "but from then on its time runs again"


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        (Lifetime(seconds=100.0, jitter=0.0), "it has served for 1"),
        (Lifetime(connections=5, jitter=0.0), "it has had 7 connections"),
    ],
)
def test_a_worker_past_one_of_its_bounds_is_replaced(
    bounds: Lifetime, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = ClusterWithoutProcesses(workers=2, lifetime=bounds)
    cluster.start()
    worker = cluster.live(0)
    with caplog.at_level(logging.INFO):
        while not cluster.workers.is_starting(worker.slot):
            for each in list(cluster.workers.live.values()):
                cluster.beat(each, connections=7 if each is worker else 0)
            cluster.poller.run_for(1.0)
    assert reason in caplog.text
    assert cluster.counters["lived_out"] >= 1
    assert worker.state is WorkerState.READY, "it serves until its successor is ready"
    cluster.boot(0)
    assert worker.state is WorkerState.DRAINING


def test_an_old_worker_is_not_replaced_while_it_is_being_replaced_or_the_server_stops() -> None:
    cluster = ClusterWithoutProcesses(workers=1, lifetime=Lifetime(seconds=10.0, jitter=0.0))
    cluster.start()
    cluster.run_alive(25.0)
    assert cluster.states() == {0: ["ready", "starting"]}
    assert cluster.counters["lived_out"] == 1
    cluster.supervisor.stop()
    cluster.run_alive(25.0)
    assert cluster.counters["lived_out"] == 1


def test_a_check_that_fails_for_one_worker_checks_the_others() -> None:
    cluster = ClusterWithoutProcesses(workers=2, hung_s=HUNG_S)
    cluster.start()
    broken, other = cluster.live(0), cluster.live(1)
    broken.last_beat_at = None  # type: ignore[assignment]  # a bug of ours
    while other.state is WorkerState.READY:
        cluster.poller.run_for(1.0)
    assert cluster.counters["callbacks_failed"] > 0


# While connections move


def test_a_worker_that_receives_connections_and_is_silent_is_killed_after_two_seconds() -> None:
    cluster = ClusterWithoutProcesses(workers=2, hung_s=HUNG_S)
    cluster.start()
    cluster.supervisor.reload()
    target = cluster.boot(0)
    others = [each for each in cluster.workers.by_pid.values() if each is not target]
    began_s = cluster.poller.passed_s
    while target.state is WorkerState.READY:
        for other in others:
            cluster.beat(other)
        cluster.poller.run_for(0.25)
    silent_s = cluster.poller.passed_s - began_s
    assert MOVING_HUNG_S <= silent_s <= MOVING_HUNG_S * (1 + 1 / CHECKS_PER_BOUND) + 0.25
    assert cluster.counters["hung"] == 1, "no other worker is bound so: it receives nothing"


def test_after_the_move_the_bound_of_the_settings_counts_again() -> None:
    cluster = ClusterWithoutProcesses(workers=1, hung_s=HUNG_S)
    cluster.start()
    cluster.supervisor.reload()
    target = cluster.boot(0)
    cluster.run_alive(RECEIVING_S)
    cluster.poller.run_for(MOVING_HUNG_S + INTERVAL_S)
    assert target.state is WorkerState.READY


def test_where_nothing_moves_a_successor_has_the_bound_of_the_settings() -> None:
    cluster = ClusterWithoutProcesses(workers=1, hung_s=HUNG_S, migrates=False)
    cluster.start()
    cluster.supervisor.reload()
    target = cluster.boot(0)
    cluster.poller.run_for(HUNG_S - 0.1)
    assert target.state is WorkerState.READY
