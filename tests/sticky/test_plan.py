"""The plan of each introduction: which connections the primary means, as the source gets it."""

from __future__ import annotations

from typing import Any

import pytest

from sticky.handoff.channel import Kind
from sticky.handoff.worker_handle import WorkerEvent, WorkerHandle
from sticky.keys.affinity import AffinitySettings, Sticky
from sticky.keys.hashing import Slot
from sticky.lifetime import Lifetime
from sticky.moving.plan import ALL, COUNT, HOME, REST, Plan
from sticky.settings import ClusterSettings
from sticky.supervision.introductions import BEATS, Introductions
from sticky.supervision.workers import Workers
from tests.support.fake_environment import FakeChannel, FakeEnvironment
from tests.support.fake_poller import FakePoller


class Rig:
    """Introductions between three workers that serve."""

    def __init__(self, sticky: Sticky = Sticky.IP, **settings: Any) -> None:
        self.settings = ClusterSettings(workers=3, affinity=AffinitySettings(sticky=sticky), **settings)
        self.poller = FakePoller()
        self.workers = Workers(self.poller, FakeEnvironment())
        self.introductions = Introductions(self.poller, self.workers, self.settings)
        self.channels: dict[int, FakeChannel] = {}
        self.live = [self.worker(slot) for slot in range(3)]
        for worker in self.live:
            self.workers.enter_service(worker)

    def worker(self, slot: int, pid: int = 0) -> WorkerHandle:
        pid = pid or 500 + slot
        channel = self.channels[pid] = FakeChannel()
        worker = WorkerHandle(Slot(slot), pid, channel, worker_id=f"w{pid}", generation=1, now=0.0, lifetime=Lifetime())
        worker.transition(WorkerEvent.READY)
        worker.ready_at = 0.0
        self.workers.add(worker, lambda events: None, lambda: None)
        return worker

    def plans(self) -> dict[tuple[int, int], Plan]:
        """Return the plan of each introduction by the slots of source and target, as the sources got it."""
        found: dict[tuple[int, int], Plan] = {}
        for worker in self.workers.by_pid.values():
            for kind, fields in self.channels[worker.pid].sent:
                assert kind is Kind.PEER
                is_source, slot, _, slots, plan, count = fields
                assert slots == 3
                if is_source:
                    found[worker.slot, slot] = Plan(plan, count)
        return found


def test_a_successor_gets_all_of_its_predecessor() -> None:
    rig = Rig()
    rig.introductions.succeeded(rig.live[1], rig.worker(1, pid=600), 3)
    assert rig.plans() == {(1, 1): Plan(ALL)}


def test_a_slot_that_is_filled_gets_what_is_at_home_there_from_those_that_have_any() -> None:
    rig = Rig()
    rig.live[0].reported = 9
    rig.introductions.filled(rig.live[1], 3)
    assert rig.plans() == {(0, 1): Plan(HOME)}, "slot 2 has no connection"


def test_what_has_just_moved_to_a_worker_and_is_not_reported_yet_goes_home_as_well() -> None:
    rig = Rig()
    rig.introductions.succeeded(rig.live[0], rig.worker(0, pid=600), 3)
    rig.workers.enter_service(rig.workers.by_pid[600])
    rig.introductions.filled(rig.live[1], 3)
    assert rig.plans() == {(0, 0): Plan(ALL), (0, 1): Plan(HOME)}, "by its last heartbeat it has none"


def test_without_keys_the_fullest_give_a_number_of_any_to_the_emptiest() -> None:
    rig = Rig(Sticky.NONE)
    rig.live[0].reported, rig.live[2].reported = 9, 3
    rig.introductions.filled(rig.live[1], 3)
    assert rig.plans() == {}, "what a worker has is known after its next heartbeats"
    rig.poller.run_for(BEATS * rig.settings.heartbeat_s)
    assert rig.plans() == {(0, 1): Plan(COUNT, 4), (0, 2): Plan(COUNT, 1)}


def test_a_slot_that_is_removed_gives_the_rest_to_all_others() -> None:
    rig = Rig()
    rig.introductions.removed(rig.live[1], 3)
    assert rig.plans() == {(1, 0): Plan(REST), (1, 2): Plan(REST)}


@pytest.mark.parametrize("sticky", [Sticky.IP, Sticky.NONE])
def test_where_nothing_moves_there_is_no_plan(sticky: Sticky) -> None:
    rig = Rig(sticky, migrates=False)
    rig.live[0].reported = 9
    rig.introductions.succeeded(rig.live[1], rig.worker(1, pid=600), 3)
    rig.introductions.filled(rig.live[1], 3)
    rig.introductions.removed(rig.live[1], 3)
    rig.poller.run_for(2 * BEATS * rig.settings.heartbeat_s)
    assert rig.plans() == {}


def test_no_two_plans_have_one_name_and_a_plan_does_not_change() -> None:
    assert len({ALL, HOME, COUNT, REST}) == 4
    plan = Plan(COUNT, 3)
    assert plan == Plan(COUNT, 3)
    assert plan != Plan(COUNT)
    with pytest.raises(AttributeError):
        plan.count = 4  # type: ignore[misc]  # one plan is written by the primary and followed by the source
