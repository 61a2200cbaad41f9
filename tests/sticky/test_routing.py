"""
The path of a connection through the primary, joined: from a listener to a worker's channel, and to the end of it.

Sockets are real, workers are channels in memory, and the clock is the test's. Each part has its own tests; these show
that the parts share one count of addresses, one set of counters and one table of workers.
"""

from __future__ import annotations

import select
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from sticky.errors import SettingsError
from sticky.handoff.channel import Kind
from sticky.handoff.worker_handle import WorkerEvent, WorkerHandle
from sticky.keys.hashing import Slot
from sticky.lifetime import Lifetime
from sticky.process.routing import Routing
from sticky.settings import ClusterSettings
from sticky.supervision.workers import Workers
from tests.support.fake_environment import FakeChannel, FakeEnvironment
from tests.support.fake_poller import READABLE, FakePoller

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
SECRET = b"s" * 32


class Rig:
    """A machine's routing with one listener."""

    def __init__(self, **settings: Any) -> None:
        self.counters: Counter[str] = Counter()
        self.poller = FakePoller(counters=self.counters)
        self.environment = FakeEnvironment()
        self.workers = Workers(self.poller, self.environment)
        self.routing = Routing(self.poller, self.workers, ClusterSettings(**settings), secret=SECRET)
        self.routing.dispatcher.slots_changed(1)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.clients: list[socket.socket] = []
        self.routing.open([self.listener], 16)

    def start(self) -> WorkerHandle:
        """Put a worker into service in slot 0."""
        pid, channel = self.environment.start_worker(["worker"], {})
        worker = WorkerHandle(Slot(0), pid, channel, worker_id="w0", generation=1, now=0.0, lifetime=Lifetime().draw())
        self.workers.add(worker, lambda events: None, lambda: None)
        worker.transition(WorkerEvent.READY)
        self.workers.enter_service(worker)
        self.routing.dispatcher.slot_filled()
        return worker

    def channel(self, worker: WorkerHandle) -> FakeChannel:
        return self.environment.process(worker.pid).channel

    def connect(self, data: bytes = GET) -> socket.socket:
        """Connect a client that has sent some bytes, and let the primary accept it."""
        client = socket.create_connection(self.listener.getsockname(), 10)
        client.sendall(data)
        self.clients.append(client)
        assert select.select([self.listener], [], [], 10)[0]
        self.poller.make_ready(self.listener.fileno(), READABLE)
        return client

    def close(self) -> None:
        self.routing.close()
        self.routing.release()
        for worker in self.workers.by_pid.values():
            for handoff in (*worker.unacked, *worker.waiting):
                handoff.sock.close()
        for sock in self.clients:
            sock.close()


@pytest.fixture
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    rig = Rig(**getattr(request, "param", {}))
    yield rig
    rig.close()


def test_a_connection_goes_from_the_listener_to_the_worker_of_its_slot(rig: Rig) -> None:
    worker = rig.start()
    rig.connect()
    assert rig.channel(worker).kinds().count(Kind.HANDOFF) == 1
    assert (rig.counters["accepted"], rig.counters["handed_over"]) == (1, 1)
    assert len(worker.unacked) == 1, "the primary keeps its copy"


def test_what_is_accepted_before_a_worker_serves_waits_for_it(rig: Rig) -> None:
    rig.connect()
    assert rig.routing.statistics()["homeless"] == 1
    worker = rig.start()
    assert rig.channel(worker).kinds().count(Kind.HANDOFF) == 1
    assert rig.routing.statistics()["homeless"] == 0


def test_a_head_that_is_not_whole_stays_with_the_acceptor(rig: Rig) -> None:
    rig.start()
    rig.connect(GET[:-2])
    assert rig.routing.statistics()["before_head"] == 1


@pytest.mark.parametrize("rig", [{"connections_per_address": 1}], indirect=True)
def test_acceptor_and_dispatcher_count_the_same_addresses(rig: Rig) -> None:
    worker = rig.start()
    rig.connect()
    assert rig.routing.statistics()["client_addresses"] == 1
    assert rig.connect().recv(100).startswith(b"HTTP/1.1 503 ")
    rig.routing.dispatcher.ended(worker, {"127.0.0.1": 1}, {})
    rig.connect()
    assert rig.channel(worker).kinds().count(Kind.HANDOFF) == 2


def test_after_close_nothing_is_accepted_and_what_waits_is_refused(rig: Rig) -> None:
    waiting = rig.connect()
    address = rig.listener.getsockname()
    rig.routing.close()
    assert waiting.recv(100).startswith(b"HTTP/1.1 503 ")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, 10)


def test_what_a_worker_has_outlives_close(rig: Rig) -> None:
    worker = rig.start()
    rig.connect()
    rig.routing.close()
    assert len(worker.unacked) == 1
    assert rig.workers.is_live(worker)


def test_a_balance_that_there_is_not_is_refused() -> None:
    poller = FakePoller()
    with pytest.raises(SettingsError, match="balance"):
        Routing(poller, Workers(poller, FakeEnvironment()), ClusterSettings(balance="most"), secret=SECRET)
