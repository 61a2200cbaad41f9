"""The table of workers: which one serves a slot, for what each channel is watched, and what is sent and signalled."""

from __future__ import annotations

import signal

import pytest

from sticky.handoff.channel import Kind
from sticky.handoff.worker_handle import WorkerEvent, WorkerHandle
from sticky.keys.hashing import Slot
from sticky.lifetime import Lifetime
from sticky.loop.poller import HANGUP, READ, WRITE
from sticky.supervision.workers import Workers
from tests.support.fake_environment import FakeChannel, FakeEnvironment
from tests.support.fake_poller import READABLE, FakePoller


class Rig:
    """The table, with workers that a fake operating system has started."""

    def __init__(self) -> None:
        self.poller = FakePoller()
        self.environment = FakeEnvironment()
        self.workers = Workers(self.poller, self.environment)
        self.events: list[int] = []
        self.failed: list[int] = []

    def start(self, slot: int = 0, *events: WorkerEvent) -> WorkerHandle:
        pid, channel = self.environment.start_worker(["worker"], {})
        worker = WorkerHandle(
            Slot(slot), pid, channel, worker_id=f"w{pid}", generation=1, now=0.0, lifetime=Lifetime().draw()
        )
        self.workers.add(worker, self.events.append, lambda: self.failed.append(pid))
        for event in events:
            worker.transition(event)
        return worker

    def channel(self, worker: WorkerHandle) -> FakeChannel:
        return self.environment.process(worker.pid).channel

    def mask(self, worker: WorkerHandle) -> int | None:
        return self.poller.mask_of(self.channel(worker).fileno())


READY = (WorkerEvent.READY,)


# Who serves a slot


def test_a_worker_is_live_from_its_service_on_and_its_predecessor_is_returned() -> None:
    rig = Rig()
    first, second = rig.start(0, *READY), rig.start(0, *READY)
    assert rig.workers.enter_service(first) is None
    assert rig.workers.is_live(first)
    assert rig.workers.enter_service(second) is first
    assert (rig.workers.is_live(first), rig.workers.is_live(second)) == (False, True)


def test_a_predecessor_that_leaves_does_not_take_its_successor_along() -> None:
    rig = Rig()
    first, second = rig.start(0, *READY), rig.start(0, *READY)
    rig.workers.enter_service(first)
    rig.workers.enter_service(second)
    rig.workers.leave_service(first)
    assert rig.workers.live == {0: second}
    rig.workers.leave_service(second)
    assert rig.workers.live == {}


def test_a_worker_that_is_not_ready_is_never_live() -> None:
    rig = Rig()
    with pytest.raises(AssertionError, match="is live and starting"):
        rig.workers.enter_service(rig.start())


def test_a_slot_is_starting_while_a_worker_of_it_boots() -> None:
    rig = Rig()
    worker = rig.start(1)
    assert (rig.workers.is_starting(Slot(0)), rig.workers.is_starting(Slot(1))) == (False, True)
    worker.transition(WorkerEvent.READY)
    assert not rig.workers.is_starting(Slot(1))


def test_a_worker_is_dying_from_the_end_of_its_channel_until_it_is_reaped() -> None:
    rig = Rig()
    worker = rig.start(0, *READY)
    assert not rig.workers.is_dying()
    worker.transition(WorkerEvent.EXIT)
    assert rig.workers.is_dying()
    assert rig.workers.remove(worker.pid) is worker
    assert not rig.workers.is_dying()
    assert rig.workers.remove(worker.pid) is None, "another process of ours"


# Messages


def test_what_finds_no_room_is_sent_when_the_channel_has_some() -> None:
    rig = Rig()
    worker = rig.start(0, *READY)
    rig.channel(worker).is_full = True
    rig.workers.send(worker, Kind.INSPECT)
    assert rig.mask(worker) == READ | WRITE
    rig.workers.wants_write(worker, False)
    assert rig.mask(worker) == READ


def test_an_event_goes_to_every_worker_that_serves_but_one() -> None:
    rig = Rig()
    workers = [rig.start(0), rig.start(1, *READY), rig.start(2, *READY, WorkerEvent.DRAIN), rig.start(3, *READY)]
    rig.workers.notify_all("exit", {"slot": 9}, but=workers[3])
    assert [rig.channel(each).kinds() for each in workers] == [[], [Kind.EVENT], [Kind.EVENT], []]


def test_a_worker_that_is_gone_is_sent_nothing_and_its_channel_is_not_watched() -> None:
    rig = Rig()
    worker = rig.start(0, *READY)
    worker.transition(WorkerEvent.EXIT)
    rig.workers.close_channel(worker)
    rig.workers.send(worker, Kind.INSPECT)
    rig.workers.wants_write(worker, True)
    rig.workers.pause(worker, True)
    assert rig.channel(worker).sent == []
    assert rig.mask(worker) is None


def test_the_channel_of_a_worker_that_serves_is_not_closed() -> None:
    rig = Rig()
    with pytest.raises(AssertionError, match="closed descriptor"):
        rig.workers.close_channel(rig.start(0, *READY))


def test_a_paused_worker_is_received_from_no_more_but_its_end_is_seen() -> None:
    rig = Rig()
    worker = rig.start(0, *READY)
    fd = rig.channel(worker).fileno()
    rig.workers.pause(worker, True)
    rig.poller.make_ready(fd, READABLE)
    assert rig.events == []
    rig.poller.make_ready(fd, HANGUP)
    assert len(rig.events) == 1
    rig.workers.pause(worker, False)
    rig.poller.make_ready(fd, READABLE)
    assert len(rig.events) == 2


def test_of_a_condemned_worker_only_the_end_counts() -> None:
    rig = Rig()
    worker = rig.start(0, *READY)
    worker.transition(WorkerEvent.CONDEMN)
    rig.workers.wants_write(worker, True)
    assert rig.mask(worker) == HANGUP


# Signals


def test_only_sigkill_is_noted_as_the_primarys_doing() -> None:
    rig = Rig()
    worker = rig.start(0, *READY)
    rig.workers.send_signal(worker, signal.SIGUSR2)
    assert not worker.was_killed
    rig.workers.send_signal(worker, signal.SIGKILL)
    assert worker.was_killed
    assert rig.environment.process(worker.pid).signals == [signal.SIGUSR2, signal.SIGKILL]


def test_a_process_that_has_ended_or_was_reaped_is_no_error() -> None:
    rig = Rig()
    worker = rig.start(0, *READY)
    rig.environment.process(worker.pid).exit()
    rig.workers.send_signal(worker, signal.SIGUSR2)
    rig.workers.remove(worker.pid)
    rig.workers.send_signal(worker, signal.SIGKILL)
    assert not worker.was_killed, "the pid may be another process's by now"
    assert rig.environment.process(worker.pid).signals == []
