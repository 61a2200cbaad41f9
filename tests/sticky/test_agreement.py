"""
The primary and the worker read the same head with different parsers. What the primary accepts, both must read alike.

httptools (llhttp) reads every request that an ASGI application or an endpoint gets, websockets reads every handshake.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import httptools
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from websockets.http11 import Request
from websockets.streams import StreamReader

from sticky.heads.first_bytes import Head, inspect
from tests.sticky.heads import near_valid_heads
from tests.sticky.wire_cases import Case, load


class Reading:
    """What httptools sees of a head. Calls are made by the parser."""

    def __init__(self, data: bytes) -> None:
        self.target, self.headers, self.complete = b"", list[tuple[bytes, bytes]](), False
        self.parser = httptools.HttpRequestParser(self)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.upgraded_at: int | None = upgrade.args[0]
        else:
            self.upgraded_at = None

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


def assert_httptools_agrees(data: bytes, head: Head) -> None:
    """httptools must read the very bytes of the head, to their end and not beyond, as the same request."""
    reading = Reading(data[: head.length])
    assert reading.complete
    assert reading.parser.get_method() == head.method.encode()
    assert reading.parser.get_http_version() == head.version
    assert reading.target == head.target
    assert tuple(reading.headers) == head.headers
    assert not Reading(data[: head.length - 1]).complete
    # llhttp stops at every offer; hosted.py goes on where it is none of WebSocket. But it must not miss one of those.
    if head.is_upgrade:
        assert reading.parser.should_upgrade()
    assert reading.upgraded_at == (head.length if reading.parser.should_upgrade() else None)


def assert_httptools_finds_the_path(head: Head) -> None:
    url = httptools.parse_url(head.target)
    assert (url.path or b"/").decode() == head.path
    assert (url.query or b"") == head.query


def websockets_reads(data: bytes) -> Request:
    reader = StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    parsing: Generator[None, None, Request] = Request.parse(reader.read_line)
    try:
        next(parsing)
    except StopIteration as stop:
        request: Request = stop.value
        return request
    raise AssertionError("asked for more of a whole head")


def assert_websockets_agrees(data: bytes, head: Head) -> None:
    request = websockets_reads(data[: head.length])
    assert request.method == head.method
    assert request.protocol == f"HTTP/{head.version}"
    assert request.path == head.target.decode("ascii")
    headers = tuple((name.lower().encode(), value.encode("latin-1")) for name, value in request.headers.raw_items())
    assert headers == head.headers


def has_body(head: Head) -> bool:
    """Does it announce a body? websockets then refuses the handshake, whatever else it says."""
    return bool(head.values(b"transfer-encoding") or head.values(b"content-length"))


@pytest.mark.parametrize("case", load("heads/valid"), ids=str)
def test_a_valid_case_is_read_alike_by_all(case: Case) -> None:
    head = inspect(case.data)
    assert isinstance(head, Head)
    assert_httptools_agrees(case.data, head)
    assert_httptools_finds_the_path(head)
    if not has_body(head):
        assert_websockets_agrees(case.data, head)


@settings(max_examples=400)
@given(near_valid_heads())
@example(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade:\r\n\r\n")
@example(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c,websocket\r\nConnection: x\r\n\r\n")
def test_whatever_is_accepted_is_accepted_and_read_alike_by_all(data: bytes) -> None:
    head = inspect(data)
    assume(isinstance(head, Head))  # Hypothesis fails the test if hardly any are
    assert isinstance(head, Head)
    assert_httptools_agrees(data, head)
    assert_httptools_finds_the_path(head)
    if not has_body(head):
        assert_websockets_agrees(data, head)


VALID = [case.data for case in load("heads/valid")]


@settings(max_examples=400)
@given(st.sampled_from(VALID), st.data())
def test_a_valid_head_with_one_byte_changed_is_refused_or_read_alike(valid: bytes, draw: Any) -> None:
    """One byte is what a smuggler changes."""
    position = draw.draw(st.integers(0, len(valid) - 1))
    byte = draw.draw(st.sampled_from(b'\r\n\t :\x00\x0b\x7f\x80,;=#"\\Ax0') | st.integers(0, 255))
    kept = draw.draw(st.sampled_from([position, position + 1]))  # put in between, or put in place
    data = valid[:position] + bytes([byte]) + valid[kept:]
    head = inspect(data)
    if isinstance(head, Head):
        assert_httptools_agrees(data, head)
        assert_httptools_finds_the_path(head)
        if not has_body(head):
            assert_websockets_agrees(data, head)
