"""What is announced of a worker: which hook is called, which other workers get an event, and what a new one gets."""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from sticky.handoff import journal
from sticky.handoff.blame import CRASHES, REFUSED_S
from sticky.handoff.channel import Kind
from sticky.handoff.messages import READINESS, REFUSED
from sticky.handoff.worker_handle import WorkerEvent, WorkerHandle
from sticky.keys.affinity import Affinity, AffinitySettings
from sticky.keys.hashing import Hashing, Slot
from sticky.lifetime import Lifetime
from sticky.supervision.announcements import Announcements
from sticky.supervision.crashes import Crashes
from sticky.supervision.readiness import LAME_DUCK, NodeReadiness
from sticky.supervision.workers import Workers
from tests.support.fake_environment import FakeChannel, FakeEnvironment
from tests.support.fake_poller import FakePoller
from tests.support.recorded_hooks import recorded_hooks


class Rig:
    """Announcements over workers that are no processes."""

    def __init__(self) -> None:
        poller, counters, hashing = FakePoller(), Counter[str](), Hashing(b"s" * 32)
        self.workers = Workers(poller, FakeEnvironment())
        self.hooks: list[tuple[str, dict[str, Any]]] = []
        self.readiness = NodeReadiness(self.workers)
        affinity = Affinity(AffinitySettings(), hashing)
        self.crashes = Crashes(poller, affinity, hashing, workers=self.workers, counters=counters)
        hooks = recorded_hooks(self.hooks, counters)
        self.announcements = Announcements(self.workers, hooks, self.crashes, self.readiness)

    def crash(self, key: bytes) -> None:
        """Have one key's requests crash so many workers that it is refused."""
        for _ in range(CRASHES):
            memory = journal.create()
            assert memory is not None
            mark = journal.Journal(mmap.mmap(memory, journal.SIZE)).open(key)
            mark.begin()
            worker = WorkerHandle(
                Slot(0), 400, FakeChannel(), worker_id="w", generation=1, now=0.0, lifetime=Lifetime(), journal=memory
            )
            self.crashes.ended(worker, -11)
            worker.close_journal()

    def worker(self, slot: int, *, is_ready: bool = True) -> tuple[WorkerHandle, FakeChannel]:
        channel = FakeChannel()
        worker = WorkerHandle(
            Slot(slot), 500 + slot, channel, worker_id=f"w{slot}", generation=1, now=0.0, lifetime=Lifetime()
        )
        self.workers.add(worker, lambda events: None, lambda: None)
        if is_ready:
            worker.transition(WorkerEvent.READY)
        return worker, channel


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.workers.check()


IDENTITY = {"slot": 1, "worker_id": "w1", "pid": 501}


def test_a_start_is_announced_to_the_hook_only(rig: Rig) -> None:
    _, other = rig.worker(0)
    worker, _ = rig.worker(1, is_ready=False)
    rig.announcements.started(worker)
    assert rig.hooks == [("fork", IDENTITY)]
    assert other.sent == [], "it has no clients yet"


def test_one_that_serves_is_announced_to_all_others_that_serve(rig: Rig) -> None:
    _, other = rig.worker(0)
    worker, own = rig.worker(1)
    _, booting = rig.worker(2, is_ready=False)
    rig.announcements.ready(worker)
    assert rig.hooks == [("online", IDENTITY)]
    assert other.sent == [(Kind.EVENT, ("online", IDENTITY))]
    assert own.sent == []
    assert booting.sent == [], "it has learned nothing that this could change"


def test_one_that_serves_learns_what_was_announced_before_it(rig: Rig) -> None:
    rig.readiness.set(LAME_DUCK)
    rig.crash(b"a key")
    worker, own = rig.worker(1)
    rig.announcements.ready(worker)
    assert own.sent == [
        (Kind.EVENT, (REFUSED, {"key": b"a key", "for_s": REFUSED_S})),
        (Kind.EVENT, (READINESS, {"reasons": [LAME_DUCK], "stopping": True})),
    ]


def test_the_others_remove_the_members_of_one_that_is_lost(rig: Rig) -> None:
    _, other = rig.worker(0)
    worker, own = rig.worker(1)
    rig.announcements.lost(worker)
    assert rig.hooks == [("disconnect", IDENTITY)]
    assert other.sent == [(Kind.EVENT, ("exit", IDENTITY))]
    assert own.sent == []


@pytest.mark.parametrize(("code", "is_retired"), [(0, True), (-9, False), (None, False)])
def test_the_end_of_a_process_says_how_and_whether_it_was_expected(
    rig: Rig, code: int | None, is_retired: bool
) -> None:
    _, other = rig.worker(0)
    worker, _ = rig.worker(1)
    worker.is_retired = is_retired
    rig.announcements.ended(worker, code)
    assert rig.hooks == [("exit", {**IDENTITY, "status": code, "expected": is_retired})]
    assert other.sent == [], "the others have learned that it is lost"
