"""
Inspects the first bytes of a connection: a request's head, a TLS ClientHello, too few bytes, or nothing to serve.

Pure: bytes in, a verdict out; no socket, no clock. Used in the primary for a connection's first bytes, and in workers
for each later head. The primary only peeks, and the worker's own parser reads the same bytes again. So there are two
readers of one message. This module refuses whatever two parsers could read differently, even where RFC 9112 lets a
server be lenient. What it accepts means the same to every parser: tests/sticky/test_agreement.py compares it with
httptools and websockets.

It knows which head is the handshake of a WebSocket, for no request comes after that. It never reads a body, never
decodes, and never guesses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """The largest head that is accepted. The defaults are near those of nginx and Node."""

    max_bytes: int = 16_384
    max_headers: int = 100


@dataclass(frozen=True, slots=True)
class Head:
    """A request's head: its request line and headers, and its length."""

    method: str
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    """In their order; names in lower case, values without the white space around them, otherwise as they came."""
    length: int
    """Bytes of the head, the blank line included. The body, if any, begins there."""
    version: str = "1.1"

    @property
    def path(self) -> str:
        """The path of the target, not percent-decoded: `/` where an absolute target has none, `*` for OPTIONS *."""
        path = self._path_and_query().partition(b"?")[0]
        return path.decode("ascii") or "/"

    @property
    def query(self) -> bytes:
        """What follows the first `?` of the target, or nothing."""
        return self._path_and_query().partition(b"?")[2]

    @property
    def authority(self) -> bytes:
        """The requested host, with its port if it has one: of an absolute target, else of the Host header."""
        found = _authority(self.target)
        return b"".join(self.values(b"host")[:1]) if found is None else found

    @property
    def is_upgrade(self) -> bool:
        """
        Whether a WebSocket begins behind this head.

        Any other offer to leave HTTP is ignored, and the request is one like others (RFC 9110, section 7.8).
        """
        return offers_websocket(self.headers)

    def values(self, name: bytes) -> list[bytes]:
        """Collect the values of all headers of that name, which you give in lower case."""
        return [value for key, value in self.headers if key == name]

    def _path_and_query(self) -> bytes:
        authority = _authority(self.target)
        if authority is None:
            return self.target
        scheme_end = self.target.index(b"://") + 3
        return self.target[scheme_end + len(authority) :]


@dataclass(frozen=True, slots=True)
class Refusal:
    """These bytes are not served. Answer with `status`, then close. `reason` may be shown to the client."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class NeedMore:
    """These bytes may still become a head. Call again when there are more."""


@dataclass(frozen=True, slots=True)
class TlsHello:
    """A TLS ClientHello begins here. The process that has the certificate reads it."""


NEED_MORE: Final = NeedMore()
TLS_HELLO: Final = TlsHello()

Verdict = Head | Refusal | NeedMore | TlsHello

DEFAULT_LIMITS: Final = HeadLimits()

# The methods of RFC 9110, 5789, WebDAV and friends that the workers' parser (llhttp) knows: another one would be
# refused there, and a table lets garbage be refused at its second or third byte. CONNECT is absent because what follows
# it is no HTTP, and this is an origin server, not a proxy.
_METHOD_NAMES: Final = (
    *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"),
    *("PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "SEARCH", "BIND", "REBIND", "UNBIND", "ACL"),
    *("REPORT", "CHECKOUT", "MERGE", "MKACTIVITY", "MKCALENDAR"),
    *("M-SEARCH", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE", "PURGE", "LINK", "UNLINK"),
)
_METHODS: Final = {name.encode("ascii"): name for name in _METHOD_NAMES}
_HTTP2_PREFACE_LINE: Final = b"PRI * HTTP/2.0"  # RFC 9113, section 3.4
_OPENINGS: Final = frozenset({*_METHODS, b"PRI"})
_BEGUN_OPENINGS: Final = frozenset(name[:cut] for name in _OPENINGS for cut in range(len(name) + 1))
_LONGEST_OPENING: Final = max(map(len, _OPENINGS))

_TLS_HANDSHAKE: Final = b"\x16"
_CR: Final = 0x0D

_LONGEST_LENGTH: Final = 18
"""Digits of a Content-Length: below an exabyte, so that no parser's integer overflows."""

_VERSIONS: Final = {b"HTTP/1.1": "1.1", b"HTTP/1.0": "1.0"}

_VISIBLE: Final = bytes(range(0x21, 0x7F))
_LETTERS_AND_DIGITS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
# Each is a set of bytes to delete with `bytes.translate`: what is left over is what does not belong.
_TEXT: Final = b"\t " + _VISIBLE + bytes(range(0x80, 0x100))  # field-vchar, obs-text, SP, HTAB: RFC 9110, section 5.5
TOKEN: Final = b"!#$%&'*+-.^_`|~" + _LETTERS_AND_DIGITS  # RFC 9110, section 5.6.2
_TARGET: Final = _VISIBLE.replace(b"#", b"")  # a fragment is never sent; some parsers cut it off and some do not
_HOST: Final = b"-._~%!$&'()*+;=:[]" + _LETTERS_AND_DIGITS  # RFC 3986 without the comma: a proxy may have joined two
# In an absolute target: what the workers' URL parser takes, which is less than RFC 3986 allows a host to be.
_PLAIN_AUTHORITY: Final = re.compile(rb"(?:[A-Za-z0-9._-]++|\[[0-9A-Fa-f:.]++\])(?::([0-9]{1,5}))?")

_NOT_HTTP: Final = Refusal(400, "these bytes do not begin an HTTP request")
_NOT_TLS: Final = Refusal(400, "these bytes do not begin an HTTP request nor a TLS handshake")
_CONTROL: Final = Refusal(400, "a control byte, or a CR or LF that does not end a line")
_REQUEST_LINE: Final = Refusal(400, "the request line is not: method, target and version, with one space between")
_TARGET_FORM: Final = Refusal(400, "the target is neither a path nor an http URL, or has a byte that neither can have")
_HTTP2: Final = Refusal(505, "HTTP/2 is not spoken on this port: use HTTP/1.1")
_VERSION: Final = Refusal(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
_HEADER_LINE: Final = Refusal(400, "a header line is not: name, colon and value, without space before the colon")
_FOLDED: Final = Refusal(400, "a header value is folded over two lines")
_TOO_MANY: Final = Refusal(431, "too many headers")
_TOO_LONG: Final = Refusal(431, "the head of the request is too long")
_HOST_COUNT: Final = Refusal(400, "a request names exactly one host")
_HOST_VALUE: Final = Refusal(400, "the host is not one")
_HOST_CONFLICT: Final = Refusal(400, "the target and the Host header name different hosts")
_HANDSHAKE: Final = Refusal(400, "a WebSocket begins with GET, by HTTP/1.1, and without a body")
_LENGTH_AND_CODING: Final = Refusal(400, "Content-Length and Transfer-Encoding together")
_LENGTH_VALUE: Final = Refusal(400, "Content-Length is not one plain number")
_CODING_VALUE: Final = Refusal(400, "Transfer-Encoding is something else than chunked, or the request is HTTP/1.0")


def inspect(data: bytes, limits: HeadLimits = DEFAULT_LIMITS, seen: int = 0) -> Verdict:
    """
    Return the verdict on the first bytes of a connection.

    You may call it with ever more of the same bytes, cut anywhere. A prefix answers `NEED_MORE` or what the whole
    answers; an answer other than `NEED_MORE` never changes with the bytes that follow. Each call is linear in `data`.
    With `seen`, all calls for one connection together are linear in its bytes.

    Empty lines before the request are refused, though RFC 9112 (2.2) tells a server to ignore one. The RFC means
    clients that end a POST with a stray CRLF, and no POST comes before a connection's first bytes. httptools skips such
    lines, websockets does not. Without them, one byte is enough to recognise garbage.

    Args:
        data: all that has come so far, from the connection's first byte.
        limits: how long a head may be. There is no need to hand in more than `limits.max_bytes`.
        seen: how many of these bytes an earlier call has answered with `NEED_MORE`; they are not examined again, and
            the answer is the same as without.
    """
    end = data.find(b"\r\n\r\n", max(seen - 3, 0), limits.max_bytes)
    if end < 0:
        return _inspect_begun(data, limits, seen)
    text = data[:end]
    head = _read(text, limits)
    if head is None:
        verdict = _inspect_opening(data) or _find_fault(data[: end + 2], limits)  # a TLS record may hold line ends
        assert verdict is not None, "the quick reading refuses what the careful one lets through"
        return verdict
    return _find_conflict(head, text) or head


def offers_websocket(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """
    Return whether a request offers to continue with the protocol `websocket` (RFC 6455, section 4.2.1).

    An offer counts only where Connection names it: else it was for another hop (RFC 9110, section 7.8).

    Args:
        headers: with names in lower case.
    """
    offered = connection = b""  # several lines of a list are one (RFC 9110, section 5.3)
    for name, value in headers:
        if name == b"upgrade":
            offered = offered + b"," + value if offered else value
        elif name == b"connection":
            connection = connection + b"," + value if connection else value
    return bool(offered) and _has_token(offered, b"websocket") and _has_token(connection, b"upgrade")


def handshake_fault(method: str, version: str, headers: Iterable[tuple[bytes, bytes]]) -> Refusal | None:
    """
    Return what prevents a request that offers WebSocket from being a handshake; None if nothing does.

    A handshake has no body, for two readers could disagree about the end of one.

    Args:
        headers: with names in lower case.
    """
    if method != "GET" or version != "1.1":
        return _HANDSHAKE
    for name, value in headers:
        if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            return _HANDSHAKE
    return None


def path_and_query(target: bytes) -> bytes:
    """Cut off what stands before the path of an absolute target (RFC 9112, section 3.2.2); another one is as it was."""
    authority = _authority(target)
    if authority is None:
        return target
    rest = target[target.index(b"://") + 3 + len(authority) :]
    return rest if rest[:1] == b"/" else b"/" + rest


def are_headers(lines: list[bytes]) -> bool:
    """Return whether each of these lines is a header that `inspect` accepts. Trailers of a body are headers too."""
    return not any(line.translate(None, _TEXT) or _find_header_fault(line) for line in lines)


def _has_token(value: bytes, token: bytes) -> bool:
    """Return whether a header that is a list of words in any case has this one (RFC 9110, section 5.6.1)."""
    words = value.lower()
    return words == token or token in [word.strip(b" \t") for word in words.split(b",")]


def _inspect_begun(data: bytes, limits: HeadLimits, seen: int) -> Verdict:
    """Inspect bytes in which no head has ended."""
    opening = _inspect_opening(data)
    if opening is not None:
        return opening
    if len(data) >= limits.max_bytes:
        return _find_fault(data[: limits.max_bytes], limits) or _TOO_LONG
    start = seen - 1 if seen and data[seen - 1] == _CR else seen  # a CR that was last may have its LF now
    fresh = data[start:-1] if data.endswith(b"\r") else data[start:]
    line_ends = fresh.count(b"\r\n")
    faulty = fresh.translate(None, _TEXT) != b"\r\n" * line_ends
    if faulty:
        return _find_fault(data, limits) or NEED_MORE
    # Is the request line whole by now, and not before? To look back costs the length of one line, so that all calls
    # together cost the length of all lines.
    if line_ends and data.rfind(b"\r\n", 0, start) < 0:
        return _find_request_line_fault(data[: data.find(b"\r\n")]) or NEED_MORE
    return NEED_MORE


def _inspect_opening(data: bytes) -> Refusal | NeedMore | TlsHello | None:
    """Inspect as many bytes as a method and a space have; None when they are that."""
    space = data.find(b" ", 0, _LONGEST_OPENING + 1)
    if space >= 0 and data[:space] in _OPENINGS:
        return None
    if data[:1] == _TLS_HANDSHAKE:
        return _inspect_tls(data)
    return NEED_MORE if data in _BEGUN_OPENINGS else _NOT_HTTP


def _inspect_tls(data: bytes) -> Refusal | NeedMore | TlsHello:
    """Inspect the header of a record and the first byte in it, knowing the very first (RFC 8446, sections 5.1, 4)."""
    if len(data) > 1 and data[1] != 3:  # the major version, 3 from SSL 3.0 to TLS 1.3
        return _NOT_TLS
    if len(data) > 2 and data[2] > 4:  # the minor one: 1 or 3 in a ClientHello, whatever comes after it
        return _NOT_TLS
    if len(data) > 4 and not 1 <= int.from_bytes(data[3:5], "big") <= 1 << 14:
        return _NOT_TLS
    if len(data) < 6:
        return NEED_MORE
    return TLS_HELLO if data[5] == 1 else _NOT_TLS


def _read(text: bytes, limits: HeadLimits) -> Head | None:
    """
    Read a whole head, up to its blank line, in as few passes as C can make of it. This is the primary's hot path.

    Return None if any line is wrong. `_find_fault` then finds the reason. Headers are not compared with each other.
    """
    lines = text.split(b"\r\n")
    line_ends = len(lines) - 1
    # As many CRs and LFs as line ends, alternating: then each belongs to one. Nothing else is left of the text.
    if line_ends > limits.max_headers or text.translate(None, _TEXT) != b"\r\n" * line_ends:
        return None
    names, values = [], []
    try:
        method_name, target, version_name = lines[0].split(b" ")
        for line in lines[1:]:
            name, value = line.split(b":", 1)
            names.append(name)
            values.append(value.strip(b" \t"))
    except ValueError:  # a part is missing, or there are too many
        return None
    all_names = b"\n".join(names)
    if b"" in names or all_names.translate(None, TOKEN) != b"\n" * (len(names) - 1):
        return None
    method, version = _METHODS.get(method_name), _VERSIONS.get(version_name)
    if method is None or version is None or not _is_target(method_name, target):
        return None
    headers = tuple(zip(all_names.lower().split(b"\n"), values, strict=False))  # no names still split into one: ""
    return Head(method, target, headers, len(text) + 4, version)


def _find_conflict(head: Head, text: bytes) -> Refusal | None:
    """Find headers that would let two parsers see different hosts, or different ends of the body."""
    names = [name for name, _ in head.headers]
    hosts = names.count(b"host")
    if hosts != 1 and (hosts or head.version == "1.1"):
        return _HOST_COUNT
    host = head.headers[names.index(b"host")][1] if hosts else b""
    if host.translate(None, _HOST):
        return _HOST_VALUE
    authority = _authority(head.target)
    if authority is not None:
        if authority.lower() != host.lower() if hosts else authority.translate(None, _HOST):
            return _HOST_CONFLICT
        plain = _PLAIN_AUTHORITY.fullmatch(authority)
        if plain is None or int(plain[1] or 0) > 0xFFFF:
            return _HOST_VALUE
    if b"upgrade" in names and head.is_upgrade:
        fault = handshake_fault(head.method, head.version, head.headers)
        if fault is not None:
            return fault
    has_length, has_coding = b"content-length" in names, b"transfer-encoding" in names
    if not has_length and not has_coding:
        return None
    if has_length and has_coding:
        return _LENGTH_AND_CODING
    if has_length:
        return None if _is_length(head.values(b"content-length")) else _LENGTH_VALUE
    codings = [value.lower() for value in head.values(b"transfer-encoding")]
    if codings != [b"chunked"] or head.version != "1.1":
        return _CODING_VALUE
    # A tab after the value is white space (RFC 9110, section 5.5), but to llhttp it makes another coding's name.
    lines = [line for line in text.split(b"\r\n") if line[: len(b"transfer-encoding")].lower() == b"transfer-encoding"]
    return _CODING_VALUE if any(b"\t" in line for line in lines) else None


def _is_length(values: list[bytes]) -> bool:
    """Return whether that is one number in its only spelling: parsers disagree on signs, zeros and repetitions."""
    if len(values) != 1 or not values[0].isdigit():
        return False
    return len(values[0]) <= _LONGEST_LENGTH and (values[0] == b"0" or values[0][:1] != b"0")


def _is_target(method: bytes, target: bytes) -> bool:
    """Return whether a target has origin-form, absolute-form or, for OPTIONS, asterisk-form (RFC 9112, 3.2)."""
    if target.translate(None, _TARGET):
        return False
    if target[:1] == b"/":
        return True
    return bool(_authority(target)) or (target == b"*" and method == b"OPTIONS")


def _authority(target: bytes) -> bytes | None:
    """Cut the host out of an absolute target, which clients send to proxies; None for any other target."""
    if target[:1] == b"/":
        return None
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        return None
    return rest.partition(b"?")[0].partition(b"/")[0]


def _find_fault(text: bytes, limits: HeadLimits) -> Refusal | NeedMore | TlsHello | None:
    """
    Find the first fault, line by line in the order of the bytes.

    Because of that order a prefix and the whole give the same answer: it depends on nothing behind the fault. A last
    line without its end is only searched for faults that no end could repair.
    """
    opening = _inspect_opening(text)
    if opening is not None:
        return opening
    *lines, rest = text.split(b"\r\n")
    for number, line in enumerate(lines):
        if line.translate(None, _TEXT):
            return _CONTROL
        if number > limits.max_headers:
            return _TOO_MANY
        fault = _find_header_fault(line) if number else _find_request_line_fault(line)
        if fault is not None:
            return fault
    return _CONTROL if rest.removesuffix(b"\r").translate(None, _TEXT) else None


def _find_request_line_fault(line: bytes) -> Refusal | None:
    if line == _HTTP2_PREFACE_LINE:
        return _HTTP2
    parts = line.split(b" ")
    if len(parts) != 3:
        return _REQUEST_LINE
    method, target, version = parts
    if version not in _VERSIONS:
        is_version = len(version) == 8 and version[:5] == b"HTTP/" and version[6:7] == b"."
        return _VERSION if is_version and (version[5:6] + version[7:]).isdigit() else _REQUEST_LINE
    if method not in _METHODS:
        return _NOT_HTTP
    return None if _is_target(method, target) else _TARGET_FORM


def _find_header_fault(line: bytes) -> Refusal | None:
    if line[:1] in (b" ", b"\t"):
        return _FOLDED
    name, colon, _ = line.partition(b":")
    return None if name and colon and not name.translate(None, TOKEN) else _HEADER_LINE
