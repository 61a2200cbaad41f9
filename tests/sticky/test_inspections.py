"""Requests what a worker is doing: answered by the worker, or by its stacks in the log."""

from __future__ import annotations

import signal

from sticky.handoff.channel import Kind
from sticky.handoff.messages import Inspected
from sticky.keys.hashing import Slot
from sticky.supervision.inspections import INSPECT_S
from tests.support.cluster_without_processes import ClusterWithoutProcesses


def started() -> ClusterWithoutProcesses:
    cluster = ClusterWithoutProcesses(workers=1)
    cluster.start()
    return cluster


def test_a_worker_is_asked_once_for_all_that_wait_and_each_gets_its_answer() -> None:
    cluster = started()
    worker = cluster.live(0)
    answers: list[str] = []
    assert cluster.supervisor.inspections.request_slot(Slot(0), answers.append)
    assert cluster.supervisor.inspections.request_slot(Slot(0), answers.append)
    assert cluster.process(worker).channel.kinds().count(Kind.INSPECT) == 1
    cluster.send(worker, Inspected("2 tasks"))
    assert answers == ["2 tasks", "2 tasks"]
    cluster.poller.run_for(INSPECT_S)
    assert len(answers) == 2, "answered once each"
    assert cluster.process(worker).signals == []


def test_a_worker_that_does_not_answer_writes_its_stacks() -> None:
    cluster = started()
    worker = cluster.live(0)
    answers: list[str] = []
    cluster.supervisor.inspections.request_slot(Slot(0), answers.append)
    cluster.poller.run_for(INSPECT_S)
    assert answers == [f"worker {worker.pid} does not answer: the stacks of its threads are in the server's log"]
    assert cluster.process(worker).signals == [signal.SIGUSR2]
    cluster.send(worker, Inspected("late"))
    assert len(answers) == 1


def test_a_worker_that_has_ended_is_signalled_no_more() -> None:
    cluster = started()
    worker = cluster.live(0)
    answers: list[str] = []
    cluster.supervisor.inspections.request_slot(Slot(0), answers.append)
    cluster.exit(worker)
    cluster.poller.run_for(INSPECT_S)
    assert len(answers) == 1
    assert cluster.process(worker).signals == []


def test_a_later_request_has_a_deadline_of_its_own() -> None:
    cluster = started()
    worker = cluster.live(0)
    first: list[str] = []
    second: list[str] = []
    cluster.supervisor.inspections.request_slot(Slot(0), first.append)
    cluster.poller.run_for(INSPECT_S / 2)
    cluster.send(worker, Inspected("now"))
    cluster.supervisor.inspections.request_slot(Slot(0), second.append)
    cluster.poller.run_for(INSPECT_S / 2)
    assert (first, second) == (["now"], [])
    cluster.poller.run_for(INSPECT_S / 2)
    assert len(second) == 1


def test_one_callback_that_raises_keeps_the_others() -> None:
    cluster = started()
    answers: list[str] = []

    def fail(text: str) -> None:
        raise RuntimeError("a bug")

    cluster.supervisor.inspections.request_slot(Slot(0), fail)
    cluster.supervisor.inspections.request_slot(Slot(0), answers.append)
    cluster.send(cluster.live(0), Inspected("text"))
    assert answers == ["text"]
    assert cluster.counters["callbacks_failed"] == 1


def test_a_slot_without_a_worker_is_not_inspected() -> None:
    assert not started().supervisor.inspections.request_slot(Slot(5), lambda text: None)
