"""
The tracker of keys that are away: which slot serves a key, what workers are told, and what they report.

No socket and no process: channels are in memory and the clock is the test's. test_away.py has the table alone, and the
whole of dispatcher and workers.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from sticky.errors import NoLiveSlot, OutOfTurn
from sticky.handoff.away_tracker import AwayTracker
from sticky.handoff.channel import Kind
from sticky.handoff.pending_handoff import PendingHandoff
from sticky.handoff.worker_handle import WorkerEvent, WorkerHandle
from sticky.keys.away import ANSWER_S, home_of, short
from sticky.keys.hashing import Hashing, Key, Slot
from sticky.lifetime import Lifetime
from tests.support.fake_environment import FakeChannel
from tests.support.fake_poller import FakePoller
from tests.support.worker_ends import WatchedChannels

HASHING = Hashing(b"a secret of some length")
SLOTS = 3
OWN_PATH, OWN_PREFIX = "/emulation", "/connection/"


def key_at_home_in(slot: int) -> Key:
    """Return a key whose home is a slot, when all `SLOTS` are live."""
    keys = (Key(b"c10.0.0.%d" % number) for number in range(250))
    return next(key for key in keys if home_of(HASHING, key, SLOTS) == slot)


class Rig:
    """A tracker, and workers whose channels are in memory."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.poller = FakePoller(counters=self.counters)
        self.live: dict[Slot, WorkerHandle] = {}
        self.fakes: dict[int, FakeChannel] = {}
        self.channels = WatchedChannels()
        self.tracker = AwayTracker(
            self.poller,
            HASHING,
            self.live,
            channels=self.channels,
            counters=self.counters,
            own_paths=(OWN_PATH, OWN_PREFIX),
        )
        self.sock, self.peer = socket.socketpair()

    def start(self, *slots: int) -> None:
        for slot in slots:
            channel = self.fakes[slot] = FakeChannel()
            self.live[Slot(slot)] = WorkerHandle(
                Slot(slot), 500 + slot, channel, worker_id=f"w{slot}", generation=1, now=0.0, lifetime=Lifetime().draw()
            )

    def lose(self, slot: int) -> None:
        self.tracker.worker_gone(self.live.pop(Slot(slot)))

    def handoff(self, key: Key, number: int, *, away: bool) -> PendingHandoff:
        return PendingHandoff(self.sock, "10.0.0.1", "10.0.0.1", 1, key=key, number=number, away=away)

    def send(self, key: Key, slot: int, number: int, *, away: bool = True) -> None:
        """Note a handoff that was sent to a worker."""
        worker = self.live[Slot(slot)]
        worker.sent = number
        self.tracker.sent(self.handoff(key, number, away=away), worker)

    def slots_messages(self, slot: int) -> list[tuple[object, ...]]:
        return [fields for kind, fields in self.fakes[slot].sent if kind is Kind.SLOTS]


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.sock.close()
    rig.peer.close()


# Which slot serves a key


def test_a_key_goes_to_its_home_while_that_is_live(rig: Rig) -> None:
    rig.start(0, 1, 2)
    rig.tracker.slots_changed(SLOTS)
    for slot in range(SLOTS):
        assert rig.tracker.slot_for(key_at_home_in(slot)) == (slot, False)


def test_a_key_whose_home_is_empty_goes_away_and_stays_there_with_its_connections(rig: Rig) -> None:
    rig.start(0, 1)
    rig.tracker.slots_changed(SLOTS)
    key = key_at_home_in(2)
    slot, is_away = rig.tracker.slot_for(key)
    assert is_away
    rig.send(key, slot, 1)
    rig.start(2)
    assert rig.tracker.slot_for(key) == (slot, True), "its live connections are there"
    rig.tracker.keys_ended(rig.live[slot], [short(key)], 1)
    assert rig.tracker.slot_for(key) == (2, False)


def test_a_key_at_home_is_not_noted(rig: Rig) -> None:
    rig.start(0, 1, 2)
    rig.tracker.slots_changed(SLOTS)
    rig.send(key_at_home_in(1), 1, 1, away=False)
    assert len(rig.tracker) == 0


def test_without_a_live_slot_there_is_none_for_a_key(rig: Rig) -> None:
    rig.tracker.slots_changed(SLOTS)
    with pytest.raises(NoLiveSlot):
        rig.tracker.slot_for(key_at_home_in(0))


def test_a_handoff_that_waits_holds_its_key_until_it_waits_no_longer(rig: Rig) -> None:
    rig.start(0, 1)
    rig.tracker.slots_changed(SLOTS)
    handoff = rig.handoff(key_at_home_in(2), 0, away=True)
    rig.tracker.wait(handoff, rig.live[Slot(0)])
    assert len(rig.tracker) == 1
    rig.tracker.unwait(handoff, rig.live[Slot(0)])
    assert len(rig.tracker) == 0


def test_the_keys_of_a_worker_that_is_gone_are_forgotten(rig: Rig) -> None:
    rig.start(0, 1)
    rig.tracker.slots_changed(SLOTS)
    rig.send(key_at_home_in(2), 0, 1)
    rig.lose(0)
    assert len(rig.tracker) == 0


# Reports


def test_a_report_that_is_older_than_the_last_handoff_ends_nothing(rig: Rig) -> None:
    rig.start(0, 1)
    rig.tracker.slots_changed(SLOTS)
    key = key_at_home_in(2)
    rig.send(key, 0, 1)
    rig.send(key, 0, 2)
    rig.tracker.keys_ended(rig.live[Slot(0)], [short(key)], 1)
    assert rig.tracker.slot_for(key) == (0, True), "handoff 2 was on its way"
    rig.tracker.keys_ended(rig.live[Slot(0)], [short(key)], 2)
    assert len(rig.tracker) == 0


def test_a_worker_that_has_seen_a_handoff_it_was_not_given_is_broken(rig: Rig) -> None:
    rig.start(0)
    worker = rig.live[Slot(0)]
    with pytest.raises(OutOfTurn, match="it has seen handoff 7, and was given 0"):
        rig.tracker.keys_away(worker, [], 7, 1, True)
    with pytest.raises(OutOfTurn, match="it has seen handoff 7, and was given 0"):
        rig.tracker.keys_ended(worker, [], 7)


def test_every_worker_is_asked_when_the_number_of_slots_changes(rig: Rig) -> None:
    rig.start(0, 1)
    rig.tracker.slots_changed(SLOTS)
    assert [rig.slots_messages(slot) for slot in (0, 1)] == [[(SLOTS, 1, False)]] * 2
    assert rig.tracker.awaits_answers
    key = key_at_home_in(2)
    rig.tracker.keys_away(rig.live[Slot(0)], [short(key)], 0, 1, False)
    assert rig.tracker.awaits_answers, "there is more to come"
    for slot in (0, 1):
        rig.tracker.keys_away(rig.live[Slot(slot)], [], 0, 1, True)
    assert not rig.tracker.awaits_answers
    assert rig.tracker.slot_for(key) == (0, True)


def test_a_worker_that_does_not_answer_delays_an_added_slot_for_a_bounded_time(rig: Rig) -> None:
    rig.start(0)
    rig.tracker.slots_changed(SLOTS)
    rig.poller.run_for(ANSWER_S)
    assert not rig.tracker.awaits_answers


def test_an_answer_to_an_older_request_does_not_count(rig: Rig) -> None:
    rig.start(0)
    rig.tracker.slots_changed(SLOTS)
    rig.tracker.slots_changed(SLOTS + 1)
    rig.tracker.keys_away(rig.live[Slot(0)], [], 0, 1, True)
    assert rig.tracker.awaits_answers


def test_a_request_that_finds_no_room_is_sent_when_there_is_some(rig: Rig) -> None:
    rig.start(0)
    rig.fakes[0].is_full = True
    rig.tracker.slots_changed(SLOTS)
    assert rig.channels.wanted == {"w0"}
    rig.fakes[0].is_full = False
    rig.live[Slot(0)].flush()
    assert rig.slots_messages(0) == [(SLOTS, 1, False)]


# Workers that cannot trust a tag alone


def test_a_worker_is_warned_as_long_as_keys_of_its_slot_may_be_elsewhere(rig: Rig) -> None:
    rig.start(0, 1)
    rig.tracker.slots_changed(SLOTS)
    key = key_at_home_in(2)
    rig.send(key, 0, 1)
    rig.start(2)
    rig.tracker.warn(rig.live[Slot(2)])
    assert rig.slots_messages(2) == [(SLOTS, 0, True)]
    rig.tracker.keys_ended(rig.live[Slot(0)], [short(key)], 1)
    assert rig.slots_messages(2) == [(SLOTS, 0, True), (SLOTS, 0, False)]


def test_a_worker_is_not_warned_while_every_key_is_at_home(rig: Rig) -> None:
    rig.start(0)
    rig.tracker.warn(rig.live[Slot(0)])
    assert rig.slots_messages(0) == []


# Keys that stay with a worker that drains


def replace(rig: Rig, slot: int) -> WorkerHandle:
    """Have a successor serve a slot; return the old worker, which drains."""
    old = rig.live[Slot(slot)]
    for event in (WorkerEvent.READY, WorkerEvent.DRAIN):
        old.transition(event)
    rig.start(slot)
    rig.live[Slot(slot)].worker_id = "successor"
    return old


def test_hosted_requests_of_a_key_that_stays_go_to_the_worker_that_drains_until_its_end(rig: Rig) -> None:
    rig.start(0, 1, 2)
    rig.tracker.slots_changed(SLOTS)
    key, other = key_at_home_in(1), key_at_home_in(0)
    old = replace(rig, 1)
    assert rig.tracker.staying_worker(rig.handoff(key, 0, away=False)) is None
    rig.tracker.keys_stay(old, [short(key)], 0)
    handoff = rig.handoff(key, 0, away=False)
    assert rig.tracker.staying_worker(handoff) is old
    assert handoff.away, "the worker has to report the end of the key"
    assert rig.tracker.staying_worker(rig.handoff(other, 0, away=False)) is None
    assert rig.slots_messages(1)[-1][-1] is True, "the successor learns that keys of its slot are elsewhere"
    handoff.number = old.sent = 4
    rig.tracker.sent(handoff, old)
    assert rig.tracker.slot_for(key) == (1, False), "for native connections the key is at home"
    rig.tracker.keys_ended(old, [short(key)], 3)
    assert rig.tracker.staying_worker(rig.handoff(key, 0, away=False)) is old, "handoff 4 was on its way"
    rig.tracker.keys_ended(old, [short(key)], 4)
    assert rig.tracker.staying_worker(rig.handoff(key, 0, away=False)) is None
    assert rig.slots_messages(1)[-1][-1] is False


@pytest.mark.parametrize(
    "different", ["its path is not hosted", "a path above it is not", "it is encrypted", "a worker has rejected it"]
)
def test_what_is_not_hosted_or_was_rejected_goes_to_the_successor(rig: Rig, different: str) -> None:
    rig.start(0, 1, 2)
    rig.tracker.slots_changed(SLOTS)
    key = key_at_home_in(1)
    old = replace(rig, 1)
    rig.tracker.keys_stay(old, [short(key)], 0)
    handoff = rig.handoff(key, 0, away=False)
    if different == "its path is not hosted":
        handoff.path = OWN_PATH
    elif different == "a path above it is not":
        handoff.path = f"{OWN_PREFIX}below"
    elif different == "it is encrypted":
        handoff.kind = "tls"
    else:
        handoff.attempts = 1
    assert rig.tracker.staying_worker(handoff) is None
    assert not handoff.away


@pytest.mark.parametrize("what", ["the worker has ended", "it hangs", "its slot has no other worker"])
def test_without_a_worker_that_drains_beside_a_successor_no_key_stays(rig: Rig, what: str) -> None:
    rig.start(0, 1, 2)
    rig.tracker.slots_changed(SLOTS)
    key = key_at_home_in(1)
    old = replace(rig, 1)
    rig.tracker.keys_stay(old, [short(key)], 0)
    if what == "the worker has ended":
        rig.tracker.worker_gone(old)
    elif what == "it hangs":
        old.transition(WorkerEvent.SILENT)
    else:
        rig.lose(1)
    assert rig.tracker.staying_worker(rig.handoff(key, 0, away=False)) is None
