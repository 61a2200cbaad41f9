"""Which bytes are whole requests without bodies and without an id; and that nothing else is taken for such."""

from __future__ import annotations

import pytest

from realtime.transport.plain_requests import are_plain
from sticky.heads.first_bytes import HeadLimits
from sticky.worker.requests import BodyState, Part, Requests

GET = b"GET /a?b=c HTTP/1.1\r\nHost: h\r\nCookie: a=%20\r\n\r\n"


@pytest.mark.parametrize(
    "data", [GET, b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n", GET * 3, b"GET /?inside=1 HTTP/1.1\r\nHost: h\r\n\r\n"]
)
def test_ordinary_requests_are_plain(data: bytes) -> None:
    assert are_plain(data)


@pytest.mark.parametrize(
    "data",
    [
        GET[:-1],
        GET + b"GET /",
        b"",
        b"\r\n" + GET,
        b"POST /a HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /socket.io/?EIO=4&sid=x HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /socket.io/?EIO=4&SID=x HTTP/1.1\r\nHost: h\r\n\r\n",
        GET + b"GET /socket.io/?sid=x HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /socket.io/?%73id=x HTTP/1.1\r\nHost: h\r\n\r\n",
        GET + b"GET /?%73id=x HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nCONTENT-length: 5\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\ntransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n",
    ],
)
def test_what_may_have_an_id_a_body_or_an_end_elsewhere_is_not(data: bytes) -> None:
    assert not are_plain(data)


@pytest.mark.parametrize("data", [GET, GET * 3])
def test_behind_plain_requests_another_one_begins(data: bytes) -> None:
    requests = Requests(HeadLimits())
    requests.feed(data)
    while (piece := requests.next()) is not None:
        assert not isinstance(piece, Part), "none has a body"
    assert requests.state is BodyState.BETWEEN
    assert not requests.rest()
