"""
The head of a request for a WebSocket, as websockets takes it.

Pure. websockets has limits of its own for what it reads: 8 KiB a line and 128 headers. Ours are settings, so the head
is read here, by the rules that the primary has (`sticky.heads.first_bytes`), and websockets gets what was read: its
`ServerProtocol` checks the request and never sees the head's bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.server import ServerProtocol

from sticky.heads.first_bytes import DEFAULT_LIMITS, Head, HeadLimits, Refusal, inspect

STAND_IN: Final = b"GET / HTTP/1.1\r\n\r\n"  # the shortest head; nothing looks at what it says

_NO_REQUEST: Final = Refusal(400, "this is no request for a WebSocket")
_METHOD: Final = Refusal(400, "a WebSocket begins with GET")
_VERSION: Final = Refusal(400, "a WebSocket begins with HTTP/1.1")
_BODY: Final = Refusal(400, "a request for a WebSocket has no body")


def read_opening(head: bytes, limits: HeadLimits = DEFAULT_LIMITS) -> Request | Refusal:
    """
    Read the head of a request for a WebSocket.

    Args:
        head: up to its blank line, which is included; nothing after it.
        limits: what a head may have.

    Returns:
        The request; or why it cannot be one, with the HTTP status of the answer (RFC 6455, section 4.2.1).
    """
    verdict = inspect(head, limits)
    if isinstance(verdict, Refusal):
        return verdict if verdict.status == 431 else Refusal(400, verdict.reason)
    if not isinstance(verdict, Head) or verdict.length != len(head):
        return _NO_REQUEST
    if verdict.method != "GET":
        return _METHOD
    if verdict.version != "1.1":
        return _VERSION
    if verdict.values(b"transfer-encoding") or any(each != b"0" for each in verdict.values(b"content-length")):
        return _BODY
    return request_of(verdict.target, verdict.headers)


def request_of(target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Request:
    """Return a GET of HTTP/1.1 as websockets has it. Values are Latin-1: each byte is one character."""
    fields = Headers()
    for name, value in headers:
        fields[name.decode("ascii")] = value.decode("latin-1")
    return Request(target.decode("ascii"), fields)


def skip_head(ws_protocol: ServerProtocol) -> None:
    """Have `ws_protocol` take the head for read: what it gets next are frames, and `accept` gets the `Request`."""
    ws_protocol.receive_data(STAND_IN)
    ws_protocol.events_received()


# Headers as a mapping


def merge(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """
    Return headers by their names in lower case. What comes in several lines is one list, with commas (RFC 9110,
    section 5.3). Cookies are divided by semicolons; a proxy may have them from as many lines of HTTP/2 (RFC 9113,
    section 8.2.3).
    """
    headers: dict[str, str] = {}
    for name, value in fields:
        name = name.lower()
        if name not in headers:
            headers[name] = value
        elif name == "cookie":
            headers[name] = "; ".join(filter(None, (headers[name].rstrip("; "), value)))
        else:
            headers[name] = f"{headers[name]}, {value}"
    return headers


def one_cookie(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """
    Return the headers of a scope with all cookies in one line, where the first of them was: a framework that looks for
    the header finds one. The names are in lower case.
    """
    at = [at for at, (name, _) in enumerate(headers) if name == b"cookie"]
    if len(at) < 2:
        return headers
    cookies = [headers[each][1].rstrip(b"; ") for each in at]
    rest = [each for each in headers[at[0] :] if each[0] != b"cookie"]
    return [*headers[: at[0]], (b"cookie", b"; ".join(filter(None, cookies))), *rest]
