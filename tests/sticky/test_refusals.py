"""Refused connections: their clients see the answer, and they hold descriptors for a bounded time and number only."""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from sticky.handoff.refusals import LINGER_BYTES, LINGER_S, Refusals, response
from tests.support.fake_poller import READABLE, FakePoller


class Rig:
    def __init__(self, *, descriptors: int = 1024, tls: bool = False) -> None:
        self.counters: Counter[str] = Counter()
        self.poller = FakePoller()
        self.refusals = Refusals(self.poller, descriptors=descriptors, tls=tls, counters=self.counters)
        self.clients: list[socket.socket] = []

    def connect(self, data: bytes = b"") -> tuple[socket.socket, socket.socket]:
        """Return a connection, and the end of its client, which has sent some bytes."""
        ours, client = socket.socketpair()
        client.sendall(data)
        client.settimeout(10)
        self.clients.append(client)
        return ours, client

    def close(self) -> None:
        self.refusals.close()
        for client in self.clients:
            client.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def test_the_client_sees_the_answer_and_what_it_still_sends_is_dropped(rig: Rig) -> None:
    ours, client = rig.connect(b"GET / HTTP/1.1\r\n")
    fd = ours.fileno()
    rig.refusals.refuse(ours, 503, "no", "refused_busy")
    client.sendall(b"Host: a\r\n")
    rig.poller.make_ready(fd, READABLE)
    assert rig.refusals.lingering == 1
    assert client.recv(1000) == response(503, "no")
    assert client.recv(1) == b"", "and the end of the answer, before it has ended its own side"
    client.shutdown(socket.SHUT_WR)
    rig.poller.make_ready(fd, READABLE)
    assert (rig.refusals.lingering, ours.fileno()) == (0, -1)
    assert rig.counters == {"refused_busy": 1}


def test_a_client_that_does_not_close_is_closed_after_a_moment(rig: Rig) -> None:
    ours, _ = rig.connect()
    rig.refusals.refuse(ours, 503, "no", "n")
    rig.poller.run_due(LINGER_S - 0.1)
    assert ours.fileno() >= 0
    rig.poller.run_due(LINGER_S)
    assert ours.fileno() == -1


def test_a_client_that_sends_without_end_is_closed_after_so_many_bytes(rig: Rig) -> None:
    ours, client = rig.connect()
    fd = ours.fileno()
    rig.refusals.refuse(ours, 503, "no", "n")
    for _ in range(LINGER_BYTES // 65536):
        assert rig.refusals.lingering == 1
        client.sendall(b"x" * 65536)
        rig.poller.make_ready(fd, READABLE)
    assert rig.refusals.lingering == 0


def test_a_client_that_is_gone_costs_nothing(rig: Rig) -> None:
    ours, client = rig.connect()
    client.close()
    rig.refusals.refuse(ours, 503, "no", "n")
    assert (rig.refusals.lingering, ours.fileno()) == (0, -1)


def test_the_oldest_refused_connection_makes_room_for_the_newest() -> None:
    rig = Rig(descriptors=16)
    sockets = [rig.connect()[0] for _ in range(3)]
    for sock in sockets:
        rig.refusals.refuse(sock, 503, "no", "n")
    assert [sock.fileno() >= 0 for sock in sockets] == [False, True, True]
    assert rig.refusals.close_oldest()
    assert [sock.fileno() >= 0 for sock in sockets] == [False, False, True]
    rig.close()
    assert not rig.refusals.close_oldest()


def test_a_timer_of_one_connection_never_closes_the_next_one_with_its_descriptor(rig: Rig) -> None:
    ours, client = rig.connect()
    fd = ours.fileno()
    rig.refusals.refuse(ours, 503, "no", "n")
    client.shutdown(socket.SHUT_WR)
    rig.poller.make_ready(fd, READABLE)
    rig.poller.run_due(LINGER_S / 2)
    again, _ = rig.connect()
    assert again.fileno() == fd, "the lowest free number"
    rig.refusals.refuse(again, 503, "no", "n")
    rig.poller.run_due(LINGER_S)
    assert again.fileno() == fd
    rig.poller.run_due(1.5 * LINGER_S)
    assert again.fileno() == -1


@pytest.mark.parametrize("tls", [False, True])
def test_a_descriptor_that_is_needed_is_free_at_once(tls: bool) -> None:
    rig = Rig(tls=tls)
    ours, client = rig.connect(b"GET")
    rig.refusals.refuse_now(ours, 503, "no", "refused_evicted")
    assert ours.fileno() == -1
    assert client.recv(1000) == (b"\x15\x03\x01\x00\x02\x02\x28" if tls else response(503, "no"))
    assert rig.counters == {"refused_evicted": 1}
    rig.close()


def test_a_flood_is_logged_once_a_second_with_the_number_of_lines_left_out(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            rig.refusals.log_too_many("192.0.2.1", 5)
        rig.poller.run_due(1.0)
        rig.refusals.log_too_many("192.0.2.1", 6)
    assert [record.getMessage().split(" reason")[0] for record in caplog.records] == [
        "connection refused peer=192.0.2.1 connections=5 left_out=0",
        "connection refused peer=192.0.2.1 connections=6 left_out=2",
    ]
