"""
Keys that are away from home: the table alone, and dispatcher and workers together.

The machine at the end has a real dispatcher hand real descriptors over real channels to real workers, and decides at
each step which process reads which messages. In whatever order, no two workers that serve have live connections of one
key. Only a worker that drains may have some beside its successor.
"""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sticky.handoff import messages
from sticky.handoff.channel import Channel, ChannelClosed, Received
from sticky.handoff.dispatcher import Dispatcher
from sticky.handoff.messages import from_primary, from_worker
from sticky.handoff.pending_handoff import PendingHandoff
from sticky.handoff.refusals import Refusals
from sticky.handoff.worker_handle import WorkerHandle
from sticky.keys.addresses import Addresses
from sticky.keys.affinity import Affinity, AffinitySettings
from sticky.keys.away import KEY_BYTES, AwayKeys, home_of, short
from sticky.keys.balance import least
from sticky.keys.hashing import Hashing, Key, Slot
from sticky.lifetime import Lifetime
from sticky.loop.poller import Poller
from sticky.worker.adopted import Adopted
from sticky.worker.handlers import Handlers
from sticky.worker.worker import Worker
from tests.support.fake_poller import FakePoller

SECRET = b"a secret of some length"
HASHING = Hashing(SECRET)
AFFINITY = AffinitySettings()
A, B = Key(b"4aaaa"), Key(b"4bbbb")
FEW, MANY = 4, 6  # slots


def clients_of(slots: int, homes: set[int], count: int) -> list[str]:
    """Find clients whose home is one of these, among so many slots."""
    addresses = [f"127.0.0.{number}" for number in range(1, 255)]
    keys = {address: Affinity(AFFINITY).key_for(address) or Key(b"") for address in addresses}
    return [address for address in addresses if home_of(HASHING, keys[address], slots) in homes][:count]


CLIENTS = [*clients_of(FEW, {FEW - 1}, 2), *clients_of(MANY, {MANY - 1}, 1)]


@given(st.binary(max_size=200).map(Key), st.integers(1, 40))
def test_the_home_of_a_key_is_where_it_goes_when_every_slot_is_live(key: Key, slots: int) -> None:
    if key[:1] != b"s":
        assert home_of(HASHING, key, slots) == HASHING.choose(key, [Slot(number) for number in range(slots)])


@given(st.integers(0, 20), st.integers(1, 40))
def test_the_home_of_a_sticky_id_is_the_slot_in_its_tag_as_long_as_that_exists(slot: int, slots: int) -> None:
    slot_ids = (HASHING.new_sticky_id(Slot(slot)), HASHING.tag(b"an id", Slot(slot)).decode())
    for sticky_id in (*slot_ids, HASHING.new_query_id(Slot(slot))):
        home = home_of(HASHING, Affinity.key_for_sticky_id(sticky_id), slots)
        assert home == slot if slot < slots else home < slots


@given(st.binary(max_size=500), st.binary(max_size=500))
def test_keys_are_kept_in_few_bytes_and_not_mixed_up(one: bytes, other: bytes) -> None:
    keys = [Affinity.key_for_sticky_id(each.hex()) for each in (one, other)]
    assert (short(keys[0]) == short(keys[1])) == (one == other)
    assert len(short(keys[0])) <= KEY_BYTES
    assert short(short(keys[0])) == short(keys[0])


def test_a_key_is_away_until_its_worker_says_that_all_it_was_sent_has_ended() -> None:
    table = AwayKeys()
    table.sent(A, Slot(2), "w", 7)
    table.sent(A, Slot(2), "w", 9)
    table.ended([A], "w", 8)
    assert table.slot_of(A) == 2, "number 9 is on its way"
    table.ended([B], "w", 9)
    table.ended([A], "another", 9)
    assert table.slot_of(A) == 2
    table.ended([A], "w", 9)
    assert table.slot_of(A) is None
    assert not table


def test_a_connection_that_waits_for_room_keeps_its_key_away() -> None:
    table = AwayKeys()
    table.sent(A, Slot(2), "w", 1)
    table.wait(A, Slot(2), "w")
    table.ended([A], "w", 1)
    assert table.slot_of(A) == 2
    table.unwait(A, "w")
    assert table.slot_of(A) is None
    table.wait(A, Slot(2), "w")
    table.sent(A, Slot(2), "w", 2)
    table.unwait(A, "w")
    assert table.slot_of(A) == 2


def test_a_key_follows_its_slot_to_a_successor_and_goes_with_the_last_of_both() -> None:
    table = AwayKeys()
    table.sent(A, Slot(2), "old", 1)
    table.sent(A, Slot(2), "new", 2)
    table.ended([A], "new", 2)
    assert table.slot_of(A) == 2, "the old one drains"
    table.gone("old")
    assert table.slot_of(A) is None


def test_a_full_table_notes_no_more_and_counts_them() -> None:
    table = AwayKeys(limit=1)
    table.sent(A, Slot(2), "w", 1)
    table.sent(B, Slot(2), "w", 2)
    assert (table.slot_of(A), table.slot_of(B), len(table), table.refused) == (2, None, 1, 1)
    table.sent(A, Slot(2), "w", 3)
    table.ended([A, B], "w", 3)
    table.sent(B, Slot(1), "v", 4)
    assert (table.slot_of(A), table.slot_of(B)) == (None, 1)


def test_reports_rebuild_the_table_of_a_primary_that_has_just_begun() -> None:
    table = AwayKeys()
    number = table.request(["v", "w"])
    table.reported([A], Slot(2), "w", 17)
    table.answered("w", number)
    table.answered("v", number - 1)
    assert table.awaits_answers, "that was the answer to another question"
    table.answered("v", number)
    assert (table.awaits_answers, table.slot_of(A)) == (False, 2)
    table.ended([A], "w", 17)
    assert not table


class NoWatch:
    """Watches no channel: the machine decides itself when a worker's channel is read and flushed."""

    def wants_write(self, worker: WorkerHandle, wanted: bool) -> None:
        pass


class Member:
    """One worker, and what the primary has of it."""

    def __init__(self, slot: Slot, name: str) -> None:
        ours, theirs = Channel.pair(from_worker)
        self.handle = WorkerHandle(slot, 0, ours, worker_id=name, generation=1, now=0.0, lifetime=Lifetime().draw())
        boot = {"slot": slot, "slots": 0, "worker_id": name, "node": "n", "generation": 1, "config": None}
        boot |= {"heartbeat_s": 1.0, "orphan_grace_s": 1.0, "affinity": AFFINITY.to_builtins(), "secret": SECRET}
        self.channel = Channel(theirs, from_primary)
        self.worker = Worker(self.channel, boot, timers=FakePoller())  # no loop: reports of ends wait
        self.open: list[Adopted] = []
        self.handlers = Handlers(on_connection=self.open.append)
        self.is_draining = False

    def clients(self) -> set[str]:
        """Return the clients whose connections it has, or that are on their way to it."""
        on_their_way = [
            each.address for each in self.handle.unacked if each.number > self.worker._acknowledgements.seen
        ]
        return {*on_their_way, *(each.address for each in self.open)}

    def close(self) -> None:
        for adopted in self.open:
            adopted.sock.close()
        self.channel.close()
        self.handle.channel.close()


class Cluster(RuleBasedStateMachine):
    """Slots that are filled and lost, clients that come and go, and messages that take their time."""

    def __init__(self) -> None:
        super().__init__()
        self.poller = Poller()
        self.live: dict[Slot, WorkerHandle] = {}
        self.members: dict[str, Member] = {}
        self.sockets: list[socket.socket] = []
        self.count = 0
        self.slots = FEW
        self.affinity = Affinity(AFFINITY)
        self.refusals = Refusals(self.poller, descriptors=10_000, tls=False, counters=Counter())
        self.dispatcher = Dispatcher(
            self.poller,
            HASHING,
            self.live,
            balance=least,
            patience_s=600,
            refusals=self.refusals,
            channels=NoWatch(),
            addresses=Addresses(self.affinity, most=None, descriptors=10_000),
            counters=Counter(),
        )
        self.dispatcher.slots_changed(self.slots)
        for slot in range(self.slots - 1):  # one is late: its keys are away from the beginning
            self.start(Slot(slot))

    def teardown(self) -> None:
        for member in self.members.values():
            for handoff in member.handle.unacked:
                handoff.sock.close()
            with contextlib.suppress(ChannelClosed):
                for message in member.channel.receive():
                    if isinstance(message, Received) and message.fd is not None:
                        socket.socket(fileno=message.fd).close()
            member.close()
        self.dispatcher.close()
        self.refusals.close()
        for sock in self.sockets:
            sock.close()
        self.poller.close()

    def member_of(self, number: int) -> Member | None:
        return list(self.members.values())[number % len(self.members)] if self.members else None

    def at(self, slot: int) -> Member | None:
        handle = self.live.get(Slot(slot))
        return None if handle is None else self.members[handle.worker_id]

    @rule(client=st.sampled_from(CLIENTS))
    def connect(self, client: str) -> None:
        ours, theirs = socket.socketpair()
        self.sockets.append(theirs)
        handoff = PendingHandoff(ours, client, client, 1)
        handoff.kind = "raw"
        handoff.key = self.affinity.key_for(handoff.address)
        self.dispatcher.dispatch(handoff)

    @rule(number=st.integers(0, 9))
    def a_worker_reads(self, number: int) -> None:
        if member := self.member_of(number):
            for message in member.channel.receive():
                assert isinstance(message, Received), message
                member.worker._handle(message, member.handlers)
            member.worker._acknowledgements.settle_all()

    @rule()
    def the_primary_reads_everything(self) -> None:
        for number in range(len(self.members)):
            self.the_primary_reads(number)

    @rule()
    def every_worker_reads(self) -> None:
        for number in range(len(self.members)):
            self.a_worker_reads(number)

    @rule(number=st.integers(0, 9))
    def the_primary_reads(self, number: int) -> None:
        if member := self.member_of(number):
            self.read_from(member)

    def read_from(self, member: Member) -> None:
        for received in member.handle.channel.receive():
            assert isinstance(received, Received), received
            said = received.message
            if isinstance(said, messages.Ack):
                self.dispatcher.acknowledge(member.handle, said.adopted, said.settled)
            elif isinstance(said, messages.KeysAway):
                self.dispatcher.away.keys_away(member.handle, said.keys, said.seen, said.request, said.is_all)
            elif isinstance(said, messages.KeysEnded):
                self.dispatcher.away.keys_ended(member.handle, said.keys, said.seen)

    @rule(which=st.integers(0, 9))
    def a_connection_ends(self, which: int) -> None:
        everything = [(member, adopted) for member in self.members.values() for adopted in member.open]
        if everything:
            member, adopted = everything[which % len(everything)]
            member.open.remove(adopted)
            adopted.sock.close()
            member.worker.closed(adopted)

    @rule()
    def fill_all(self) -> None:
        for _ in range(self.slots):
            self.fill()

    @rule()
    def fill(self) -> None:
        empty = [Slot(slot) for slot in range(self.slots) if Slot(slot) not in self.live]
        if empty:
            self.answer_all()
            self.start(empty[-1])

    def start(self, slot: Slot) -> None:
        self.count += 1
        member = Member(slot, f"w{self.count}")
        self.members[member.handle.worker_id] = member
        self.dispatcher.away.warn(member.handle)
        self.live[slot] = member.handle
        self.dispatcher.slot_filled()

    def answer_all(self) -> None:
        """Let the question of `slots_changed` be answered, as the supervisor waits for it."""
        while self.dispatcher.away.awaits_answers:
            for number in range(len(self.members)):
                self.a_worker_reads(number)
                self.the_primary_reads(number)

    @rule(slot=st.integers(0, 15))
    def a_worker_dies(self, slot: int) -> None:
        if member := self.at(slot):
            self.lose(member)

    def lose(self, member: Member) -> None:
        self.read_from(member)
        if self.live.get(member.handle.slot) is member.handle:
            del self.live[member.handle.slot]
        del self.members[member.handle.worker_id]
        with contextlib.suppress(ChannelClosed):
            for message in member.channel.receive():
                if isinstance(message, Received) and message.fd is not None:
                    socket.socket(fileno=message.fd).close()
        member.close()
        self.dispatcher.worker_lost(member.handle)

    @rule(slot=st.integers(0, 15))
    def a_worker_is_replaced(self, slot: int) -> None:
        if member := self.at(slot):
            self.start(Slot(slot))
            member.is_draining = True
            self.dispatcher.worker_retired(member.handle)

    @rule()
    def a_drain_ends(self) -> None:
        for member in [each for each in self.members.values() if each.is_draining]:
            self.lose(member)

    @rule(slots=st.sampled_from((FEW, MANY)))
    def scale(self, slots: int) -> None:
        self.slots = slots
        for slot in [slot for slot in self.live if slot >= slots]:
            member = self.members[self.live.pop(slot).worker_id]
            member.is_draining = True
            self.dispatcher.worker_retired(member.handle)
        self.dispatcher.slots_changed(slots)

    @invariant()
    def no_two_workers_have_one_client(self) -> None:
        seen: dict[str, Any] = {}
        for member in self.members.values():
            if not member.is_draining:
                for client in member.clients():
                    assert client not in seen, f"{client} is at {seen[client]} and at {member.handle.worker_id}"
                    seen[client] = member.handle.worker_id

    @invariant()
    def a_key_without_a_connection_is_at_home(self) -> None:
        """After all reports are received, the table has no key without a live connection."""
        if self.dispatcher.away.awaits_answers:
            return
        here = {client for member in self.members.values() for client in member.clients()}
        keys = {self.affinity.key_for(client) for client in here}
        unread = any(member.worker.routes.keys.has_ended for member in self.members.values())
        if not unread and not keys:
            for number in range(len(self.members)):
                self.the_primary_reads(number)
            assert not self.dispatcher.away


Cluster.TestCase.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
TestCluster = Cluster.TestCase
