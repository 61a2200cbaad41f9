"""The supervisor over fake processes and a fake clock: start, loss and back-off, scale, stop."""

from __future__ import annotations

import logging
import signal

import pytest

from sticky.handoff.channel import Kind
from sticky.handoff.messages import EXIT_BOOT, REFUSED, Beat, Retire
from sticky.handoff.worker_handle import WorkerState
from sticky.keys.hashing import Slot
from sticky.settings import WORKERS_MAX
from sticky.supervision.restarts import BACKOFF_S, STEADY_S
from sticky.supervision.supervisor import KILL_GRACE_S, LAST_WORDS_MAX
from tests.support.cluster_without_processes import ClusterWithoutProcesses
from tests.support.fake_environment import no_such_program


def test_each_slot_gets_a_worker_and_the_first_that_is_ready_opens_the_listener() -> None:
    cluster = ClusterWithoutProcesses(workers=3)
    cluster.start(ready=False)
    assert cluster.states() == {0: ["starting"], 1: ["starting"], 2: ["starting"]}
    assert cluster.first_ready == 0
    cluster.boot(1)
    assert cluster.first_ready == 1
    cluster.boot(0)
    cluster.boot(2)
    assert cluster.first_ready == 1, "called once"
    assert sorted(cluster.workers.live) == [0, 1, 2]
    cluster.check()


def test_a_worker_is_sent_its_boot_message_first() -> None:
    cluster = ClusterWithoutProcesses(workers=2)
    cluster.start(ready=False)
    worker = cluster.starting(1)
    [(kind, [boot])] = cluster.process(worker).channel.sent
    assert kind is Kind.BOOT
    assert (boot["slot"], boot["slots"], boot["worker_id"], boot["config"]) == (1, 2, worker.worker_id, {"app": "demo"})


def test_others_are_sent_an_event_when_a_worker_comes_or_goes() -> None:
    cluster = ClusterWithoutProcesses(workers=2)
    cluster.start(ready=False)
    first = cluster.boot(0)
    channel = cluster.process(first).channel
    second = cluster.boot(1)
    assert channel.last(Kind.EVENT)[0] == "online"
    cluster.kill(second)
    name, about = channel.last(Kind.EVENT)
    assert (name, about["pid"]) == ("exit", second.pid)


def test_a_slot_that_fails_again_and_again_waits_longer_each_time() -> None:
    cluster = ClusterWithoutProcesses(workers=2)
    cluster.start()
    for delay_s in (*BACKOFF_S, BACKOFF_S[-1]):
        cluster.kill(cluster.live(0))
        begun = cluster.poller.passed_s
        while not cluster.workers.is_starting(Slot(0)):
            cluster.beat(cluster.live(1))
            cluster.poller.run_for(0.25)
        assert delay_s <= cluster.poller.passed_s - begun <= delay_s + 0.25
        cluster.boot(0)
    cluster.check()


def test_a_worker_that_stays_ready_clears_its_slots_record() -> None:
    cluster = ClusterWithoutProcesses(workers=1)
    cluster.start()
    for _ in range(3):
        cluster.kill(cluster.live(0))
        cluster.poller.run_for(0.0)
        if not cluster.workers.by_pid:
            cluster.poller.run_for(BACKOFF_S[2])
        cluster.boot(0)
    cluster.run_alive(STEADY_S + 1.0)
    cluster.kill(cluster.live(0))
    cluster.poller.run_for(0.0)
    assert cluster.workers.is_starting(Slot(0)), "at once, as the first time"


def test_no_worker_can_boot() -> None:
    cluster = ClusterWithoutProcesses(workers=2, boots_max=3)
    cluster.start(ready=False)
    cluster.fail_boot(cluster.starting(0), "ImportError: no module named app")
    cluster.fail_boot(cluster.starting(1), "ImportError: no module named app")
    assert cluster.stopped == []
    cluster.poller.run_for(0.0)  # both slots, at once the first time
    cluster.fail_boot(cluster.starting(0), "ImportError: no module named app")
    assert cluster.environment.last.signals == [signal.SIGKILL], "the other, which still boots, is killed"
    assert cluster.stopped == [EXIT_BOOT]


def test_the_same_boot_error_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    cluster = ClusterWithoutProcesses(workers=3, boots_max=None)
    with caplog.at_level(logging.ERROR):
        cluster.start(ready=False)
        for slot in (0, 1, 2):
            cluster.fail_boot(cluster.starting(slot), "the same text")
        cluster.poller.run_for(0.0)
        cluster.fail_boot(cluster.starting(0), "another text")
    assert caplog.text.count("the same text") == 1
    assert caplog.text.count("another text") == 1


def test_once_a_worker_was_ready_failed_boots_never_end_the_server() -> None:
    cluster = ClusterWithoutProcesses(workers=2, boots_max=3)
    cluster.start()
    cluster.kill(cluster.live(0))
    for _ in range(10):
        while not cluster.workers.is_starting(Slot(0)):
            cluster.beat(cluster.live(1))
            cluster.poller.run_for(1.0)
        cluster.fail_boot(cluster.starting(0))
    assert cluster.stopped == []
    assert cluster.counters["boots_failed"] == 10


def test_a_worker_that_cannot_be_started_is_tried_again_later() -> None:
    cluster = ClusterWithoutProcesses(workers=1, boots_max=None)
    cluster.environment.fails = [no_such_program(), no_such_program()]
    cluster.start(ready=False)
    assert cluster.workers.by_pid == {}
    cluster.poller.run_for(0.0)
    cluster.poller.run_for(BACKOFF_S[1])
    cluster.boot(0)
    cluster.check()


def test_a_worker_that_asks_to_end_is_replaced_and_only_the_live_one_can() -> None:
    cluster = ClusterWithoutProcesses(workers=1)
    cluster.start()
    old = cluster.live(0)
    cluster.send(old, Retire())
    successor = cluster.boot(0)
    assert old.state is WorkerState.DRAINING
    cluster.send(old, Retire())
    assert cluster.states() == {0: ["draining", "ready"]}
    assert cluster.live(0) is successor


def test_a_drained_worker_that_does_not_end_is_killed() -> None:
    cluster = ClusterWithoutProcesses(workers=1, drain_s=20.0)
    cluster.start()
    old = cluster.live(0)
    cluster.supervisor.replace(Slot(0))
    cluster.boot(0)
    assert cluster.process(old).channel.last(Kind.DRAIN) == (20.0,)
    cluster.run_alive(20.0 + KILL_GRACE_S - 0.1)
    assert cluster.process(old).signals == []
    cluster.run_alive(0.2)
    assert cluster.process(old).signals == [signal.SIGKILL]
    assert old.was_killed


def test_a_drained_worker_that_ends_in_time_is_followed_by_none() -> None:
    cluster = ClusterWithoutProcesses(workers=1)
    cluster.start()
    old = cluster.live(0)
    cluster.supervisor.replace(Slot(0))
    cluster.boot(0)
    cluster.exit(old)
    cluster.run_alive(120.0)
    assert cluster.states() == {0: ["ready"]}
    assert [fields["expected"] for fields in cluster.events("exit")] == [True]
    assert cluster.counters["died"] == 0


def test_a_process_that_only_closes_its_channel_is_killed_when_its_orphan_grace_is_over() -> None:
    cluster = ClusterWithoutProcesses(workers=1, orphan_grace_s=60.0)
    cluster.start()
    worker = cluster.live(0)
    cluster.end_channel(worker)
    cluster.poller.run_for(0.0)
    cluster.boot(0)
    cluster.run_alive(60.0 + KILL_GRACE_S - 1.0)
    assert cluster.process(worker).signals == []
    cluster.run_alive(1.5)
    assert cluster.process(worker).signals == [signal.SIGKILL]


def test_a_dead_worker_whose_child_sends_for_ever_is_received_from_only_so_often() -> None:
    cluster = ClusterWithoutProcesses(workers=1)
    cluster.start()
    worker = cluster.live(0)
    channel = cluster.process(worker).channel
    rounds = 0

    def receive_for_ever() -> list[object]:
        nonlocal rounds
        rounds += 1
        return []

    channel.receive = receive_for_ever  # type: ignore[method-assign, assignment]
    cluster.kill(worker)
    assert rounds == LAST_WORDS_MAX
    assert channel.is_closed


# Scaling


def test_scale_up_and_down() -> None:
    cluster = ClusterWithoutProcesses(workers=2)
    cluster.start()
    cluster.scale(4)
    assert cluster.states() == {0: ["ready"], 1: ["ready"], 2: ["starting"], 3: ["starting"]}
    cluster.scale(1)
    assert cluster.states() == {0: ["ready"], 1: ["draining"], 2: ["starting"], 3: ["starting"]}
    assert sorted(cluster.workers.live) == [0]
    retired = cluster.boot(2)
    assert retired.state is WorkerState.DRAINING, "it is not wanted any more: ready, and retired at once"
    cluster.fail_boot(cluster.starting(3))
    cluster.run_alive(60.0)
    assert 3 not in cluster.states(), "no worker follows in a slot that is not wanted"
    cluster.check()


def test_scaling_up_again_while_the_old_worker_drains_fills_the_slot() -> None:
    cluster = ClusterWithoutProcesses(workers=2)
    cluster.start()
    cluster.scale(1)
    cluster.scale(2)
    assert cluster.states() == {0: ["ready"], 1: ["draining", "starting"]}
    cluster.boot(1)
    assert sorted(cluster.workers.live) == [0, 1]


def test_scaling_up_again_while_the_first_worker_still_boots_starts_no_second() -> None:
    cluster = ClusterWithoutProcesses(workers=1)
    cluster.start()
    cluster.scale(2)
    cluster.scale(1)
    cluster.scale(2)
    assert cluster.states() == {0: ["ready"], 1: ["starting"]}
    cluster.boot(1)
    assert sorted(cluster.workers.live) == [0, 1]


@pytest.mark.parametrize(("asked", "wanted"), [(0, 1), (-5, 1), (WORKERS_MAX + 1, WORKERS_MAX)])
def test_the_number_of_workers_stays_within_its_bounds(asked: int, wanted: int) -> None:
    cluster = ClusterWithoutProcesses(workers=1)
    cluster.start()
    cluster.scale(asked)
    assert cluster.supervisor.wanted == wanted


# Stopping


def test_stop_drains_those_that_serve_and_kills_those_that_boot() -> None:
    cluster = ClusterWithoutProcesses(workers=2)
    cluster.start(ready=False)
    serving, booting = cluster.boot(0), cluster.starting(1)
    cluster.supervisor.stop()
    assert serving.state is WorkerState.DRAINING
    assert cluster.process(booting).signals == [signal.SIGKILL]
    cluster.reap()
    assert cluster.stopped == []
    cluster.exit(serving)
    assert cluster.stopped == [0]


def test_nothing_is_started_while_the_server_stops() -> None:
    cluster = ClusterWithoutProcesses(workers=2)
    cluster.start()
    cluster.supervisor.stop()
    cluster.supervisor.reload()
    cluster.supervisor.replace(Slot(0))
    cluster.scale(4)
    cluster.kill(next(each for each in cluster.workers.by_pid.values() if each.slot == 0))
    cluster.poller.run_for(2.0)
    assert cluster.states() == {1: ["draining"]}


def test_a_worker_that_becomes_ready_while_the_server_stops_is_drained() -> None:
    cluster = ClusterWithoutProcesses(workers=1)
    cluster.start(ready=False)
    worker = cluster.starting()
    process = cluster.process(worker)
    process.channel.inbox.append(Beat(0, 0, {}))
    cluster.supervisor.stop()
    assert process.signals == [signal.SIGKILL]
    cluster.reap()
    assert cluster.stopped == [0]
    assert cluster.workers.live == {}


def test_a_second_stop_changes_nothing_and_one_at_once_kills() -> None:
    cluster = ClusterWithoutProcesses(workers=2)
    cluster.start()
    cluster.supervisor.stop()
    cluster.supervisor.stop()
    drains = [cluster.process(each).channel.kinds().count(Kind.DRAIN) for each in cluster.workers.by_pid.values()]
    assert drains == [1, 1]
    cluster.supervisor.stop_now(143)
    cluster.reap()
    assert cluster.stopped == [143]


def test_a_server_without_workers_stops_at_once() -> None:
    cluster = ClusterWithoutProcesses(workers=1)
    cluster.supervisor.stop(1)
    assert cluster.stopped == [1]


# Crashes


def test_a_worker_that_comes_is_sent_the_keys_that_are_refused_now() -> None:
    cluster = ClusterWithoutProcesses(workers=2)
    cluster.start()
    crashes = cluster.supervisor._crashes
    crashes._blame.refused[b"key"] = cluster.poller.now() + 30.0
    cluster.kill(cluster.live(0))
    cluster.poller.run_for(0.0)
    worker = cluster.boot(0)
    assert cluster.process(worker).channel.last(Kind.EVENT) == (REFUSED, {"key": b"key", "for_s": 30.0})
