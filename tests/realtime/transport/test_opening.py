"""
What is read of a request for a WebSocket: as much as the settings say, whatever websockets itself would read. And
headers that come in several lines.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.transport.handshake import Accepted, Admission, Refused, shake_hands
from realtime.transport.opening import merge, one_cookie, read_opening
from realtime.transport.peer import Peer
from sticky.heads.first_bytes import HeadLimits, Refusal
from tests.realtime.transport.test_handshake import head

LEAST = HeadLimits(max_bytes=1024, max_headers=10)
MOST = HeadLimits(max_bytes=65536, max_headers=1000)


def lines(count: int) -> str:
    """Fill a head with so many headers of its own."""
    return "a\r\n" + "".join(f"X-{at}: a\r\n" for at in range(count - 2)) + "X-Last: a"


def opens(request: bytes, limits: HeadLimits) -> str:
    opening = shake_hands(request, Peer("203.0.113.7"), Admission(), limits)
    if isinstance(opening, Accepted):
        return "101"
    assert isinstance(opening, Refused)
    return opening.answer.split(b" ")[1].decode()


@pytest.mark.parametrize("limits", [LEAST, HeadLimits(), MOST])
def test_a_head_may_be_as_long_as_the_limit_and_no_longer(limits: HeadLimits) -> None:
    room = limits.max_bytes - len(head(Cookie=""))
    assert opens(head(Cookie="v" * room), limits) == "101", "in one line"
    assert opens(head(Cookie="v" * (room + 1)), limits) == "431"


@pytest.mark.parametrize("limits", [LEAST, HeadLimits(), MOST])
def test_a_head_may_have_as_many_headers_as_the_limit_and_no_more(limits: HeadLimits) -> None:
    room = limits.max_headers - len(head().split(b"\r\n")[1:-2])
    assert opens(head(X=lines(room)), limits) == "101"
    assert opens(head(X=lines(room + 1)), limits) == "431"


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_whatever_the_bytes_are_it_is_a_request_or_a_refusal(before: bytes, within: bytes) -> None:
    for data in (before, before + head(), head()[:40] + within + head()[40:]):
        found = read_opening(data)
        assert isinstance(found, Refusal) or (found.path.startswith(("/", "http")) and b"\r\n\r\n" in data)


@pytest.mark.parametrize(
    ("cookies", "merged"),
    [
        (["a=1"], "a=1"),
        (["a=1", "b=2", "c=3"], "a=1; b=2; c=3"),
        (["a=1; b=2;", "c=3"], "a=1; b=2; c=3"),
        (["", "c=3"], "c=3"),
        (["a=1", ""], "a=1"),
    ],
)
def test_cookies_of_several_lines_are_divided_by_semicolons(cookies: list[str], merged: str) -> None:
    fields = [("Host", "h"), *(("Cookie", each) for each in cookies), ("X", "1"), ("x", "2")]
    assert merge(fields) == {"host": "h", "cookie": merged, "x": "1, 2"}
    raw = [(name.lower().encode(), value.encode()) for name, value in fields]
    others = [(b"host", b"h"), (b"x", b"1"), (b"x", b"2")]
    assert one_cookie(raw) == [others[0], (b"cookie", merged.encode()), *others[1:]]


def test_headers_without_a_second_cookie_are_the_same_list() -> None:
    raw = [(b"host", b"h"), (b"cookie", b"a=1; b=2")]
    assert one_cookie(raw) is raw
