"""
The acceptor: what each kind of first bytes comes to, within which time, and without a byte consumed.

Sockets are real. The clock is the test's, and a callback runs when the test calls it: `Rig.deliver` waits until the
kernel has the bytes, and then reports them as epoll would.
"""

from __future__ import annotations

import logging
import os
import select
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from sticky.accept.acceptor import Acceptor
from sticky.handoff.pending_handoff import PendingHandoff
from sticky.handoff.refusals import Refusals
from sticky.heads.first_bytes import HeadLimits
from sticky.keys.addresses import Addresses
from sticky.keys.affinity import Affinity, AffinitySettings, Sticky
from sticky.loop.poller import HANGUP
from tests.support.fake_poller import READABLE, FakePoller

HANDSHAKE_S = 10.0
HEAD = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
TLS_HELLO = b"\x16\x03\x01\x00\x05\x01rest"
ALERT = b"\x15\x03\x01\x00\x02\x02\x28"
PROXY = b"PROXY TCP4 192.0.2.9 192.0.2.1 4711 80\r\n"


class Rig:
    """An acceptor with one listener, the clients of a test, and what was dispatched."""

    def __init__(self, *, affinity: AffinitySettings | None = None, most: int | None = None, **options: Any) -> None:
        self.counters: Counter[str] = Counter()
        self.poller = FakePoller(counters=self.counters)
        self.dispatched: list[PendingHandoff] = []
        self.clients: list[socket.socket] = []
        descriptors = options.pop("descriptors", 1024)
        settings = {"expects_proxy": False, "tls": False, "raw": False, **options}
        self.affinity = Affinity(affinity or AffinitySettings())
        self.refusals = Refusals(self.poller, descriptors=1024, tls=settings["tls"], counters=self.counters)
        self.addresses = Addresses(self.affinity, most=most, descriptors=1024)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.early = [self.connect() for _ in range(options.pop("early", 0))]
        settings.pop("early", None)
        if descriptors == "for one":
            descriptors = _room_for_one()
        self.acceptor = Acceptor(
            self.poller,
            self.affinity,
            limits=HeadLimits(),
            handshake_s=HANDSHAKE_S,
            addresses=self.addresses,
            descriptors=descriptors,
            refusals=self.refusals,
            dispatcher=self,
            counters=self.counters,
            **settings,
        )
        self.acceptor.open([self.listener], 16)

    def dispatch(self, handoff: PendingHandoff) -> None:
        self.dispatched.append(handoff)

    def connect(self, data: bytes = b"") -> socket.socket:
        client = socket.create_connection(self.address)
        client.settimeout(10)
        client.sendall(data)
        self.clients.append(client)
        return client

    def accept(self, data: bytes = b"") -> socket.socket:
        """Connect a client that has sent some bytes, and let the acceptor accept it."""
        client = self.connect(data)
        self.deliver(self.listener.fileno())
        return client

    def pending(self) -> list[int]:
        """Return the descriptors of the connections that wait for bytes."""
        return list(self.acceptor._pending)

    def deliver(self, fd: int, events: int = READABLE) -> None:
        """Report a descriptor as ready, once the kernel has it so."""
        assert select.select([fd], [], [], 10)[0], "nothing has arrived"
        self.poller.make_ready(fd, events)

    def send_more(self, client: socket.socket, data: bytes) -> None:
        [fd] = self.pending()
        client.sendall(data)
        self.deliver(fd)

    def close(self) -> None:
        self.acceptor.close()
        self.acceptor.release()
        self.refusals.close()
        for handoff in self.dispatched:
            handoff.sock.close()
        for client in self.clients:
            client.close()


def _room_for_one() -> int:
    """Return a limit with which the next accepted connection is the last one outside of the reserve."""
    probes = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]  # the spare one, and two connections
    for fd in probes:
        os.close(fd)
    return next(limit for limit in range(1, 10_000) if limit - min(32, limit // 8) == max(probes))


def read_all(client: socket.socket) -> bytes:
    data = b""
    while part := client.recv(65536):
        data += part
    return data


@pytest.fixture
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    rig = Rig(**getattr(request, "param", {}))
    yield rig
    rig.close()


def test_a_whole_head_is_routed_at_once_and_stays_in_the_socket(rig: Rig) -> None:
    rig.accept(HEAD)
    [handoff] = rig.dispatched
    assert (handoff.kind, handoff.method, handoff.path, handoff.reason) == ("http", "GET", "/a", "ip")
    assert (handoff.peer_address, handoff.address) == ("127.0.0.1", "127.0.0.1")
    assert handoff.key == rig.affinity.key_for("127.0.0.1")
    assert handoff.sock.recv(1000) == HEAD
    assert not rig.pending()


@pytest.mark.parametrize("cut", [0, 1, 10, len(HEAD) - 1])
def test_a_head_in_two_parts_is_routed_when_it_is_whole(rig: Rig, cut: int) -> None:
    client = rig.accept(HEAD[:cut])
    assert not rig.dispatched
    assert rig.acceptor.waiting == 1
    rig.send_more(client, HEAD[cut:])
    [handoff] = rig.dispatched
    assert handoff.sock.recv(1000) == HEAD
    assert rig.acceptor.waiting == 0


def test_a_silent_client_gets_408_when_its_time_is_over(rig: Rig) -> None:
    client = rig.accept(b"GET / HT")
    rig.poller.run_due(HANDSHAKE_S - 0.1)
    assert rig.acceptor.waiting == 1
    rig.poller.run_due(HANDSHAKE_S)
    assert rig.acceptor.waiting == 0
    assert rig.counters["refused_408"] == 1
    rig.refusals.close()
    assert read_all(client).startswith(b"HTTP/1.1 408 ")


def test_a_routed_connection_has_no_deadline_any_more(rig: Rig) -> None:
    client = rig.accept(b"GET")
    rig.send_more(client, HEAD[3:])
    assert rig.poller.next_due() is None, "a timer would keep the connection's memory until its time"
    rig.poller.run_due(2 * HANDSHAKE_S)
    assert not rig.counters["refused_408"]


def test_garbage_is_refused_with_its_first_byte(rig: Rig) -> None:
    client = rig.accept(b"\x00")
    assert rig.counters["refused_400"] == 1
    rig.refusals.close()
    assert read_all(client).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("sent", [b"", b"GET / HT"])
def test_a_client_that_goes_before_its_head_is_whole_is_closed_and_counted(rig: Rig, sent: bytes) -> None:
    client = rig.accept(sent)
    [fd] = rig.pending()
    client.shutdown(socket.SHUT_WR)
    rig.deliver(fd, READABLE | HANGUP)
    assert rig.counters["gone_before_head"] == 1
    assert rig.acceptor.waiting == 0
    assert len(rig.addresses) == 0


def test_the_last_bytes_and_the_end_in_one_event_are_both_seen(rig: Rig) -> None:
    client = rig.accept()
    [fd] = rig.pending()
    client.sendall(b"GET")
    client.shutdown(socket.SHUT_WR)
    rig.deliver(fd, READABLE | HANGUP)
    assert rig.counters["gone_before_head"] == 1


# PROXY protocol

TRUSTING = {"affinity": AffinitySettings.from_builtins({**AffinitySettings().to_builtins(), "trusted": ["127.0.0.1"]})}


@pytest.mark.parametrize("rig", [{"expects_proxy": True, **TRUSTING}], indirect=True)
def test_the_header_of_a_trusted_proxy_is_consumed_and_names_the_client(rig: Rig) -> None:
    rig.accept(PROXY + HEAD)
    [handoff] = rig.dispatched
    assert (handoff.peer_address, handoff.address, handoff.client_port) == ("192.0.2.9", "192.0.2.9", 4711)
    assert handoff.sock.recv(1000) == HEAD
    assert rig.addresses.count(handoff.network) == 1, "and it is counted under the client's address"


@pytest.mark.parametrize("rig", [{"expects_proxy": True, **TRUSTING}], indirect=True)
@pytest.mark.parametrize("cut", [0, 5, len(PROXY), len(PROXY) + 4])
def test_the_header_may_come_in_parts(rig: Rig, cut: int) -> None:
    client = rig.accept((PROXY + HEAD)[:cut])
    rig.send_more(client, (PROXY + HEAD)[cut:])
    [handoff] = rig.dispatched
    assert handoff.sock.recv(1000) == HEAD


@pytest.mark.parametrize("rig", [{"expects_proxy": True, **TRUSTING}], indirect=True)
def test_a_trusted_proxy_without_the_header_is_refused(rig: Rig) -> None:
    rig.accept(HEAD)
    assert rig.counters["refused_proxy_header"] == 1


@pytest.mark.parametrize("rig", [{"expects_proxy": True}], indirect=True)
def test_the_header_of_a_stranger_is_garbage(rig: Rig) -> None:
    rig.accept(PROXY + HEAD)
    assert rig.counters["refused_400"] == 1


# TLS, and bytes that are not looked at


def test_tls_on_a_plain_port_gets_an_alert_and_one_line(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        clients = [rig.accept(TLS_HELLO), rig.accept(TLS_HELLO)]
    assert caplog.text.count("TLS refused peer=127.0.0.1") == 1
    assert rig.counters["refused_tls"] == 2
    rig.refusals.close()
    assert [read_all(client) for client in clients] == [ALERT, ALERT]


@pytest.mark.parametrize("rig", [{"tls": True}], indirect=True)
def test_tls_is_routed_by_its_address_and_plain_http_is_refused(rig: Rig) -> None:
    rig.accept(TLS_HELLO)
    [handoff] = rig.dispatched
    assert (handoff.kind, handoff.scheme, handoff.key) == ("tls", "https", rig.affinity.key_for("127.0.0.1"))
    rig.accept(HEAD)
    assert rig.counters["refused_not_tls"] == 1


@pytest.mark.parametrize("rig", [{"raw": True}], indirect=True)
def test_raw_connections_are_routed_before_their_first_byte(rig: Rig) -> None:
    rig.accept()
    [handoff] = rig.dispatched
    assert (handoff.kind, handoff.key) == ("raw", rig.affinity.key_for("127.0.0.1"))


# Too many


@pytest.mark.parametrize("rig", [{"most": 1}], indirect=True)
def test_more_connections_of_an_address_than_allowed_are_refused(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.accept(HEAD)
    with caplog.at_level(logging.WARNING):
        client = rig.accept(HEAD)
    assert rig.counters["refused_address"] == 1
    assert "connection refused peer=127.0.0.1 connections=1" in caplog.text
    assert len(rig.dispatched) == 1
    rig.refusals.close()
    assert read_all(client).startswith(b"HTTP/1.1 503 ")


def test_an_address_that_has_its_share_makes_room_for_itself(rig: Rig) -> None:
    rig.addresses.share = 2
    oldest, *_ = [rig.accept(b"GET") for _ in range(3)]
    assert rig.counters["refused_evicted"] == 1
    assert read_all(oldest).startswith(b"HTTP/1.1 503 ")
    assert rig.acceptor.waiting == 2


@pytest.mark.parametrize("rig", [{"early": 2, "descriptors": "for one"}], indirect=True)
def test_when_only_the_reserve_is_left_an_unfinished_connection_makes_room(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.deliver(rig.listener.fileno())
    first, second = rig.early
    assert rig.counters["refused_evicted"] == 1
    assert "out of descriptors reason" in caplog.text
    assert read_all(first).startswith(b"HTTP/1.1 503 ")
    rig.send_more(second, HEAD)
    [handoff] = rig.dispatched
    assert handoff.sock.recv(1000) == HEAD


@pytest.mark.parametrize("rig", [{"descriptors": 8}], indirect=True)
def test_when_nothing_can_make_room_a_new_connection_gets_503(rig: Rig) -> None:
    client = rig.accept(HEAD)
    assert read_all(client).startswith(b"HTTP/1.1 503 ")
    assert rig.counters["refused_no_room"] == 1
    assert not rig.dispatched


# Given back, and the end

BY_SESSION = {"affinity": AffinitySettings(sticky=Sticky.SESSION)}


@pytest.mark.parametrize("rig", [BY_SESSION], indirect=True)
def test_a_connection_that_a_worker_gave_back_is_routed_by_its_next_request(rig: Rig) -> None:
    ours, theirs = socket.socketpair()
    request = b"GET /b HTTP/1.1\r\nHost: a\r\nCookie: rt_session=abc\r\n\r\nrest"
    rig.acceptor.take_back(ours, "192.0.2.7", 4711, request)
    [handoff] = rig.dispatched
    assert (handoff.sticky_id, handoff.path, handoff.reason, handoff.received) == ("abc", "/b", "moved", request)
    assert rig.addresses.count(handoff.network) == 1
    theirs.close()


def test_a_relayed_connection_is_of_https_however_its_socket_looks(rig: Rig) -> None:
    for is_relayed in (True, False):
        ours, theirs = socket.socketpair()
        rig.acceptor.take_back(ours, "192.0.2.7", 4711, HEAD, is_relayed)
        handoff = rig.dispatched[-1]
        assert (handoff.is_relayed, handoff.scheme) == (is_relayed, "https" if is_relayed else "http")
        handoff.number = 1
        assert handoff.header()[-1] is is_relayed
        theirs.close()


def test_at_the_end_listeners_close_and_pending_connections_get_503(rig: Rig) -> None:
    client = rig.accept(b"GET")
    rig.acceptor.close()
    assert rig.acceptor.waiting == 0
    assert rig.counters["refused_stopping"] == 1
    rig.refusals.close()
    assert read_all(client).startswith(b"HTTP/1.1 503 ")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(rig.address)
    ours, theirs = socket.socketpair()
    rig.acceptor.take_back(ours, "192.0.2.7", 1, HEAD)
    assert rig.counters["refused_stopping"] == 2
    theirs.close()
