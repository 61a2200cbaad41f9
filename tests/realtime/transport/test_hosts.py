"""For which hosts requests are served: units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.settings.addresses import Host
from realtime.settings.kinds import Many
from realtime.transport.hosts import Hosts
from sticky.heads.first_bytes import Head, inspect

HOSTS = Many(Host())


def allows(allowed: str, host: str) -> bool:
    return Hosts(HOSTS.parse(allowed)).allows(host)


@pytest.mark.parametrize(
    ("allowed", "host", "is_allowed"),
    [
        ("example.org", "example.org", True),
        ("example.org", "EXAMPLE.org", True),
        ("Example.ORG", "example.org", True),
        ("example.org", "example.org.", True),
        ("example.org", "example.org:8000", True),
        ("example.org", "example.org:", True),
        ("example.org", "www.example.org", False),
        ("example.org", "notexample.org", False),
        ("example.org", "example.org.evil.example", False),
        ("example.org", "evil.example", False),
        (".example.org", "example.org", True),
        (".example.org", "a.b.example.org", True),
        (".example.org", "notexample.org", False),
        ("*.example.org", "a.example.org:80", True),
        ("*.example.org", "a.b.example.org", True),
        ("*.example.org", "example.org", False),
        ("example.org:8443", "example.org:8443", True),
        ("example.org:8443", "example.org:08443", True),
        ("example.org:8443", "example.org", False),
        ("example.org:8443", "example.org:443", False),
        ("example.org:443", "example.org", True),
        ("*.example.org:8443", "a.example.org:8443", True),
        ("*.example.org:8443", "a.example.org:1", False),
        ("192.0.2.1", "192.0.2.1:8000", True),
        ("192.0.2.1", "192.0.2.10", False),
        ("::1", "[::1]", True),
        ("[::1]", "[::1]:8000", True),
        ("[::1]:8000", "[::1]:8000", True),
        ("[::1]:8000", "[::1]:8001", False),
        ("[2001:db8:0::1]", "[2001:DB8::0:1]", True),
        ("[2001:db8::1]", "[2001:db8::2]", False),
        ("a.org, b.org", "b.org", True),
        ("a.org", "", False),
        ("a.org", "a.org, a.org", False),
        ("a.org", "user@a.org", False),
        ("a.org", "a.org/x", False),
        ("a.org", "a.org:80:80", False),
        ("a.org", "a.org:x", False),
        ("[::1]", "::1", False),
        ("[::1]", "[::1", False),
        ("[::1]", "[:::1]", False),
    ],
)
def test_a_host_is_served_when_it_is_one_of_those(allowed: str, host: str, is_allowed: bool) -> None:
    assert allows(allowed, host) is is_allowed


@pytest.mark.parametrize("text", ["*", "http://a.org", "a.org/", "a b", "[::1", "[x]", "a.org:", "a.org:0", "a.org:70000", "*x.org", "ä.org", "..a.org", ":80"])  # fmt: skip  # noqa: E501
def test_what_is_no_host_is_no_setting(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any problem
        Host().parse(text)


@given(st.text("ab.org*[]:1 /", max_size=30))
def test_any_text_is_allowed_or_not(host: str) -> None:
    assert Hosts(("a.org", "*.b.org", "[::1]")).allows(host) in (True, False)
    assert Hosts().allows(host), "where none are named all are served"


def head(request: bytes) -> Head:
    read = inspect(request + b"\r\n\r\n")
    assert isinstance(read, Head), read
    return read


@pytest.mark.parametrize(
    ("request_head", "is_admitted"),
    [
        (b"GET / HTTP/1.1\r\nHost: a.org", True),
        (b"GET / HTTP/1.1\r\nHost: b.org", False),
        (b"GET /healthy HTTP/1.1\r\nHost: b.org", False),
        (b"GET /health HTTP/1.1\r\nHost: b.org", True),
        (b"HEAD /health?x HTTP/1.1\r\nHost: b.org", True),
        (b"POST /health HTTP/1.1\r\nHost: b.org", False),
        (b"GET /health HTTP/1.0", True),
        (b"GET / HTTP/1.0", False),
        (b"GET http://a.org/ HTTP/1.1\r\nHost: a.org", True),
        (b"GET http://b.org/health HTTP/1.1\r\nHost: b.org", False),
        (b"GET http://b.org/ HTTP/1.0", False),
    ],
)
def test_a_request_is_admitted_by_what_it_asks_for_and_probes_always(request_head: bytes, is_admitted: bool) -> None:
    hosts = Hosts(("a.org",), clock=lambda: 0.0)
    assert hosts.admits(head(request_head), lambda: "192.0.2.1") is is_admitted
    assert hosts.misdirected == (not is_admitted)


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz"])
def test_probes_are_admitted_below_the_prefix_alone(path: str) -> None:
    hosts = Hosts(("a.org",), own_prefix="/rt")
    for prefix, is_admitted in (("/rt", True), ("", False)):
        asked = head(f"GET {prefix}{path} HTTP/1.1\r\nHost: 192.0.2.1".encode())
        assert hosts.admits(asked, lambda: "192.0.2.1") is is_admitted
