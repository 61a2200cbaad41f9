"""A pending handoff: its header, and its two questions to the socket. The sockets are real."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import msgspec
import pytest

from sticky.handoff import messages
from sticky.handoff.channel import Kind
from sticky.handoff.pending_handoff import PendingHandoff, bytes_sent
from sticky.keys.hashing import Key


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return listener.accept()[0], client


@pytest.fixture(params=["unix", "tcp"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, client = socket.socketpair() if request.param == "unix" else tcp_pair()
    yield ours, client
    ours.close()
    client.close()


def handoff_of(sock: socket.socket, **facts: object) -> PendingHandoff:
    handoff = PendingHandoff(sock, "192.0.2.1", "192.0.2.1", 1, method="GET", path="/")
    for name, value in facts.items():
        setattr(handoff, name, value)
    return handoff


def arrived(ours: socket.socket, client: socket.socket, data: bytes) -> None:
    """Send bytes, and wait until they are in the other end's kernel buffer."""
    client.sendall(data)
    while len(ours.recv(1000, socket.MSG_PEEK)) < len(data):
        pass


def test_the_header_has_the_fields_of_the_message_in_their_order(pair: tuple[socket.socket, socket.socket]) -> None:
    handoff = handoff_of(pair[0], number=7, reason="ip", key=Key(b"c192.0.2.1"), away=True)
    carried = None  # what a channel puts before the fields
    message = messages.from_primary(memoryview(msgspec.msgpack.encode([Kind.HANDOFF, carried, *handoff.header()])))
    assert isinstance(message, messages.Handoff)
    assert (message.number, message.address, message.method, message.path) == (7, "192.0.2.1", "GET", "/")
    assert (message.reason, message.peer_address, message.away) == ("ip", "192.0.2.1", True)


def test_a_handoff_without_a_number_is_not_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(AssertionError, match="acknowledges by this number"):
        handoff_of(pair[0]).header()


@pytest.mark.parametrize(
    ("data", "kind", "is_untouched"),
    [
        (b"GET / HTTP/1.1\r\n", "http", True),
        (b" / HTTP/1.1\r\n", "http", False),
        (b"\x16\x03\x01", "tls", True),
        (b"\x17\x03\x01", "tls", False),
        (b"", "http", False),
        (b"", "raw", True),
    ],
)
def test_a_request_is_untouched_while_its_first_byte_is_in_the_socket(
    pair: tuple[socket.socket, socket.socket], data: bytes, kind: str, is_untouched: bool
) -> None:
    if data:
        arrived(*pair, data)
    handoff = handoff_of(pair[0], kind=kind)
    assert handoff.is_untouched() is is_untouched
    assert handoff.is_untouched() is is_untouched, "nothing was consumed"


def test_bytes_that_travel_with_the_connection_are_the_request(pair: tuple[socket.socket, socket.socket]) -> None:
    assert handoff_of(pair[0], received=b"GET / HTTP/1.1\r\n").is_untouched()


def test_a_connection_that_is_reset_is_not_untouched() -> None:
    ours, client = tcp_pair()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    while True:
        try:
            if not ours.recv(1, socket.MSG_PEEK):
                break
        except ConnectionResetError:
            break
    assert not handoff_of(ours).is_untouched()
    ours.close()


def test_a_tcp_connection_is_unanswered_until_a_byte_is_written() -> None:
    ours, client = tcp_pair()
    handoff = handoff_of(ours, sent_before=bytes_sent(ours))
    assert handoff.is_unanswered()
    with ours.dup() as copy:  # a worker's
        copy.sendall(b"H")
    assert not handoff.is_unanswered()
    again = handoff_of(ours, sent_before=bytes_sent(ours))
    assert again.is_unanswered(), "what was sent before this attempt does not count"
    ours.close()
    client.close()


def test_of_a_unix_socket_it_is_never_certain() -> None:
    ours, client = socket.socketpair()
    assert bytes_sent(ours) is None
    assert not handoff_of(ours).is_unanswered()
    ours.close()
    client.close()
