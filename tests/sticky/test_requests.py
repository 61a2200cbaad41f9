"""
A connection's bytes cut into requests: the same pieces whole, in two parts, and byte by byte; and nothing is lost.
"""

from __future__ import annotations

import h11
import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sticky.heads.first_bytes import Refusal
from sticky.worker.requests import Begin, Part, Requests

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
EMPTY = b"PUT /c HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"
CHUNKED = (
    b"POST /d HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n10;name=value\r\n0123456789abcdef\r\n0\r\n\r\n"
)
TRAILED = (
    b"POST /e HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nDigest: 1\r\nMore: 2\r\n\r\n"
)
UPGRADE = b"GET /f HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
ALL = [GET, POST, EMPTY, CHUNKED, TRAILED]


def pieces(requests: Requests, data: bytes) -> list[Begin | Part | Refusal]:
    requests.feed(data)
    found = []
    while (piece := requests.next()) is not None:
        found.append(piece)
    return found


def as_requests(found: list[Begin | Part | Refusal]) -> list[bytes]:
    """Join pieces to what each request consisted of."""
    joined: list[bytes] = []
    for piece in found:
        if isinstance(piece, Begin):
            joined.append(piece.data)
        elif isinstance(piece, Part):
            joined[-1] += piece.data
        else:
            joined.append(b"refused")
    return joined


@given(st.lists(st.sampled_from(ALL), max_size=6), st.data())
def test_requests_are_cut_where_they_end_however_they_arrive(sent: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(sent)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)))
    requests, found = Requests(), []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += pieces(requests, stream[begin:end])
    assert as_requests(found) == sent
    assert requests.rest() == b""


@pytest.mark.parametrize("request_", ALL, ids=[each.split()[1].decode() for each in ALL])
def test_byte_by_byte(request_: bytes) -> None:
    requests, found = Requests(), []
    for byte in request_ + GET:
        found += pieces(requests, bytes([byte]))
    assert as_requests(found) == [request_, GET]


OFFER = b"Connection: Upgrade\r\nUpgrade: h2c, x/1\r\n\r\n"


def test_an_offer_that_is_not_accepted_changes_nothing() -> None:
    sent = [each.replace(b"\r\n\r\n", b"\r\n" + OFFER, 1) for each in [GET, POST, CHUNKED, TRAILED]]
    assert as_requests(pieces(Requests(), b"".join([*sent, GET]))) == [*sent, GET]


def test_after_a_handshake_everything_belongs_to_it() -> None:
    requests = Requests()
    assert as_requests(pieces(requests, UPGRADE + b"\x81\x00" + GET)) == [UPGRADE + b"\x81\x00" + GET]


def test_an_empty_line_between_requests_is_passed_over() -> None:
    assert as_requests(pieces(Requests(), POST + b"\r\n" + GET)) == [POST, GET]


def test_what_is_not_taken_can_be_given_up() -> None:
    requests = Requests()
    requests.feed(GET + POST + b"GET /half")
    assert isinstance(requests.next(), Begin)
    assert requests.rest() == POST + b"GET /half"
    assert requests.next() is None


@pytest.mark.parametrize(
    "stream",
    [
        b"no request\r\n\r\n",
        CHUNKED.replace(b"5\r\nhello", b"-5\r\nhello"),
        CHUNKED.replace(b"5\r\nhello", b"5\nhello"),
        CHUNKED.replace(b"5\r\nhello", b"0x5\r\nhello"),
        CHUNKED.replace(b"5\r\nhello", b" 5\r\nhello"),
        CHUNKED.replace(b"5\r\nhello", b"\r\nhello"),
        CHUNKED.replace(b"5\r\nhello", b"5 \r\nhello"),
        CHUNKED.replace(b"5\r\nhello", b"fffffffffffffffff\r\nhello"),
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        TRAILED.replace(b"1\r\nMore", b"1\n\nMore"),
        TRAILED.replace(b"More: 2", b"More 2"),
        UPGRADE.replace(b"GET", b"POST"),
        UPGRADE.replace(b"1.1", b"1.0"),
        UPGRADE.replace(b"Host: h", b"Host: h\r\nContent-Length: 5") + b"hello",
        UPGRADE.replace(b"Host: h", b"Host: h\r\nTransfer-Encoding: chunked") + b"0\r\n\r\n",
    ],
)
def test_what_could_be_cut_in_two_ways_is_refused(stream: bytes) -> None:
    found = pieces(Requests(), stream)
    assert isinstance(found[-1], Refusal)


class Parsed:
    """What the workers' parser makes of a stream: the bodies of its messages."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def on_message_begin(self) -> None:
        self.bodies.append(b"")

    def on_body(self, body: bytes) -> None:
        self.bodies[-1] += body


@given(
    st.lists(st.sampled_from([*ALL, b"0\r\n", b"\r\n", b"5\r\nhello\r\n", b"GET "]), max_size=6), st.binary(max_size=8)
)
def test_where_a_request_ends_is_where_the_parser_ends_it_or_it_is_refused(sent: list[bytes], noise: bytes) -> None:
    stream = b"".join(sent) + noise
    found = pieces(Requests(), stream)
    if any(isinstance(piece, Refusal) for piece in found):
        return
    parsed = Parsed()
    parser = httptools.HttpRequestParser(parsed)
    try:
        for piece in found:
            assert not isinstance(piece, Refusal)
            before = len(parsed.bodies)
            parser.feed_data(piece.data)
            assert len(parsed.bodies) == before + isinstance(piece, Begin), (
                "a message begins where we say, nowhere else"
            )
    except httptools.HttpParserError:
        pass  # it refuses more, which is as good


def h11_reads(stream: bytes) -> list[bytes]:
    """Return the bodies that the other parser makes of a stream, as a server that answers each request."""
    connection = h11.Connection(h11.SERVER)
    if stream:  # to h11, no bytes are the end
        connection.receive_data(stream)
    bodies: list[bytes] = []
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            return bodies
        if isinstance(event, h11.Request):
            bodies.append(b"")
        elif isinstance(event, h11.Data):
            bodies[-1] += bytes(event.data)
        elif event is h11.PAUSED:
            connection.start_next_cycle()
        elif isinstance(event, h11.EndOfMessage):
            connection.send(h11.Response(status_code=204, headers=[]))
            connection.send(h11.EndOfMessage())


@given(
    st.lists(st.sampled_from([*ALL, TRAILED.replace(b"\r\nMore", b"\nMore"), b"\r\n", b"A: b\n\n"]), max_size=5),
    st.sets(st.integers(0, 400), max_size=3),
)
@example([TRAILED.replace(b"1\r\nMore: 2", b"1\n\n" + GET[:-4])], set())
def test_the_other_parser_finds_as_many_requests_or_it_is_refused(sent: list[bytes], without: set[int]) -> None:
    stream = bytes(byte for at, byte in enumerate(b"".join(sent)) if at not in without or byte not in b"\r\n")
    found = pieces(Requests(), stream)
    if any(isinstance(piece, Refusal) for piece in found):
        return
    whole = b"".join(piece.data for piece in found if not isinstance(piece, Refusal))
    try:
        bodies = h11_reads(whole)
    except h11.RemoteProtocolError:
        return  # it refuses more, which is as good
    assert len(bodies) == sum(isinstance(piece, Begin) for piece in found)
