"""
What has to hold for any bytes: no reader raises, the answer to the whole is the answer to its pieces, and what the
primary takes for the path, the cookie and the end of a request is what the worker's parser takes for them. As a packet
of a channel they are a message, or unreadable.
"""

from __future__ import annotations

import os
import socket
from ipaddress import ip_network

import httptools

from sticky.handoff.channel import CARRIED_INLINE, Channel, Received, Unreadable, close_all
from sticky.handoff.messages import from_primary, from_worker
from sticky.heads import proxy_header
from sticky.heads.first_bytes import DEFAULT_LIMITS, NEED_MORE, Head, Refusal, inspect
from sticky.keys.affinity import Affinity, AffinitySettings, Sticky
from sticky.worker.requests import Begin, Requests
from tests.sticky.test_agreement import (
    assert_httptools_agrees,
    assert_httptools_finds_the_path,
    assert_websockets_agrees,
    has_body,
)

AFFINITY = Affinity(
    AffinitySettings(
        sticky=Sticky.SESSION, trusted=(ip_network("10.0.0.0/8"),), session_param="sid", session_header="x-session"
    )
)


def check(data: bytes) -> None:
    """Fail by an assertion, or by whatever a reader raises."""
    head = check_cuts(data)
    check_proxy_header(data)
    if isinstance(head, Head):
        check_agreement(data, head)
        check_affinity(head)
    check_requests(data)
    check_channel(data)


def check_cuts(data: bytes) -> object:
    whole = inspect(data)
    seen = 0
    for cut in sorted({1, len(data) // 3, len(data) // 2, len(data) - 1}):
        if 0 < cut < len(data):
            verdict = inspect(data[:cut], DEFAULT_LIMITS, seen)
            assert verdict in (NEED_MORE, whole), (verdict, whole)
            if verdict != NEED_MORE:
                break
            seen = cut
    else:
        assert inspect(data, DEFAULT_LIMITS, seen) == whole
    return whole


def check_proxy_header(data: bytes) -> None:
    whole = proxy_header.parse(data)
    assert proxy_header.parse(data[: len(data) // 2]) in (NEED_MORE, whole)
    if isinstance(whole, proxy_header.ProxyHeader):
        assert whole.length <= len(data)


def check_agreement(data: bytes, head: Head) -> None:
    assert_httptools_agrees(data, head)
    assert_httptools_finds_the_path(head)
    if not has_body(head):
        assert_websockets_agrees(data, head)


def check_affinity(head: Head) -> None:
    session = AFFINITY.sticky_id_of(head)
    assert session is None or (session and session.isascii() and '"' not in session)
    for peer in ("10.0.0.1", "192.0.2.1", "unix"):
        client = AFFINITY.address_of(peer, head)
        assert peer != "192.0.2.1" or client == peer, "a stranger's word counts for nothing"
        AFFINITY.secure(peer, head)
    if session is not None:
        assert AFFINITY.key_for_sticky_id(session)


def check_channel(data: bytes) -> None:
    """A packet is a message or unreadable, at both ends of a channel, and no descriptor beside it is lost."""
    before = len(os.listdir("/proc/self/fd"))
    for decode in (from_worker, from_primary):
        for beside in (0, 1, 2):
            ours, theirs = Channel.pair(decode)
            with theirs, open(os.devnull, "rb") as file:
                socket.send_fds(theirs, [data[:CARRIED_INLINE]], [file.fileno()] * beside)
                [received] = ours.receive()
            ours.close()
            if isinstance(received, Received):
                close_all([received.fd])
            else:
                assert isinstance(received, Unreadable)
    assert len(os.listdir("/proc/self/fd")) == before


class Ends:
    """Counts where httptools sees messages begin."""

    def __init__(self) -> None:
        self.begun = 0

    def on_message_begin(self) -> None:
        self.begun += 1


def check_requests(data: bytes) -> None:
    """Every byte comes out once, however the bytes came in, and each request begins where the parser begins one."""
    half = len(data) // 2
    pieces, taken = [], b""
    requests = Requests()
    for part in (data[:half], data[half:]):
        requests.feed(part)
        while (piece := requests.next()) is not None:
            pieces.append(piece)
    ends = Ends()
    parser = httptools.HttpRequestParser(ends)
    begun = 0
    for piece in pieces:
        if isinstance(piece, Refusal):
            return
        taken += piece.data
        begun += isinstance(piece, Begin)
        try:
            parser.feed_data(piece.data)
        except httptools.HttpParserUpgrade:
            return
        except httptools.HttpParserError:
            return  # it refuses more, which is as good
        assert ends.begun == begun
    assert (taken + requests.rest()).replace(b"\r", b"").replace(b"\n", b"") == data.replace(b"\r", b"").replace(
        b"\n", b""
    ), "nothing is lost but empty lines between requests"
