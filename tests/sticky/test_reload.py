"""
A reload goes on when a successor is killed while it boots: real processes and signals, a supervisor, no application.
"""

from __future__ import annotations

import logging
import os
import re
import signal
from collections.abc import Iterator

import pytest
from msgspec.msgpack import encode

from sticky.handoff.channel import Kind
from sticky.handoff.worker_handle import WorkerHandle, WorkerState
from sticky.loop.log_lines import RELOAD_CONTINUES
from tests.support.edge import Edge
from tests.support.log_lines import pattern


@pytest.fixture
def edge() -> Iterator[Edge]:
    with Edge(workers=3) as edge:
        for slot in range(3):
            edge.worker(slot)
        yield edge


def successor(edge: Edge) -> WorkerHandle:
    """Return the one that boots. Only one does at a time."""
    while True:
        starting = [each for each in edge.workers.by_pid.values() if each.state is WorkerState.STARTING]
        if starting:
            [found] = starting
            return found
        edge.turn()


def kill(edge: Edge, worker: WorkerHandle, number: signal.Signals = signal.SIGKILL) -> None:
    os.kill(worker.pid, number)
    while worker.pid in edge.workers.by_pid:
        edge.turn()


def come_up(edge: Edge, worker: WorkerHandle) -> None:
    edge.say(worker, encode([Kind.READY]))
    while worker.state is WorkerState.STARTING:
        edge.turn()


def test_the_other_slots_have_their_turn_and_then_the_one_whose_successor_was_killed(
    edge: Edge, caplog: pytest.LogCaptureFixture
) -> None:
    before = dict(edge.workers.live)
    with caplog.at_level(logging.INFO):
        edge.supervisor.reload()
        killed = successor(edge)
        assert killed.slot == 0
        kill(edge, killed)
        assert re.search(pattern(RELOAD_CONTINUES, slot=0, pid=killed.pid), caplog.text)
        order = []
        while edge.supervisor.describe_reload()["left"]:
            each = successor(edge)
            order.append(each.slot)
            come_up(edge, each)
    assert order == [1, 2, 0]
    assert edge.supervisor.describe_reload()["failed"] is None
    assert not set(edge.workers.live.values()) & set(before.values()), "all are replaced"
    assert "given up" not in caplog.text


def test_the_workers_that_serve_go_on_while_successors_are_killed(edge: Edge) -> None:
    before = dict(edge.workers.live)
    edge.supervisor.reload()
    kill(edge, successor(edge))
    kill(edge, successor(edge), signal.SIGSEGV)
    assert edge.workers.live == before
    kill(edge, successor(edge))
    assert edge.workers.live == before
    failed = edge.supervisor.describe_reload()
    assert failed["left"] == 0, "after three in a row it is given up"
    assert "killed by SIGKILL" in failed["failed"]


def test_kills_are_only_counted_in_a_row(edge: Edge) -> None:
    edge.supervisor.reload()
    for _ in range(2):
        kill(edge, successor(edge))
        kill(edge, successor(edge))
        come_up(edge, successor(edge))
    come_up(edge, successor(edge))
    assert edge.supervisor.describe_reload() == {"generation": 2, "left": 0, "failed": None}
    assert {each.generation for each in edge.workers.live.values()} == {2}


def test_a_successor_that_reports_why_it_cannot_boot_still_ends_the_reload(edge: Edge) -> None:
    before = dict(edge.workers.live)
    edge.supervisor.reload()
    worker = successor(edge)
    edge.say(worker, encode([Kind.BOOT_FAILED, "the new version is broken"]))
    edge.turn()
    kill(edge, worker)
    assert edge.supervisor.describe_reload() == {"generation": 2, "left": 0, "failed": "the new version is broken"}
    assert edge.workers.live == before


def test_where_the_old_worker_is_lost_meanwhile_its_slot_is_filled(edge: Edge) -> None:
    edge.supervisor.reload()
    booting = successor(edge)
    kill(edge, edge.workers.live[booting.slot])
    kill(edge, booting)
    while edge.supervisor.describe_reload()["left"] or len(edge.workers.live) < 3:
        for each in [each for each in edge.workers.by_pid.values() if each.state is WorkerState.STARTING]:
            come_up(edge, each)
        edge.turn()
    assert {each.generation for each in edge.workers.live.values()} == {2}
