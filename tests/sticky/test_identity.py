"""Whose a connection is, as a handoff says it, and what the socket of a handoff still tells."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from sticky.accept.identity import identify, identify_raw, identify_tls
from sticky.handoff.channel import Kind
from sticky.handoff.pending_handoff import PendingHandoff, bytes_sent
from sticky.heads.first_bytes import Head, inspect
from sticky.keys.affinity import Affinity, AffinitySettings, Sticky
from sticky.keys.away import home_of
from sticky.keys.hashing import Hashing, Key, Slot
from tests.support.worker_ends import WorkerEnd

HASHING = Hashing(b"a secret of some length")
GET = b"GET /a?b HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n\r\n"
PROXY = "10.0.0.1"


def affinity(sticky: Sticky) -> Affinity:
    return Affinity(AffinitySettings(sticky=sticky, trusted=(ip_network("10.0.0.0/8"),)), HASHING)


def head(data: bytes) -> Head:
    found = inspect(data)
    assert isinstance(found, Head)
    return found


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, client = socket.socketpair()
    yield ours, client
    ours.close()
    client.close()


Pair = tuple[socket.socket, socket.socket]


def test_a_client_behind_a_trusted_proxy_is_known_by_its_own_address(pair: Pair) -> None:
    by_ip = affinity(Sticky.IP)
    handoff = identify(by_ip, pair[0], PROXY, 4711, head(GET))
    assert (handoff.address, handoff.peer_address, handoff.client_port) == ("192.0.2.1", PROXY, 0)
    assert (handoff.key, handoff.reason) == (by_ip.key_for("192.0.2.1"), "ip")
    assert (handoff.kind, handoff.scheme, handoff.method, handoff.path) == ("http", "https", "GET", "/a")


def test_a_client_without_a_proxy_is_known_by_its_peer_address_and_port(pair: Pair) -> None:
    handoff = identify(affinity(Sticky.IP), pair[0], "192.0.2.7", 4711, head(GET))
    assert (handoff.address, handoff.client_port, handoff.scheme) == ("192.0.2.7", 4711, "http")


def test_a_sticky_id_is_the_key_and_its_lack_asks_for_one(pair: Pair) -> None:
    by_id = affinity(Sticky.SESSION)
    with_id = identify(by_id, pair[0], PROXY, 1, head(GET[:-2] + b"Cookie: rt_session=abc\r\n\r\n"))
    assert (with_id.sticky_id, with_id.key, with_id.wants_sticky_id) == ("abc", by_id.key_for_sticky_id("abc"), False)
    assert with_id.reason == "session"
    without = identify(by_id, pair[0], PROXY, 1, head(GET))
    assert (without.sticky_id, without.key, without.wants_sticky_id) == (None, None, True)
    assert without.reason == "balance"


@pytest.mark.parametrize("sticky", Sticky)
def test_a_query_id_routes_under_every_stickiness_and_goes_before_the_cookie(sticky: Sticky, pair: Pair) -> None:
    settings = AffinitySettings(sticky=sticky, query_id_paths=("/io/",))
    routed = Affinity(settings, HASHING)
    query_id = HASHING.new_query_id(Slot(3))
    cookie = f"Cookie: rt_session={HASHING.new_sticky_id(Slot(1))}\r\n\r\n"
    request = head(f"GET /io/?EIO=4&sid={query_id} HTTP/1.1\r\nHost: a\r\n{cookie}".encode())
    handoff = identify(routed, pair[0], "192.0.2.7", 1, request)
    assert (handoff.sticky_id, handoff.key) == (query_id, routed.key_for_sticky_id(query_id))
    assert (handoff.reason, handoff.wants_sticky_id) == ("query_id", False)
    assert handoff.key is not None
    assert home_of(HASHING, handoff.key, 4) == 3


@pytest.mark.parametrize("sticky", Sticky)
def test_a_forged_query_id_is_routed_as_if_there_were_none(sticky: Sticky, pair: Pair) -> None:
    routed = Affinity(AffinitySettings(sticky=sticky, query_id_paths=("/io/",)), HASHING)
    forged = Hashing(b"of another cluster").new_query_id(Slot(3))
    with_it, without = (
        identify(routed, pair[0], "192.0.2.7", 1, head(f"GET /io/{query} HTTP/1.1\r\nHost: a\r\n\r\n".encode()))
        for query in (f"?sid={forged}", "")
    )
    assert (with_it.sticky_id, with_it.key, with_it.reason) == (None, without.key, without.reason)
    assert with_it.wants_sticky_id == without.wants_sticky_id == (sticky is Sticky.SESSION)


@pytest.mark.parametrize("sticky", Sticky)
def test_without_a_readable_head_only_the_address_routes(sticky: Sticky, pair: Pair) -> None:
    for handoff in (
        identify_tls(affinity(sticky), pair[0], "192.0.2.7", 1),
        identify_raw(affinity(sticky), pair[0], "192.0.2.7", 1),
    ):
        assert (handoff.key is not None) == (sticky is Sticky.IP)
        assert not handoff.wants_sticky_id
        assert handoff.reason == ("ip" if sticky is Sticky.IP else "balance")


def test_the_header_of_a_handoff_is_what_a_worker_decodes(pair: Pair) -> None:
    handoff = PendingHandoff(
        pair[0],
        PROXY,
        "192.0.2.1",
        7,
        number=3,
        method="GET",
        path="/",
        upgrade=True,
        key=Key(b"c192.0.2.1"),
        away=True,
    )
    handoff.new_sticky_id = HASHING.new_sticky_id(Slot(1))
    end = WorkerEnd(0)
    assert end.handle.channel.send(Kind.HANDOFF, *handoff.header(), fd=pair[0].fileno())
    [message] = end.handoffs()
    assert (message.number, message.address, message.peer_address, message.client_port) == (3, "192.0.2.1", PROXY, 7)
    assert (message.upgrade, message.away, message.new_sticky_id) == (True, True, handoff.new_sticky_id)
    end.close()


@pytest.mark.parametrize(
    ("kind", "sent", "received", "expected"),
    [
        ("http", b"GET / HTTP/1.1\r\n", b"", True),
        ("http", b"", b"", False),
        ("http", b"the body of a request that a worker has begun to read", b"", False),
        ("http", b"", b"GET / HTTP/1.1\r\n\r\n", True),
        ("tls", b"\x16\x03\x01", b"", True),
        ("tls", b"\x17\x03\x03", b"", False),
        ("raw", b"", b"", True),
    ],
)
def test_a_request_is_untouched_while_it_can_be_read_from_its_first_byte(
    pair: Pair, kind: str, sent: bytes, received: bytes, expected: bool
) -> None:
    pair[1].sendall(sent)
    handoff = PendingHandoff(pair[0], PROXY, PROXY, 1, kind=kind, method="GET", received=received)
    assert handoff.is_untouched() is expected


def test_a_client_that_is_gone_has_no_untouched_request(pair: Pair) -> None:
    handoff = PendingHandoff(pair[0], PROXY, PROXY, 1, method="GET")
    pair[1].close()
    assert not handoff.is_untouched()
    pair[0].close()
    assert not handoff.is_untouched()


def test_the_kernel_counts_what_was_sent_on_tcp_and_not_on_a_unix_socket(pair: Pair) -> None:
    assert bytes_sent(pair[0]) is None
    assert not PendingHandoff(pair[0], PROXY, PROXY, 1).is_unanswered()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as ours,
    ):
        handoff = PendingHandoff(ours, PROXY, PROXY, 1)
        assert bytes_sent(ours) == 0
        assert handoff.is_unanswered()
        ours.sendall(b"x" * 10)
        assert client.recv(100) == b"x" * 10
        assert bytes_sent(ours) == 10
        assert not handoff.is_unanswered()
        handoff.sent_before = 10
        assert handoff.is_unanswered(), "those were responses to earlier requests"
