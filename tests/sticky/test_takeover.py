"""
A primary goes on with the workers of an earlier one: the table at the head of sticky/supervision/takeover.py.

Takeover, dispatcher and worker deposit are real; the workers are channels in memory, and the clock is the test's.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from sticky.handoff.channel import Kind, WorkerChannel
from sticky.handoff.dispatcher import Dispatcher
from sticky.handoff.messages import NUMBER_MAX, WorkerIdentity
from sticky.handoff.pending_handoff import PendingHandoff
from sticky.handoff.refusals import Refusals
from sticky.handoff.worker_handle import WorkerEvent, WorkerHandle, WorkerState
from sticky.keys.addresses import Addresses
from sticky.keys.affinity import Affinity, AffinitySettings
from sticky.keys.away import ANSWER_S
from sticky.keys.balance import least
from sticky.keys.hashing import Hashing, Slot
from sticky.loop.log_lines import SERVER_TAKEN_OVER, WORKER_ADOPTED
from sticky.settings import ClusterSettings
from sticky.supervision.adopted_processes import AdoptedProcesses
from sticky.supervision.deposit import Kept, WorkerDeposit
from sticky.supervision.takeover import ANSWERS_S, TAKEOVER_S, Takeover
from sticky.supervision.workers import Workers
from tests.support.fake_environment import FakeChannel, FakeEnvironment
from tests.support.fake_poller import FakePoller

SLOTS = 2


class Left(FakeEnvironment):
    """Processes and channels that an earlier primary has left."""

    def __init__(self) -> None:
        super().__init__()
        self.channels: dict[int, FakeChannel] = {}  # by descriptor
        self.adopted: list[int] = []

    def adopt_channel(self, fd: int) -> WorkerChannel:
        return self.channels[fd]

    def adopt(self, pid: int, pidfd: int | None) -> bool:
        assert pidfd is not None, "each worker is kept with its pidfd"
        os.close(pidfd)
        self.adopted.append(pid)
        return True


class Notes:
    """A deposit that notes texts."""

    is_used = True

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def put(self, name: str, fd: int) -> None:
        assert fd >= 0

    def set(self, name: str, text: str) -> None:
        self.texts[name] = text

    def drop(self, name: str) -> None:
        self.texts.pop(name, None)


class Rig:
    """A takeover, and the supervisor's part in it."""

    wanted = SLOTS

    def __init__(self) -> None:
        self.done: list[str] = []
        self.counters: Counter[str] = Counter()
        self.poller = FakePoller(counters=self.counters)
        self.environment = Left()
        self.workers = Workers(self.poller, self.environment)
        self.refusals = Refusals(self.poller, descriptors=1024, tls=False, counters=self.counters)
        self.dispatcher = Dispatcher(
            self.poller,
            Hashing(b"s" * 32),
            self.workers.live,
            balance=least,
            patience_s=5.0,
            refusals=self.refusals,
            channels=self.workers,
            addresses=Addresses(Affinity(AffinitySettings()), most=None, descriptors=1024),
            counters=self.counters,
        )
        self.notes = Notes()
        self.deposit = WorkerDeposit(self.notes, self.environment)
        self.takeover = Takeover(
            self.poller,
            self.environment,
            AdoptedProcesses(self.poller, self.environment, lambda pid, status: None),
            self.workers,
            self.dispatcher,
            self.deposit,
            self,
            settings=ClusterSettings(workers=SLOTS),
        )
        self.kept = Kept()
        self.ends: dict[int, FakeChannel] = {}  # the workers' ends, by pid

    # What the supervisor does for it

    def watch(self, worker: WorkerHandle) -> None:
        self.workers.add(worker, lambda events: None, lambda: None)

    def enter_service(self, worker: WorkerHandle) -> None:
        self.done.append(f"serve {worker.pid}")
        if worker.state is WorkerState.STARTING:
            worker.transition(WorkerEvent.READY)
        before = self.workers.enter_service(worker)
        if before is not None:
            self.retire(before)

    def retire(self, worker: WorkerHandle) -> None:
        self.done.append(f"retire {worker.pid}")
        self.workers.leave_service(worker)
        worker.transition(WorkerEvent.DRAIN)

    def fill(self, slot: Slot) -> None:
        self.done.append(f"fill {slot}")

    def replace_older(self) -> None:
        self.done.append("replace older")

    # What an earlier primary has left, and what its workers do

    def keep(self, pid: int, *, slot: int = 0, state: str = "ready", generation: int = 1) -> None:
        """Have the keeper keep a worker."""
        channel, pidfd = FakeChannel(), os.open("/dev/null", os.O_RDONLY)
        name = f"w{pid}"
        self.kept.fds |= {f"channel:{name}": channel.fileno(), f"process:{name}": pidfd}
        self.kept.texts[f"worker:{name}"] = f"{slot} {pid} {generation} {state}"
        self.ends[pid] = self.environment.channels[channel.fileno()] = channel

    def adopt(self) -> None:
        self.takeover.adopt(self.kept)

    def answer(self, pid: int, *, seen: int = 0, connections: int = 0, is_draining: bool = False) -> None:
        identity = WorkerIdentity(seen, seen, connections, is_draining)
        self.takeover.identified(self.worker(pid), identity)

    def worker(self, pid: int) -> WorkerHandle:
        return self.workers.by_pid[pid]

    def report_keys(self, *pids: int) -> None:
        """Have workers report that none of their keys is away."""
        for pid in pids:
            _, number, _ = self.ends[pid].last(Kind.SLOTS)
            self.dispatcher.away.keys_away(self.worker(pid), [], 0, number, True)

    def close(self) -> None:
        for worker in self.workers.by_pid.values():
            self.deposit.gone(worker)
        self.dispatcher.close()
        self.refusals.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    assert rig.counters["callbacks_failed"] == 0
    rig.close()


def test_without_any_worker_it_is_over_at_once(rig: Rig) -> None:
    over: list[int] = []
    rig.adopt()
    rig.takeover.when_over(lambda: over.append(1))
    assert over == [1]
    assert rig.done == [], "a first start replaces nothing"


def test_each_worker_is_asked_and_kept_for_the_next_primary(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    rig.keep(11, state="starting")
    rig.keep(12, slot=1, state="ready", generation=3)
    rig.adopt()
    assert rig.environment.adopted == [11, 12]
    assert all(end.kinds() == [Kind.IDENTIFY] for end in rig.ends.values())
    assert rig.notes.texts == {"worker:w11": "0 11 1 starting", "worker:w12": "1 12 3 ready"}
    assert f"{WORKER_ADOPTED} slot=1 pid=12 state=ready" in caplog.text


def test_until_it_answers_a_ready_worker_gets_no_connection_and_no_other_is_started_in_its_slot(rig: Rig) -> None:
    rig.keep(11)
    rig.adopt()
    worker = rig.worker(11)
    assert (worker.state, worker.is_identified, worker.sent) == (WorkerState.READY, False, NUMBER_MAX)
    assert rig.workers.live == {}
    assert rig.takeover.covers(Slot(0))
    assert not rig.takeover.covers(Slot(1))


def test_with_the_answer_it_serves_and_its_numbers_are_known(rig: Rig) -> None:
    rig.keep(11)
    rig.adopt()
    rig.answer(11, seen=41, connections=7)
    worker = rig.worker(11)
    assert rig.done == ["serve 11"]
    assert (worker.sent, worker.taken, worker.connections) == (41, 41, 7)
    assert not rig.takeover.covers(Slot(0)), "it is in its slot"


def test_the_next_handoff_has_a_number_that_the_worker_has_not_seen(rig: Rig) -> None:
    rig.keep(11)
    rig.adopt()
    rig.answer(11, seen=41)
    ours, client = socket.socketpair()
    with ours, client:
        rig.dispatcher.dispatch(PendingHandoff(ours, "192.0.2.1", "192.0.2.1", 1, kind="raw"))
        assert rig.ends[11].last(Kind.HANDOFF)[0] == 42


def test_a_worker_that_was_draining_is_retired_again_and_not_waited_for(rig: Rig) -> None:
    rig.keep(11, state="draining")
    rig.adopt()
    assert rig.done == ["retire 11"]
    assert not rig.takeover.covers(Slot(0))
    over: list[int] = []
    rig.takeover.when_over(lambda: over.append(1))
    assert over == [1]
    rig.answer(11, is_draining=True)
    assert rig.done == ["retire 11"]


def test_one_that_got_a_drain_which_was_not_noted_is_followed_by_another(rig: Rig) -> None:
    rig.keep(11)
    rig.adopt()
    rig.answer(11, is_draining=True)
    assert rig.done[:2] == ["retire 11", "fill 0"]


def test_one_whose_ready_was_lost_serves_with_its_answer(rig: Rig) -> None:
    rig.keep(11, state="starting")
    rig.adopt()
    assert rig.worker(11).state is WorkerState.STARTING
    rig.answer(11)
    assert rig.done[0] == "serve 11"


@pytest.mark.parametrize("order", [(11, 12), (12, 11)])
def test_of_two_in_one_slot_the_newer_generation_serves(rig: Rig, order: tuple[int, int]) -> None:
    rig.keep(11, generation=1)
    rig.keep(12, generation=2)
    rig.adopt()
    for pid in order:
        rig.answer(pid)
    assert rig.workers.live[Slot(0)] is rig.worker(12)
    assert rig.worker(11).state is WorkerState.DRAINING


def test_it_is_over_when_all_have_answered_and_reported_their_keys(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.keep(11)
    rig.keep(12, slot=1)
    rig.counters["lost_with_primary"] = 3
    rig.adopt()
    over: list[str] = []
    rig.takeover.when_over(lambda: over.append("over"))
    rig.answer(11)
    rig.answer(12)
    rig.poller.run_for(ANSWERS_S)
    assert over == [], "a connection that is accepted now may belong to a worker that has not said so"
    rig.report_keys(11, 12)
    rig.poller.run_for(ANSWERS_S)
    assert over == ["over"]
    assert rig.done == ["serve 11", "serve 12", "replace older"], "the reload of before goes on"
    assert f"{SERVER_TAKEN_OVER} workers=2 unanswered=0 lost=3" in caplog.text


def test_it_waits_a_bounded_time_for_answers(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.keep(11)
    rig.keep(12, slot=1)
    rig.adopt()
    over: list[str] = []
    rig.takeover.when_over(lambda: over.append("over"))
    rig.answer(11)
    rig.poller.run_for(TAKEOVER_S - ANSWERS_S)
    assert over == []
    rig.poller.run_for(ANSWERS_S)
    rig.report_keys(11)
    rig.poller.run_for(2 * ANSWERS_S)
    assert over == ["over"]
    assert "unanswered=1" in caplog.text
    assert rig.takeover.covers(Slot(1)), "the watchdog decides about the silent one"
    rig.answer(12)
    assert rig.done[-1] == "serve 12"
    assert rig.ends[12].kinds() == [Kind.IDENTIFY, Kind.SLOTS], "its keys are asked for as well"


def test_it_waits_a_bounded_time_for_keys(rig: Rig) -> None:
    assert ANSWER_S > TAKEOVER_S, "the bound of the takeover is the shorter one"
    rig.keep(11)
    rig.adopt()
    over: list[str] = []
    rig.takeover.when_over(lambda: over.append("over"))
    rig.answer(11)
    rig.poller.run_for(TAKEOVER_S - ANSWERS_S)
    assert over == []
    rig.poller.run_for(2 * ANSWERS_S)
    assert over == ["over"]


def test_a_worker_that_is_lost_is_not_waited_for(rig: Rig) -> None:
    rig.keep(11)
    rig.adopt()
    over: list[str] = []
    rig.takeover.when_over(lambda: over.append("over"))
    rig.takeover.gone(rig.worker(11))
    assert not rig.takeover.covers(Slot(0)), "the supervisor starts another"
    assert over == ["over"], "it had no key to report"


def test_what_fails_at_the_end_stops_nothing_else(rig: Rig) -> None:
    rig.keep(11)
    rig.adopt()
    over: list[str] = []
    rig.takeover.when_over(lambda: [][0])
    rig.takeover.when_over(lambda: over.append("over"))
    rig.takeover.gone(rig.worker(11))
    assert over == ["over"]
    assert rig.done[-1] == "replace older"
    assert rig.counters.pop("callbacks_failed") == 1
