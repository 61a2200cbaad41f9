"""Hypothesis strategies for what comes first on a connection: heads that are almost or quite valid, and anything."""

from __future__ import annotations

from hypothesis import strategies as st

METHODS = [b"POST", b"OPTIONS", b"M-SEARCH", b"PRI", b"CONNECT", b"GE", b"GETX", b"get", b"", b"G\x00T"]
TARGETS = [
    *(
        b"/",
        b"/a?b=c",
        b"//a/b",
        b"/%2F?x=/",
        b"*",
        b"http://a/",
        b"http://a",
        b"HTTP://A?x",
        b"http://b/",
        b"http:///",
    ),
    *(b"", b"a", b"/#x", b"/\xff", b"/ x", b"/\t", b"/\\", b"ftp://a/", b"http://u@a/", b"https://[::1]:80/x"),
]
VERSIONS = [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"http/1.1", b"HTTP/1.1 ", b"", b"RTSP/1.0"]
LINE_ENDS = [b"\n", b"\r", b"\r\r\n", b"\r\n ", b"\r\n\t", b""]
SEPARATORS = [b": ", b":", b":  ", b":\t", b" : ", b"", b"\t:", b"::"]
HEADERS = [
    *((b"Host", b"a"), (b"HOST", b"A"), (b"host", b"b"), (b"Host", b""), (b"Host", b"a, b"), (b"Host", b"[::1]:80")),
    *((b"Content-Length", b"0"), (b"content-length", b"5"), (b"Content-Length", b"5, 5"), (b"Content-Length", b"+5")),
    *((b"Content-Length", b"05"), (b"Content-Length", b""), (b"Content-Length", b"99999999999999999999")),
    *((b"Transfer-Encoding", b"chunked"), (b"transfer-encoding", b"CHUNKED"), (b"Transfer-Encoding", b"gzip, chunked")),
    *((b"Transfer-Encoding", b"identity"), (b"Transfer-Encoding", b""), (b"Transfer-Encoding", b"chunked;a=b")),
    *((b"Connection", b"Upgrade"), (b"Connection", b"keep-alive, upgrade"), (b"Connection", b"close")),
    *((b"Connection", b""), (b"Upgrade", b"websocket"), (b"Upgrade", b""), (b"Upgrade", b"h2c")),
    *((b"Upgrade", b"h2c, websocket"), (b"upgrade", b"WebSocket,"), (b"Connection", b"x,Upgrade , y")),
    *((b"Proxy-Connection", b"upgrade"), (b"X", b"a\tb"), (b"X", b"\xc3\xbc"), (b"X", b"a\x00b"), (b"X", b"a\x7f")),
    *((b"X Y", b"a"), (b"", b"a"), (b"X\xc3", b"a"), (b"Cookie", b'a="b; rt_session=c"'), (b"Expect", b"100-continue")),
]


def mostly(valid: bytes, others: list[bytes]) -> st.SearchStrategy[bytes]:
    """Draw the valid one twelve times as often as all others, so that half of the heads have no fault or one."""
    return st.sampled_from([valid] * (12 * len(others)) + others)


@st.composite
def near_valid_heads(draw: st.DrawFn) -> bytes:
    """Draw a head whose parts are mostly valid, so that many heads are, and the others not for one reason or two."""
    line_end = mostly(b"\r\n", LINE_ENDS)
    head = draw(mostly(b"GET", METHODS)) + b" " + draw(mostly(b"/", TARGETS))
    head += b" " + draw(mostly(b"HTTP/1.1", VERSIONS)) + draw(line_end)
    if draw(st.sampled_from([True] * 9 + [False])):
        head += b"Host: a\r\n"
    for name, value in draw(st.lists(st.sampled_from(HEADERS), max_size=3)):
        head += name + draw(mostly(b": ", SEPARATORS)) + value + draw(mostly(b"", [b" ", b"\t"])) + draw(line_end)
    return head + draw(line_end) + draw(st.sampled_from([b"", b"", b"body", b"\r\n"]))


def anything() -> st.SearchStrategy[bytes]:
    """Draw any bytes, or those that mean something to a parser, in any order."""
    words = [b"GET ", b"/", b" HTTP/1.1", b"Host: a", b"\x16\x03\x01"]
    pieces = [*words, b"\r\n", b"\r", b"\n", b" ", b"\t", b":", b"\x00", b"a"]
    return st.binary(max_size=200) | st.lists(st.sampled_from(pieces), max_size=20).map(b"".join)
