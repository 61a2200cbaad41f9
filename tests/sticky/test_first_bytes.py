"""What the first bytes of a connection are taken for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, SupportsIndex

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sticky.heads.first_bytes import (
    DEFAULT_LIMITS,
    NEED_MORE,
    TLS_HELLO,
    Head,
    HeadLimits,
    NeedMore,
    Refusal,
    TlsHello,
    Verdict,
    inspect,
    path_and_query,
)
from tests.sticky.heads import anything, near_valid_heads
from tests.sticky.wire_cases import Case, assert_same_in_every_way, load, unescape

HEAD = b"GET /chat HTTP/1.1\r\nHost: a.example\r\n\r\n"


def read_along(data: bytes, step: int = 1, limits: HeadLimits = DEFAULT_LIMITS) -> Verdict:
    """Feed bytes as the primary does: ever more of the same, saying how many were seen, until there is an answer."""
    verdict: Verdict = NEED_MORE
    seen = 0
    for cut in [*range(0, len(data), step), len(data)]:
        verdict = inspect(data[:cut], limits, seen)
        if verdict != NEED_MORE:
            break
        seen = cut
    return verdict


# --- the cases in tests/wire/heads/ ---


def expected_head(case: Case) -> Head:
    method, target, version, *_ = case.words.split(" ")
    headers = tuple((name, value.lstrip(b" ")) for name, _, value in (unescape(x).partition(b":") for x in case.lines))
    return Head(method, unescape(target), headers, len(case.data), version)


@pytest.mark.parametrize("case", load("heads/valid"), ids=str)
def test_a_valid_head_is_read_once_its_last_byte_is_there(case: Case) -> None:
    assert case.answer == "head"
    expected = expected_head(case)
    assert_same_in_every_way(inspect, case.data, expected, early=False)
    assert read_along(case.data) == expected
    assert expected.is_upgrade == case.words.endswith(" upgrade")


@pytest.mark.parametrize("case", load("heads/refused"), ids=str)
def test_a_head_that_two_parsers_could_read_differently_is_refused(case: Case) -> None:
    assert case.answer == "refused"
    status, _, words = case.words.partition(" ")
    refusal = inspect(case.data)
    assert isinstance(refusal, Refusal)
    assert refusal.status == int(status)
    assert words in refusal.reason
    assert_same_in_every_way(inspect, case.data, refusal, early=True)
    assert read_along(case.data) == refusal


@pytest.mark.parametrize("case", load("heads/tls"), ids=str)
def test_a_tls_client_hello_is_recognised_by_its_sixth_byte(case: Case) -> None:
    assert case.answer == "tls"
    assert_same_in_every_way(inspect, case.data, TLS_HELLO, early=True)
    assert isinstance(inspect(case.data[:5]), NeedMore)
    assert isinstance(inspect(case.data[:6]), TlsHello)


# --- as soon as it can be known ---


@pytest.mark.parametrize(
    ("data", "refused_at"),
    [
        (b"\r\n" + HEAD, 1),
        (b"\x00" * 9, 1),
        (b"SSH-2.0-x", 2),
        (b"EHLO a", 1),
        (b"HTTP/1.1 200 OK", 2),
        (b"GETX / HTTP/1.1", 4),
        (b"GE / HTTP/1.1", 3),
        (b"CONNECT a:1 HTTP/1.1", 3),
        (b"GET / HTTP/1.1\nHost: a", 15),
        (b"GET / HTTP/1.1\rHost: a", 16),  # the CR alone could have been followed by LF
        (b"GET /\x00 HTTP/1.1", 6),
        (b"GET / HTTP/2.0\r\nHost: a", 16),
        (b"GET /\r\nHost: a", 7),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 16),
        (b"\x16\x03\x01\x02\x00\x02", 6),
        (b"\x16\x02", 2),
    ],
)
def test_what_cannot_become_a_request_is_refused_at_the_first_byte_that_says_so(data: bytes, refused_at: int) -> None:
    assert inspect(data[: refused_at - 1]) == NEED_MORE
    assert isinstance(inspect(data[:refused_at]), Refusal)
    assert read_along(data) == inspect(data[:refused_at]) == inspect(data)


def test_nothing_is_not_enough() -> None:
    assert inspect(b"") == NEED_MORE


# --- limits ---


def head_of(length: int) -> bytes:
    """Make a valid head of exactly so many bytes."""
    start = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
    return start + b"x" * (length - len(start) - 4) + b"\r\n\r\n"


def test_a_head_of_exactly_the_limit_is_read() -> None:
    data = head_of(DEFAULT_LIMITS.max_bytes)
    assert_head_length(inspect(data), DEFAULT_LIMITS.max_bytes)
    assert_head_length(inspect(data + b"body"), DEFAULT_LIMITS.max_bytes)


def assert_head_length(verdict: Verdict, length: int) -> None:
    assert isinstance(verdict, Head), verdict
    assert verdict.length == length


@pytest.mark.parametrize("over", [1, 2, 3, 4, 5, 10_000])
def test_a_head_over_the_limit_is_refused_with_431(over: int) -> None:
    data = head_of(DEFAULT_LIMITS.max_bytes + over)
    refusal = inspect(data)
    assert isinstance(refusal, Refusal)
    assert refusal.status == 431
    assert inspect(data[: DEFAULT_LIMITS.max_bytes]) == refusal
    assert inspect(data[: DEFAULT_LIMITS.max_bytes - 1]) == NEED_MORE
    assert read_along(data, step=997) == refusal


def test_as_many_headers_as_allowed_are_read_and_one_more_is_refused_with_431() -> None:
    limits = HeadLimits(max_headers=5)
    start = b"GET / HTTP/1.1\r\nHost: a\r\n"
    assert isinstance(inspect(start + b"a: b\r\n" * 4 + b"\r\n", limits), Head)
    refusal = inspect(start + b"a: b\r\n" * 5 + b"\r\n", limits)
    assert isinstance(refusal, Refusal)
    assert refusal.status == 431
    assert read_along(start + b"a: b\r\n" * 50 + b"\r\n", limits=limits) == refusal


def test_of_two_faults_the_first_is_told_however_the_bytes_come() -> None:
    """So that a client sees one answer, not one that depends on the network."""
    version_then_nul = b"GET / HTTP/3.0\r\nX: \x00\r\n\r\n"
    nul_then_folded = b"GET / HTTP/1.1\r\nX: \x00\r\n folded\r\n\r\n"
    name_then_too_many = b"GET / HTTP/1.1\r\nX : y\r\n" + b"a: b\r\n" * 200 + b"\r\n"
    too_long_then_nul = b"GET /" + b"a" * DEFAULT_LIMITS.max_bytes + b"\x00"
    for data, status, words in [
        (version_then_nul, 505, "HTTP/1.1"),
        (nul_then_folded, 400, "control byte"),
        (name_then_too_many, 400, "header line"),
        (too_long_then_nul, 431, "too long"),
    ]:
        refusal = inspect(data)
        assert isinstance(refusal, Refusal)
        assert (refusal.status, words in refusal.reason) == (status, True), refusal
        assert read_along(data, step=13) == refusal


# --- what a head says ---


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", b""),
        (b"/chat?room=1&x=?", "/chat", b"room=1&x=?"),
        (b"/%63hat", "/%63hat", b""),
        (b"/?", "/", b""),
        (b"//b.example/c?d", "//b.example/c", b"d"),
        (b"http://a.example", "/", b""),
        (b"http://a.example/", "/", b""),
        (b"HTTPS://a.example/chat?x=http://b/", "/chat", b"x=http://b/"),
        (b"http://a.example?x=/y", "/", b"x=/y"),
        (b"/http://a.example/?b", "/http://a.example/", b"b"),
        (b"*", "*", b""),
    ],
)
def test_path_and_query_of_every_form_of_target(target: bytes, path: str, query: bytes) -> None:
    head = Head("GET", target, (), 0)
    assert (head.path, head.query) == (path, query)


def test_headers_are_found_by_name_in_their_order() -> None:
    head = inspect(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=1\r\nCOOKIE: b=2\r\n\r\n")
    assert isinstance(head, Head)
    assert head.values(b"cookie") == [b"a=1", b"b=2"]
    assert head.values(b"accept") == []


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"http://a/b?c=d", b"/b?c=d"),
        (b"HTTPS://a:80/", b"/"),
        (b"http://a", b"/"),
        (b"http://a?c", b"/?c"),
        (b"/http://a/b", b"/http://a/b"),
        (b"*", b"*"),
        (b"a:443", b"a:443"),
    ],
)
def test_an_absolute_target_is_its_path(target: bytes, path: bytes) -> None:
    assert path_and_query(target) == path


# --- any bytes, any cuts ---


@given(near_valid_heads() | anything(), st.lists(st.integers(0, 400), max_size=6), st.binary(max_size=40))
@example(data=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", cuts=[24, 25, 26], more=b"\n")
def test_any_bytes_cut_anywhere_give_the_answer_of_the_whole(data: bytes, cuts: list[int], more: bytes) -> None:
    whole = inspect(data)
    if whole != NEED_MORE:
        assert inspect(data + more) == whole
    seen = 0
    for cut in sorted(cut for cut in cuts if cut < len(data)):
        verdict = inspect(data[:cut], DEFAULT_LIMITS, seen)
        assert verdict == inspect(data[:cut])
        if verdict != NEED_MORE:
            assert verdict == whole
            return
        seen = cut
    assert inspect(data, DEFAULT_LIMITS, seen) == whole


@given(near_valid_heads())
def test_small_limits_are_kept_however_the_bytes_come(data: bytes) -> None:
    limits = HeadLimits(max_bytes=60, max_headers=2)
    verdict = inspect(data, limits)
    assert read_along(data, 1, limits) == verdict
    assert read_along(data, 5, limits) == verdict
    if isinstance(verdict, Head):
        assert verdict.length <= 60
        assert len(verdict.headers) <= 2


# --- the work is linear, by counting it ---


class Counted(bytes):
    """Bytes that count how many of them are gone through, by each method that goes through them."""

    touched = 0

    def __getitem__(self, at: Any) -> Any:
        taken = super().__getitem__(at)
        if isinstance(taken, int):
            return taken
        Counted.touched += len(taken)
        return Counted(taken)

    def find(self, sub: Any, start: SupportsIndex | None = 0, end: SupportsIndex | None = None) -> int:
        first, last, _ = slice(start, end).indices(len(self))
        found = super().find(sub, first, last)
        Counted.touched += (found if found >= 0 else last) - first
        return found

    def rfind(self, sub: Any, start: SupportsIndex | None = 0, end: SupportsIndex | None = None) -> int:
        first, last, _ = slice(start, end).indices(len(self))
        found = super().rfind(sub, first, last)
        Counted.touched += last - (found if found >= 0 else first)
        return found

    def count(self, sub: Any, start: SupportsIndex | None = 0, end: SupportsIndex | None = None) -> int:
        Counted.touched += len(self)
        return super().count(sub, start, end)

    def translate(self, table: Any, /, delete: Any = b"") -> bytes:
        Counted.touched += len(self)
        return super().translate(table, delete)

    def split(self, sep: Any = None, maxsplit: SupportsIndex = -1) -> list[bytes]:
        Counted.touched += len(self)
        return [Counted(part) for part in super().split(sep, maxsplit)]

    def partition(self, sep: Any, /) -> tuple[bytes, bytes, bytes]:
        Counted.touched += len(self)
        before, found, after = super().partition(sep)
        return Counted(before), Counted(found), Counted(after)

    def removesuffix(self, suffix: Any, /) -> bytes:
        Counted.touched += len(self)
        return Counted(super().removesuffix(suffix))


@contextmanager
def counted_lines() -> Iterator[list[int]]:
    """Count the lines of Python that run, which is what a loop over bytes would show in."""
    lines = [0]

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename.endswith("first_bytes.py"):
            lines[0] += event == "line"
            return trace
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(before)


def work(data: bytes, step: int) -> tuple[int, int]:
    """Say how many bytes were touched and how many lines run until `data`, coming in steps, had its answer."""
    Counted.touched = 0
    whole, seen, limits = Counted(data), 0, HeadLimits(max_bytes=1 << 20, max_headers=1 << 20)
    with counted_lines() as lines:
        for cut in [*range(step, len(data), step), len(data)]:
            peeked = Counted(bytes(whole)[:cut])  # what the kernel copies for a peek is not ours to count
            if inspect(peeked, limits, seen) != NEED_MORE:
                break
            seen = cut
    return Counted.touched, lines[0]


HOSTILE: dict[str, Callable[[int], bytes]] = {
    "one long target": lambda n: b"GET /" + b"a" * n,
    "one long value": lambda n: b"GET / HTTP/1.1\r\nX: " + b"a" * n,
    "spaces": lambda n: b"GET / HTTP/1.1\r\nX:" + b" " * n,
    "spaces in the request line": lambda n: b"GET" + b" " * n,
    "many short headers": lambda n: b"GET / HTTP/1.1\r\n" + b"a:\r\n" * (n // 4),
    "a long target, short headers": lambda n: b"GET /" + b"a" * (n // 2) + b" HTTP/1.1\r\n" + b"a:\r\n" * (n // 8),
    "colons": lambda n: b"GET / HTTP/1.1\r\n" + b":" * n,
    "almost an end": lambda n: b"GET / HTTP/1.1\r\n" + b"a:b\r\n\r" * (n // 6),
    "slashes": lambda n: b"GET http://" + b"/" * n,
    "a valid head": lambda n: b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * (n // 6) + b"\r\n",
    "not HTTP": lambda n: b"\x00" * n,
    "TLS": lambda n: b"\x16\x03\x01\x02\x00\x01" + b"\r" * n,
}


@pytest.mark.parametrize("step", [1, 7, 1 << 20], ids=["byte by byte", "seven at a time", "whole"])
@pytest.mark.parametrize("name", HOSTILE)
def test_four_times_the_bytes_are_at_most_four_times_the_work(name: str, step: int) -> None:
    less_touched, fewer_lines = work(HOSTILE[name](1_500), step)
    touched, lines = work(HOSTILE[name](6_000), step)
    assert touched <= 4.1 * less_touched + 100
    assert lines <= 4.1 * fewer_lines + 100


def test_the_count_of_work_sees_what_is_quadratic() -> None:
    """Without `seen` each call goes through everything again. Were that not counted, the test above would be blind."""

    def touched(size: int) -> int:
        Counted.touched = 0
        for cut in range(size):
            inspect(Counted(HOSTILE["one long value"](size)[:cut]))
        return Counted.touched

    assert touched(1_000) > 10 * touched(250)
