"""What a proxy says of the connection behind it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sticky.heads.first_bytes import NEED_MORE, Refusal
from sticky.heads.proxy_header import V1_MAX_BYTES, V2_MAX_BYTES, ProxyHeader, parse
from tests.sticky.wire_cases import Case, assert_same_in_every_way, load, unescape

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
ADDRESSES = bytes([192, 0, 2, 1, 198, 51, 100, 7]) + b"\xc8\x22\x01\xbb"


def expected_header(case: Case) -> ProxyHeader:
    client, client_port, server, server_port, *local = unescape(case.words).decode().split(" ")
    return ProxyHeader(
        None if client == "-" else client,
        int(client_port),
        None if server == "-" else server,
        int(server_port),
        length=len(case.data),
        local=local == ["local"],
    )


@pytest.mark.parametrize("case", load("proxy/valid"), ids=str)
def test_a_valid_header_is_read_to_its_exact_end(case: Case) -> None:
    assert case.answer == "proxy"
    assert_same_in_every_way(parse, case.data, expected_header(case), early=False)


@pytest.mark.parametrize("case", load("proxy/refused"), ids=str)
def test_anything_odd_is_refused(case: Case) -> None:
    assert case.answer == "refused"
    status, _, words = case.words.partition(" ")
    refusal = parse(case.data)
    assert isinstance(refusal, Refusal)
    assert refusal.status == int(status)
    assert words in refusal.reason
    assert_same_in_every_way(parse, case.data, refusal, early=True)


def test_the_longest_line_of_version_1_is_read_and_no_longer_one_waited_for() -> None:
    start = b"PROXY UNKNOWN "
    longest = start + b"x" * (V1_MAX_BYTES - len(start) - 2) + b"\r\n"
    assert parse(longest) == ProxyHeader(None, 0, None, 0, length=V1_MAX_BYTES)
    assert parse(longest[:-2]) == NEED_MORE
    assert isinstance(parse(longest[:-2] + b"x\r\n"), Refusal)
    assert isinstance(parse(longest[:-2] + b"x\r"), Refusal)


def v2(length: int, extensions: bytes) -> bytes:
    return SIGNATURE + b"\x21\x11" + length.to_bytes(2, "big") + ADDRESSES + extensions


def test_the_longest_header_of_version_2_is_read_and_no_longer_one_waited_for() -> None:
    room = V2_MAX_BYTES - 16 - len(ADDRESSES) - 3
    longest = v2(V2_MAX_BYTES - 16, b"\x04" + room.to_bytes(2, "big") + bytes(room))
    header = parse(longest)
    assert isinstance(header, ProxyHeader)
    assert (header.client_address, header.length) == ("192.0.2.1", V2_MAX_BYTES)
    assert parse(longest[:-1]) == NEED_MORE
    assert isinstance(parse(v2(V2_MAX_BYTES - 15, b"")), Refusal)


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=20)), max_size=6))
def test_extensions_are_skipped_whatever_they_say(extensions: list[tuple[int, bytes]]) -> None:
    block = b"".join(bytes([kind]) + len(value).to_bytes(2, "big") + value for kind, value in extensions)
    data = v2(len(ADDRESSES) + len(block), block)
    assert parse(data + b"GET /") == ProxyHeader("192.0.2.1", 51234, "198.51.100.7", 443, len(data))


texts = [b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY UNKNOWN"]
starts = st.sampled_from([*texts, SIGNATURE, SIGNATURE + b"\x21\x11", SIGNATURE + b"\x20\x00\x00\x04"])
pieces = st.sampled_from([b"1.2.3.4", b"::1", b" ", b"80", b"\r\n", b"\r", b"\n", b"\x00", b"TCP6 ", b"\x00\x0c"])
rests = st.binary(max_size=60) | st.lists(pieces, max_size=12).map(b"".join)


@given(starts, rests, st.binary(max_size=20), st.integers(0, 200))
def test_any_bytes_cut_anywhere_give_the_answer_of_the_whole(start: bytes, rest: bytes, more: bytes, cut: int) -> None:
    data = start + rest
    whole = parse(data)
    assert parse(data[:cut]) in (NEED_MORE, whole)
    if whole != NEED_MORE:
        assert parse(data + more) == whole
    if isinstance(whole, ProxyHeader):
        assert whole.length <= len(data)
        assert parse(data[: whole.length - 1]) == NEED_MORE
