"""What proxies say of the client, read from right to left."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sticky.heads.forwarded import forwarded_for, forwarded_proto, x_forwarded_for, x_forwarded_proto


def texts(hops: object) -> list[str | None]:
    return [None if hop is None else str(hop) for hop in hops]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("node", "address"),
    [
        (b"192.0.2.1", "192.0.2.1"),
        (b"192.0.2.1:8080", "192.0.2.1"),
        (b"2001:db8::1", "2001:db8::1"),
        (b"2001:DB8:0::1", "2001:db8::1"),
        (b"[2001:db8::1]", "2001:db8::1"),
        (b"[2001:db8::1]:8080", "2001:db8::1"),
        (b"::ffff:192.0.2.1", "192.0.2.1"),
        (b"[::ffff:192.0.2.1]:80", "192.0.2.1"),
        (b"unknown", None),
        (b"_hidden", None),
        (b"a.example", None),
        (b"192.0.2", None),
        (b"192.0.2.01", None),
        (b"192.0.2.1:", None),
        (b"192.0.2.1:http", None),
        (b"192.0.2.1:123456", None),
        (b"192.0.2.1/24", None),
        (b"[192.0.2.1]", None),
        (b"[2001:db8::1", None),
        (b"2001:db8::1]", None),
        (b"[2001:db8::1]80", None),
        (b"[2001:db8::1]:", None),
        (b"[]", None),
        (b"fe80::1%eth0", None),
        (b'"192.0.2.1"', None),
        (b"1", None),
        (b"-1", None),
        (b"192.0.2.1 192.0.2.2", None),
        (b"\xd9\xa1.0.0.1", None),
    ],
)
def test_a_hop_of_x_forwarded_for_is_an_address_with_or_without_port(node: bytes, address: str | None) -> None:
    assert texts(x_forwarded_for([node])) == [address]


def test_x_forwarded_for_is_told_from_the_right_over_all_lines() -> None:
    lines = [b"192.0.2.1, 192.0.2.2", b"192.0.2.3,192.0.2.4"]
    assert texts(x_forwarded_for(lines)) == ["192.0.2.4", "192.0.2.3", "192.0.2.2", "192.0.2.1"]


def test_empty_elements_of_a_list_are_none() -> None:
    assert texts(x_forwarded_for([b" , 192.0.2.1,, \t,"])) == ["192.0.2.1"]


@pytest.mark.parametrize(
    ("line", "hops"),
    [
        (b"for=192.0.2.1", ["192.0.2.1"]),
        (b"For=192.0.2.1;Proto=https;By=203.0.113.43", ["192.0.2.1"]),
        (b'for="192.0.2.1:8080"', ["192.0.2.1"]),
        (b"for=192.0.2.1:8080", ["192.0.2.1"]),
        (b'for="[2001:db8:cafe::17]:4711"', ["2001:db8:cafe::17"]),
        (b'for="[2001:db8:cafe::17]:_port"', ["2001:db8:cafe::17"]),
        (b'for="192\\.0.2.1"', ["192.0.2.1"]),
        (b"for=192.0.2.1, for=192.0.2.2", ["192.0.2.2", "192.0.2.1"]),
        (b'by="a, for=192.0.2.9; b";for=192.0.2.1', ["192.0.2.1"]),
        (b"for=192.0.2.1 ; proto=http", ["192.0.2.1"]),
        (b"for=192.0.2.1;;proto=http;", ["192.0.2.1"]),
        (b", for=192.0.2.1,, ", ["192.0.2.1"]),
        (b"", []),
        (b"for=_hidden", [None]),
        (b"for=unknown, for=192.0.2.1", ["192.0.2.1", None]),
        (b"proto=https, for=192.0.2.1", ["192.0.2.1", None]),
        (b"for=192.0.2.1;for=192.0.2.2", [None]),
        (b"for = 192.0.2.1", [None]),
        (b"for=", [None]),
        (b"for", [None]),
        (b'for="192.0.2.1', [None]),
        (b'for="192.0.2.1"x', [None]),
        (b"for=192.0.2.1 for=192.0.2.2", [None]),
        (b"f\xc3\xbcr=192.0.2.1", [None]),
    ],
)
def test_forwarded_is_read_by_its_grammar(line: bytes, hops: list[str | None]) -> None:
    assert texts(forwarded_for([line])) == hops


@pytest.mark.parametrize("begun", [b'for="', b'for=x;by="', b'for="\\', b'x="a";y="'])
@pytest.mark.parametrize("added", [b"for=192.0.2.1", b'for="192.0.2.1:80";by="[::1]"', b'for="[2001:db8::1]"'])
def test_a_quote_that_a_client_left_open_hides_nothing_behind_it(begun: bytes, added: bytes) -> None:
    """The line says nothing then, and the walk ends at the proxy. On a line of its own the proxy's hop stands."""
    assert texts(forwarded_for([begun + b", " + added])) == [None]
    nearest, *rest = texts(forwarded_for([begun, added]))
    assert nearest is not None
    assert rest == [None]


@pytest.mark.parametrize(
    ("lines", "scheme"),
    [
        ([b"https"], "https"),
        ([b"HTTPS "], "https"),
        ([b"http"], "http"),
        ([b"https, https"], "https"),
        ([b"https", b"https"], "https"),
        ([b"https, http"], None),
        ([b"http", b"https"], None),
        ([b""], ""),
    ],
)
def test_x_forwarded_proto_is_what_all_agree_on(lines: list[bytes], scheme: str | None) -> None:
    assert x_forwarded_proto(lines) == scheme


@pytest.mark.parametrize(
    ("lines", "scheme"),
    [
        ([b"for=192.0.2.1;proto=https"], "https"),
        ([b'proto="HTTPS"'], "https"),
        ([b"proto=https, for=192.0.2.1;proto=http"], "http"),
        ([b"proto=https", b"for=192.0.2.1"], None),
        ([b"proto=https;proto=http"], None),
        ([b""], None),
    ],
)
def test_proto_of_forwarded_is_what_the_nearest_proxy_says(lines: list[bytes], scheme: str | None) -> None:
    assert forwarded_proto(lines) == scheme


words = [b"for=", b"proto", b"1.2.3.4", b"[::1]", b":80", b"_x"]
pieces = st.sampled_from([*words, b'"', b"\\", b",", b";", b" ", b"\t", b"=", b"\xff"])


@given(st.lists(st.lists(pieces, max_size=12).map(b"".join) | st.binary(max_size=40), max_size=3))
def test_any_bytes_are_read_without_an_error(lines: list[bytes]) -> None:
    for hops in (x_forwarded_for(lines), forwarded_for(lines)):
        assert all(hop is None or hop.version in (4, 6) for hop in hops)
    for scheme in (x_forwarded_proto(lines), forwarded_proto(lines)):
        assert scheme is None or "HTTPS" not in scheme
