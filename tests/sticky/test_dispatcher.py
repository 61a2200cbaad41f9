"""
The dispatcher: where a handoff can be, and every way out of that place.

The theory of operation in sticky/handoff/dispatcher.py lists the places. Channels and sockets are real; the clock is
the test's.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from sticky.errors import OutOfTurn
from sticky.handoff.dispatcher import ATTEMPTS_MAX, HOLD_S, WAITING_MAX, Dispatcher, HoldBack
from sticky.handoff.messages import Slots
from sticky.handoff.pending_handoff import PendingHandoff
from sticky.handoff.worker_handle import WorkerHandle
from sticky.heads.first_bytes import Refusal
from sticky.keys.addresses import Addresses, network_of
from sticky.keys.affinity import Affinity, AffinitySettings
from sticky.keys.away import home_of
from sticky.keys.balance import least
from sticky.keys.hashing import Hashing, Key, Slot
from sticky.loop.poller import FAILED
from tests.support.fake_poller import FakePoller
from tests.support.worker_ends import WatchedChannels, WorkerEnd

PATIENCE_S = 5.0
SLOTS = 3
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Refused:
    """Notes what is refused, by the name under which it is counted, and closes it."""

    def __init__(self) -> None:
        self.statuses: list[tuple[int, str]] = []
        self.too_many: list[str] = []

    def refuse(self, sock: socket.socket, status: int, reason: str, count: str) -> None:
        self.statuses.append((status, count))
        sock.close()

    def answer(self, sock: socket.socket, response: bytes, count: str) -> None:
        self.statuses.append((int(response[9:12]), count))
        sock.close()

    def log_too_many(self, peer_address: str, connections: int) -> None:
        self.too_many.append(peer_address)


class Suspects:
    """Decides what the test says."""

    def __init__(self) -> None:
        self.is_active = False
        self.decision: Refusal | HoldBack | None = None

    def check(self, handoff: PendingHandoff) -> Refusal | HoldBack | None:
        return self.decision


class Rig:
    """A dispatcher with workers, and clients that connect."""

    def __init__(self, share: int = 1000) -> None:
        self.counters: Counter[str] = Counter()
        self.poller = FakePoller(counters=self.counters)
        self.hashing = Hashing(b"a secret of some length")
        self.live: dict[Slot, WorkerHandle] = {}
        self.ends: dict[int, WorkerEnd] = {}
        self.refused = Refused()
        self.channels = WatchedChannels()
        self.suspects = Suspects()
        self.addresses = Addresses(Affinity(AffinitySettings()), most=None, descriptors=10_000)
        self.addresses.share = share
        self.sockets: list[socket.socket] = []
        self.dispatcher = Dispatcher(
            self.poller,
            self.hashing,
            self.live,
            balance=least,
            patience_s=PATIENCE_S,
            refusals=self.refused,
            channels=self.channels,
            addresses=self.addresses,
            counters=self.counters,
            suspicion=self.suspects,
            probe_paths=("/readyz",),
        )
        self.dispatcher.slots_changed(SLOTS)

    def start(self, *slots: int) -> None:
        for slot in slots:
            end = self.ends[slot] = WorkerEnd(slot, worker_id=f"w{slot}")
            self.live[Slot(slot)] = end.handle
        self.dispatcher.slot_filled()

    def lose(self, slot: int) -> None:
        """A worker dies: what the supervisor does then."""
        end = self.ends.pop(slot)
        self.live.pop(Slot(slot), None)
        end.receive()
        self.dispatcher.worker_lost(end.handle)
        end.close()

    def key(self, home: int) -> Key:
        """Return a key whose home is a slot."""
        keys = (Key(b"4%04d" % number) for number in range(1000))
        return next(key for key in keys if home_of(self.hashing, key, SLOTS) == home)

    def connect(
        self, key: Key | None = None, kind: str = "raw", *, tcp: bool = False, path: str = "", upgrade: bool = False
    ) -> PendingHandoff:
        """Dispatch a new connection. Its client has sent a request where the kind is `http`."""
        ours, client = _tcp_pair() if tcp else socket.socketpair()
        self.sockets.append(client)
        if kind == "http":
            client.sendall(GET)
        handoff = PendingHandoff(ours, "192.0.2.1", "192.0.2.1", 1, kind=kind, method="GET", key=key)
        handoff.path, handoff.upgrade = path, upgrade
        handoff.network = network_of("192.0.2.1")
        self.addresses.accepted(handoff.network)
        self.dispatcher.dispatch(handoff)
        return handoff

    def owner(self, handoff: PendingHandoff) -> int | None:
        """Return the slot to which a handoff was sent; None where it was sent to none."""
        return next((slot for slot, end in self.ends.items() if handoff in end.handle.unacked), None)

    def close(self) -> None:
        self.dispatcher.close()
        for end in self.ends.values():
            end.close()
        for sock in self.sockets:
            sock.close()


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return listener.accept()[0], client


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


# Placing


@pytest.mark.parametrize("home", range(SLOTS))
def test_a_key_goes_to_its_home_slot(rig: Rig, home: int) -> None:
    rig.start(0, 1, 2)
    handoff = rig.connect(rig.key(home))
    assert (rig.owner(handoff), handoff.away) == (home, False)
    [message] = rig.ends[home].handoffs()
    assert (message.number, message.address, message.away) == (1, "192.0.2.1", False)


def test_a_key_whose_home_has_no_worker_goes_elsewhere_and_stays_there(rig: Rig) -> None:
    rig.start(0, 1)
    first = rig.connect(rig.key(2))
    place = rig.owner(first)
    assert place in (0, 1)
    assert first.away
    rig.start(2)
    second = rig.connect(rig.key(2))
    assert rig.owner(second) == place, "the key has a live connection there"
    rig.dispatcher.away.keys_ended(rig.ends[place].handle, [rig.key(2)], seen=second.number)
    assert rig.owner(rig.connect(rig.key(2))) == 2, "and then it goes home"


def test_a_connection_without_a_key_goes_where_there_are_fewest_and_can_get_a_sticky_id(rig: Rig) -> None:
    rig.start(0, 1)
    rig.connect()
    ours, client = socket.socketpair()
    rig.sockets.append(client)
    handoff = PendingHandoff(ours, "192.0.2.1", "192.0.2.1", 1, kind="raw", wants_sticky_id=True)
    rig.dispatcher.dispatch(handoff)
    assert rig.owner(handoff) == 1
    assert rig.hashing.slot_of(handoff.new_sticky_id or "") == 1


def test_an_address_that_has_its_share_of_a_worker_is_refused_and_logged(rig: Rig) -> None:
    rig.addresses.share = 2
    rig.start(0)
    for _ in range(3):
        rig.connect()
    assert rig.refused.statuses == [(503, "refused_address")]
    assert rig.refused.too_many == ["192.0.2.1"]


def test_a_full_channel_costs_a_connection_without_a_key_nothing(rig: Rig) -> None:
    rig.start(0, 1)
    rig.ends[0].fill()
    assert rig.owner(rig.connect()) == 1


def test_a_key_waits_for_its_worker_until_the_channel_has_room(rig: Rig) -> None:
    rig.start(0, 1)
    rig.ends[0].fill()
    handoff = rig.connect(rig.key(0))
    behind = rig.connect(rig.key(0))
    assert rig.owner(handoff) is None
    assert rig.channels.wanted == {"w0"}
    rig.ends[0].receive()
    last = rig.connect(rig.key(0))
    assert rig.owner(last) is None, "it does not overtake those that wait"
    rig.dispatcher.flush(rig.ends[0].handle)
    assert [rig.owner(each) for each in (handoff, behind, last)] == [0, 0, 0]
    assert handoff.number < behind.number < last.number, "in their order"
    assert not rig.channels.wanted


def test_a_channel_that_is_full_again_is_watched_again(rig: Rig) -> None:
    rig.start(0)
    rig.ends[0].fill()
    handoff = rig.connect(rig.key(0))
    rig.dispatcher.flush(rig.ends[0].handle)
    assert rig.owner(handoff) is None
    assert not rig.channels.wanted
    rig.poller.run_due(0.1)
    assert rig.channels.wanted == {"w0"}


def test_what_waits_too_long_for_a_worker_gets_503(rig: Rig) -> None:
    rig.start(0)
    rig.ends[0].fill()
    rig.connect(rig.key(0))
    rig.poller.run_due(PATIENCE_S)
    assert not rig.refused.statuses
    rig.poller.run_due(PATIENCE_S + 0.1)
    assert rig.refused.statuses == [(503, "refused_busy")]
    assert not rig.ends[0].handle.waiting


def test_without_any_worker_a_connection_waits_for_a_slot_or_gets_503(rig: Rig) -> None:
    late = rig.connect(rig.key(0))
    rig.poller.run_due(PATIENCE_S - 1)
    placed = rig.connect(rig.key(0))
    rig.poller.run_due(PATIENCE_S + 1)
    assert late.sock.fileno() == -1
    assert rig.refused.statuses == [(503, "refused_busy")]
    rig.start(0)
    assert rig.owner(placed) == 0
    assert rig.dispatcher.homeless == 0


def test_a_probe_is_answered_at_once_where_no_slot_is_live_and_nothing_else_is(rig: Rig) -> None:
    held = rig.addresses.count(network_of("192.0.2.1"))
    probe = rig.connect(rig.key(0), kind="http", path="/readyz")
    assert rig.refused.statuses == [(503, "probes_answered")]
    assert probe.sock.fileno() == -1
    assert rig.addresses.count(network_of("192.0.2.1")) == held, "it is not counted any more"
    rig.connect(rig.key(0), kind="http", path="/other")
    rig.connect(rig.key(0), kind="http", path="/readyz", upgrade=True)
    assert rig.dispatcher.homeless == 2
    rig.start(0)
    assert rig.owner(rig.connect(rig.key(0), kind="http", path="/readyz")) == 0, "a worker answers it"
    assert len(rig.refused.statuses) == 1


def test_no_more_than_so_many_wait(rig: Rig) -> None:
    ours, client = socket.socketpair()
    rig.sockets += [ours, client]
    for _ in range(WAITING_MAX):
        handoff = PendingHandoff(ours, "unix", "unix", 0, kind="raw")
        rig.dispatcher.dispatch(handoff)
    rig.connect()
    assert rig.refused.statuses == [(503, "refused_busy")]
    assert rig.dispatcher.homeless == WAITING_MAX


def test_a_scale_places_again_what_waits(rig: Rig) -> None:
    rig.start(0, 1, 2)
    key = rig.key(2)
    rig.ends[2].fill()
    handoff = rig.connect(key)
    rig.live.pop(Slot(2))
    rig.dispatcher.worker_retired(rig.ends[2].handle)
    rig.dispatcher.slots_changed(2)
    assert rig.owner(handoff) == home_of(rig.hashing, key, 2)


# Acknowledging


def test_our_copy_is_closed_when_the_worker_has_settled_the_connection(rig: Rig) -> None:
    rig.start(0)
    one, two = rig.connect(), rig.connect()
    worker = rig.ends[0].handle
    rig.dispatcher.acknowledge(worker, adopted=2, settled=0)
    assert one.sock.fileno() >= 0
    rig.dispatcher.acknowledge(worker, adopted=2, settled=1)
    assert (one.sock.fileno(), two.sock.fileno() >= 0) == (-1, True)
    rig.dispatcher.acknowledge(worker, adopted=2, settled=2)
    assert not worker.unacked


@pytest.mark.parametrize("numbers", [(3, 0), (1, 0)])
def test_an_acknowledgement_that_cannot_be_is_out_of_turn(rig: Rig, numbers: tuple[int, int]) -> None:
    rig.start(0)
    rig.connect(), rig.connect()
    rig.dispatcher.acknowledge(rig.ends[0].handle, adopted=2, settled=0)
    with pytest.raises(OutOfTurn):
        rig.dispatcher.acknowledge(rig.ends[0].handle, *numbers)


def test_what_a_worker_rejects_goes_to_another(rig: Rig) -> None:
    rig.start(0, 1)
    handoff = rig.connect(rig.key(0))
    rig.dispatcher.take_back(rig.ends[0].handle, handoff.number)
    assert (rig.owner(handoff), handoff.reason) == (1, "again")
    with pytest.raises(OutOfTurn):
        rig.dispatcher.take_back(rig.ends[0].handle, 1)


def test_a_connection_that_every_worker_rejects_gets_503(rig: Rig) -> None:
    rig.start(0)
    handoff = rig.connect(rig.key(0))
    for _ in range(ATTEMPTS_MAX):
        assert not rig.refused.statuses
        rig.dispatcher.take_back(rig.ends[0].handle, handoff.number)
    assert rig.refused.statuses == [(503, "refused_attempts")]


def test_ends_free_the_share_of_an_address(rig: Rig) -> None:
    rig.addresses.share = 1
    rig.start(0)
    rig.connect()
    rig.dispatcher.ended(rig.ends[0].handle, {"192.0.2.1": 1}, {})
    rig.connect()
    assert not rig.refused.statuses


# A worker dies


def read(handoff: PendingHandoff) -> None:
    """Read the request, as a worker does on its copy."""
    handoff.sock.recv(65536)


def answer(handoff: PendingHandoff) -> None:
    read(handoff)
    handoff.sock.sendall(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("kind", "is_adopted", "deed", "outcome"),
    [
        ("http", False, None, "again"),
        ("raw", False, None, "again"),
        ("http", False, read, "lost_after_reading"),
        ("http", True, None, "again"),
        ("http", True, read, "refused_read"),
        ("http", True, answer, "closed_with_worker"),
        ("raw", True, None, "closed_with_worker"),
    ],
)
def test_what_a_dead_worker_leaves_behind_is_helped_as_far_as_it_can_be(
    rig: Rig, kind: str, is_adopted: bool, deed: Callable[[PendingHandoff], None] | None, outcome: str
) -> None:
    rig.start(0, 1)
    handoff = rig.connect(rig.key(0), kind, tcp=True)
    if is_adopted:
        rig.dispatcher.acknowledge(rig.ends[0].handle, handoff.number, 0)
    if deed is not None:
        deed(handoff)
    rig.lose(0)
    if outcome == "again":
        assert (rig.owner(handoff), handoff.reason) == (1, "again")
    elif outcome == "refused_read":
        assert rig.refused.statuses == [(503, "refused_read")]
    else:
        assert rig.counters[outcome] == 1
        assert handoff.sock.fileno() == -1


def test_what_waited_for_a_dead_worker_goes_to_another(rig: Rig) -> None:
    rig.start(0, 1)
    rig.ends[0].fill()
    handoff = rig.connect(rig.key(0))
    rig.lose(0)
    assert rig.owner(handoff) == 1


def test_a_dead_workers_connections_count_for_their_address_no_more(rig: Rig) -> None:
    rig.start(0)
    rig.connect()
    rig.dispatcher.acknowledge(rig.ends[0].handle, 1, 1)
    assert rig.addresses.count(network_of("192.0.2.1")) == 1
    rig.lose(0)
    assert rig.addresses.count(network_of("192.0.2.1")) == 0


def test_a_closed_channel_is_like_a_full_one_until_the_worker_is_lost(rig: Rig) -> None:
    rig.start(0)
    rig.ends[0].channel.close()
    handoff = rig.connect(rig.key(0))
    assert rig.owner(handoff) is None
    rig.start(1)
    rig.lose(0)
    assert rig.owner(handoff) == 1


def test_an_exception_over_one_handoff_closes_it_and_no_other(rig: Rig) -> None:
    rig.start(0)
    broken = rig.connect(rig.key(0), "http")
    broken.method = None  # type: ignore[assignment]  # any bug would do
    rig.dispatcher.take_back(rig.ends[0].handle, broken.number)
    assert rig.counters[FAILED] == 1
    assert broken.sock.fileno() == -1
    assert rig.owner(rig.connect(rig.key(0))) == 0


# Suspects


def test_a_suspect_is_refused_held_back_or_let_on(rig: Rig) -> None:
    rig.start(0)
    rig.suspects.is_active = True
    rig.suspects.decision = Refusal(503, "no")
    rig.connect()
    assert rig.refused.statuses == [(503, "refused_crasher")]
    rig.suspects.decision = HoldBack.HOLD
    handoff = rig.connect()
    assert (rig.owner(handoff), handoff.times_held) == (None, 1)
    rig.suspects.decision = None
    rig.poller.run_due(HOLD_S)
    assert rig.owner(handoff) == 0


def test_nothing_is_checked_while_nothing_is_suspected(rig: Rig) -> None:
    rig.start(0)
    rig.suspects.decision = Refusal(503, "no")
    assert rig.owner(rig.connect()) == 0


# Slots, and the end


def test_each_worker_gets_one_request_for_its_keys_when_the_slots_change(rig: Rig) -> None:
    rig.start(0, 1)
    rig.dispatcher.slots_changed(4)
    assert rig.dispatcher.away.awaits_answers
    for end in rig.ends.values():
        [slots] = [message for message in end.receive() if isinstance(message, Slots)]
        assert slots.slots == 4
        rig.dispatcher.away.keys_away(end.handle, [], 0, slots.request, is_all=True)
    assert not rig.dispatcher.away.awaits_answers


def test_an_added_slot_does_not_wait_for_ever_for_a_silent_worker(rig: Rig) -> None:
    rig.start(0)
    rig.dispatcher.slots_changed(4)
    rig.poller.run_due(2.0)
    assert not rig.dispatcher.away.awaits_answers


def test_a_report_of_a_handoff_that_was_never_sent_is_out_of_turn(rig: Rig) -> None:
    rig.start(0)
    for report in (
        lambda: rig.dispatcher.away.keys_ended(rig.ends[0].handle, [], 1),
        lambda: rig.dispatcher.away.keys_away(rig.ends[0].handle, [], 1, 1, True),
    ):
        with pytest.raises(OutOfTurn):
            report()


def test_at_the_end_what_waits_and_what_comes_gets_503(rig: Rig) -> None:
    rig.connect()
    rig.dispatcher.close()
    rig.connect()
    assert rig.refused.statuses == [(503, "refused_stopping")] * 2
