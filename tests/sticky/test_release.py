"""
The last deed of a primary in an upgrade: when it leaves, what it leaves, and what its successor takes.

The supervisor, the dispatcher and the acceptor are real, over fake processes and a fake clock; the keeper is the test.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sticky.accept.acceptor import Acceptor
from sticky.accept.pending_connection import PendingConnection
from sticky.handoff.channel import Kind
from sticky.handoff.messages import Ack
from sticky.handoff.pending_handoff import PendingHandoff
from sticky.heads.first_bytes import HeadLimits
from sticky.keys.addresses import Addresses
from sticky.keys.affinity import Affinity, AffinitySettings
from sticky.loop.poller import WRITE
from sticky.process.in_flight import IN_FLIGHT, LOST
from sticky.process.release import CHECK_S, COUNTERS, PLACE_S, Release, take_counters, take_pending
from tests.support.cluster_without_processes import ClusterWithoutProcesses
from tests.support.keeper_end import KeeperEnd


class Rig:
    """A primary's parts that a release needs, with workers that are ready."""

    def __init__(self, keeper: KeeperEnd, workers: int = 1) -> None:
        self.keeper = keeper
        self.cluster = ClusterWithoutProcesses(workers=workers)
        self.cluster.start()
        self.sockets: list[socket.socket] = []
        self.released = 0
        affinity = Affinity(AffinitySettings())
        self.acceptor = Acceptor(
            self.cluster.poller,
            affinity,
            limits=HeadLimits(),
            handshake_s=10.0,
            expects_proxy=False,
            tls=False,
            raw=False,
            addresses=Addresses(affinity, most=None, descriptors=1024),
            descriptors=1024,
            refusals=self.cluster.refusals,
            dispatcher=self.cluster.dispatcher,
            counters=self.cluster.counters,
        )
        self.release = Release(
            self.cluster.poller,
            self.acceptor,
            self.cluster.dispatcher,
            self.cluster.workers,
            keeper.link,
            self._on_released,
        )

    def _on_released(self) -> None:
        self.released += 1

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Return the server's and the client's end of a connection."""
        ours, client = socket.socketpair()
        client.settimeout(10)
        self.sockets += [ours, client]
        return ours, client

    def pend(self, begin: bytes, *, expects_proxy: bool = False) -> socket.socket:
        """Have the acceptor hold a connection whose head is not complete. Return the client."""
        ours, client = self.pair()
        client.sendall(begin)
        self.acceptor.adopt(PendingConnection(ours, "192.0.2.9", 4711, expects_proxy=expects_proxy))
        assert self.acceptor.waiting
        return client

    def hand_over(self) -> None:
        """Give a connection to whichever worker there is."""
        self.cluster.dispatcher.dispatch(PendingHandoff(self.pair()[0], "192.0.2.9", "192.0.2.9", 1, kind="raw"))

    def close(self) -> None:
        self.acceptor.close()
        self.acceptor.release()
        self.cluster.dispatcher.close()
        self.cluster.refusals.close()
        self.cluster.environment.close()
        for sock in self.sockets:
            sock.close()


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[KeeperEnd]:
    with KeeperEnd(str(tmp_path)) as keeper:
        yield keeper


@pytest.fixture
def make(keeper: KeeperEnd) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make_rig(workers: int = 1) -> Rig:
        rigs.append(Rig(keeper, workers))
        return rigs[-1]

    yield make_rig
    for rig in rigs:
        rig.close()


def test_with_nothing_in_progress_everything_is_left_at_once_and_released_comes_last(
    make: Callable[..., Rig], keeper: KeeperEnd
) -> None:
    rig = make()
    rig.release.begin()
    assert rig.released == 1, "the loop ends before anything else is read"
    assert keeper.receive() == [f"PUT {COUNTERS}", f"DROP {IN_FLIGHT}", "RELEASED"]


def test_a_handoff_that_is_not_settled_is_waited_for(make: Callable[..., Rig], keeper: KeeperEnd) -> None:
    rig = make()
    rig.hand_over()
    rig.release.begin()
    rig.cluster.poller.run_for(PLACE_S / 2)
    assert keeper.receive() == []
    rig.cluster.send(rig.cluster.live(0), Ack(1, 1))
    rig.cluster.poller.run_for(PLACE_S / 4)
    assert keeper.receive()[-1] == "RELEASED"
    assert rig.cluster.counters[LOST] == 0


def test_what_a_worker_does_not_settle_in_time_is_its_own_and_is_not_counted(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.hand_over()
    rig.release.begin()
    rig.cluster.poller.run_for(PLACE_S + CHECK_S)
    assert rig.released == 1
    assert rig.cluster.counters[LOST] == 0, "the worker has the descriptor"


def test_what_no_worker_gets_in_time_is_counted_as_lost(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.cluster.kill(rig.cluster.live(0))
    rig.hand_over()
    rig.hand_over()
    rig.release.begin()
    rig.cluster.poller.run_for(PLACE_S / 2)
    assert rig.released == 0
    rig.cluster.poller.run_for(PLACE_S / 2 + CHECK_S)
    assert rig.released == 1
    assert rig.cluster.counters[LOST] == 2


def test_a_handoff_for_which_a_workers_channel_has_no_room_is_lost_as_well(make: Callable[..., Rig]) -> None:
    rig = make()
    worker = rig.cluster.live(0)
    rig.cluster.process(worker).channel.is_full = True
    rig.hand_over()
    assert len(worker.waiting) == 1
    rig.release.begin()
    assert rig.released == 0, "room may come"
    rig.cluster.poller.run_for(PLACE_S + CHECK_S)
    assert rig.cluster.counters[LOST] == 1


def test_a_message_that_waits_for_a_workers_channel_is_waited_for(make: Callable[..., Rig]) -> None:
    rig = make()
    worker = rig.cluster.live(0)
    channel = rig.cluster.process(worker).channel
    channel.is_full = True
    rig.cluster.workers.send(worker, Kind.INSPECT)
    rig.release.begin()
    assert rig.released == 0, "it would end with this process"
    channel.is_full = False
    rig.cluster.poller.make_ready(channel.fileno(), WRITE)
    rig.cluster.poller.run_for(CHECK_S)
    assert rig.released == 1


def test_a_pending_connection_goes_on_in_the_successor(make: Callable[..., Rig], keeper: KeeperEnd) -> None:
    rig = make()
    clients = [rig.pend(b"GET / HT"), rig.pend(b"PROXY TC", expects_proxy=True)]
    rig.release.begin()
    assert rig.acceptor.waiting == 0
    with keeper.successor() as successor:
        found = take_pending(successor.link)
        assert [(each.peer_address, each.port, each.expects_proxy) for each in found] == [
            ("192.0.2.9", 4711, False),
            ("192.0.2.9", 4711, True),
        ]
        assert all(each.seen == 0 and each.timer is None for each in found), "its head and its time begin anew"
        assert [each.sock.recv(100) for each in found] == [b"GET / HT", b"PROXY TC"], "no byte was consumed"
        for client, each in zip(clients, found, strict=True):
            client.sendall(b"more")
            assert each.sock.recv(100) == b"more"
            each.sock.close()
        assert successor.receive() == ["DROP pending:0", "DROP pending:1"], "the keeper keeps no copy"
        assert take_pending(successor.link) == []


def test_what_a_successor_cannot_read_is_closed(keeper: KeeperEnd) -> None:
    ours, client = socket.socketpair()
    keeper.link.put("pending:0", ours.fileno())
    keeper.link.set("pending:0", "the words of some other version")
    keeper.receive()
    ours.close()
    with client, keeper.successor() as successor:
        before = len(os.listdir("/proc/self/fd"))
        assert take_pending(successor.link) == []
        assert len(os.listdir("/proc/self/fd")) == before - 1
        successor.receive()
        client.settimeout(10)
        assert client.recv(1) == b"", "it sees the end, and connects again"


def test_a_successor_goes_on_counting(make: Callable[..., Rig], keeper: KeeperEnd) -> None:
    rig = make()
    rig.cluster.counters["accepted"] = 40
    rig.release.begin()
    with keeper.successor() as successor:
        counters = Counter({"accepted": 2})
        take_counters(successor.link, counters)
        assert counters["accepted"] == 42
        assert successor.receive() == [f"DROP {COUNTERS}"]
        take_counters(successor.link, counters)
        assert counters["accepted"] == 42, "they are taken once"


def test_counters_of_another_version_do_not_hinder_a_start(keeper: KeeperEnd) -> None:
    keeper.link.put_bytes(COUNTERS, b"\x93\x01\x02\x03")  # a list
    with keeper.successor() as successor:
        counters = Counter({"accepted": 2})
        take_counters(successor.link, counters)
        assert counters == {"accepted": 2}
