"""
Cuts the bytes of a kept-alive connection into requests, so that each can be routed before it is served.

Pure, used in workers: bytes in, pieces out, and every byte comes out exactly once. A proxy puts the requests of many
clients on one connection. To find where a request begins, the one before must be followed to its end. A head is
inspected by `first_bytes.inspect`, as the primary does with the first one. A body is followed by its Content-Length or
its chunks (RFC 9112, sections 6 and 7.1). Both are stricter than a parser must be: what two readers could cut
differently is refused.

    BETWEEN ── head with a length ─▶ LENGTH ── all of it ──▶ BETWEEN
       ├────── head with chunks ───▶ CHUNK_LINE ⇄ CHUNK
       │                                  └─ size 0 ─▶ TRAILERS ── blank line ──▶ BETWEEN
       ├────── head without a body ▶ BETWEEN
       └────── handshake ──────────▶ OPEN;  from each state a refusal leads to OPEN too, with nothing pending

It decodes nothing and changes nothing: a piece has the bytes as they came.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from sticky.heads.first_bytes import DEFAULT_LIMITS, NEED_MORE, Head, HeadLimits, Refusal, are_headers, inspect

CHUNK_LINE_MAX: Final = 4096  # a chunk's size with its extensions, which no known client uses
TRAILERS_MAX: Final = 16_384

_SIZE_DIGITS: Final = b"0123456789abcdefABCDEF"
_CHUNK: Final = Refusal(400, "a chunk of the body does not begin with its size, or does not end where that says")
_TRAILERS: Final = Refusal(431, "the trailers of the request are too long")
_TRAILER_LINE: Final = Refusal(400, "a trailer of the request is not: name, colon and value")


@dataclass(frozen=True, slots=True)
class Begin:
    """A request begins. `data` is its head as it came."""

    head: Head
    data: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """More of the request that began last, or of what followed a handshake."""

    data: bytes


class BodyState(enum.Enum):
    """Where in a request the next byte stands."""

    BETWEEN = "between requests"
    LENGTH = "in a body of known length"
    CHUNK_LINE = "before a chunk's size"
    CHUNK = "in a chunk"
    TRAILERS = "in the trailers"
    OPEN = "no requests any more"  # a handshake, or refused


class Requests:
    """The bytes of one connection. `feed` them, then call `next` until it returns None."""

    __slots__ = ("_left", "_limits", "_pending", "_seen", "state")

    def __init__(self, limits: HeadLimits = DEFAULT_LIMITS) -> None:
        self.state = BodyState.BETWEEN
        self._limits = limits
        self._pending = b""
        self._seen = 0  # bytes of the head that were looked at before
        self._left = 0  # bytes of the body or chunk that are still to come

    @property
    def is_in_head(self) -> bool:
        """Whether a part of the next request's head has come that `next` has not returned."""
        return self.state is BodyState.BETWEEN and bool(self._pending)

    def feed(self, data: bytes) -> None:
        """Add what was read from the socket."""
        self._pending = self._pending + data if self._pending else data

    def rest(self) -> bytes:
        """Return what `next` has not returned yet. After that `next` has nothing."""
        rest, self._pending, self._seen = self._pending, b"", 0
        return rest

    def next(self) -> Begin | Part | Refusal | None:
        """
        Return the next piece, or None when more bytes must come first.

        After a `Refusal` close the connection, for the begin of another request is unknown. Close it as well after the
        `Begin` of a handshake (`Head.is_upgrade`), unless the connection becomes a WebSocket.
        """
        if not self._pending:
            return None
        if self.state is BodyState.BETWEEN:
            return self._begin()
        if self.state is BodyState.OPEN:
            return Part(self.rest())
        if self.state is BodyState.CHUNK_LINE:
            return self._chunk_line()
        if self.state is BodyState.TRAILERS:
            return self._trailers()
        assert self._left > 0, "a body or a chunk without bytes left has another state"
        part = self._cut(min(self._left, len(self._pending)))
        self._left -= len(part.data)
        if not self._left:
            self.state = BodyState.BETWEEN if self.state is BodyState.LENGTH else BodyState.CHUNK_LINE
        return part

    def _cut(self, size: int) -> Part:
        assert 0 < size <= len(self._pending), "a piece is never empty, and all of it has come"
        data, self._pending = self._pending[:size], self._pending[size:]
        return Part(data)

    def _begin(self) -> Begin | Refusal | None:
        """Cut a head, and find out how the body behind it ends: `inspect` has refused every head that is ambiguous."""
        if self._pending[0] in b"\r\n":  # some clients end a body by a line too many (RFC 9112, section 2.2)
            self._pending = self._pending.lstrip(b"\r\n")
        verdict = inspect(self._pending, self._limits, self._seen)
        if verdict is NEED_MORE:
            self._seen = len(self._pending)
            return None
        self._seen = 0
        if not isinstance(verdict, Head):
            return self._refuse(verdict if isinstance(verdict, Refusal) else Refusal(400, "no request begins here"))
        data = self._cut(verdict.length).data
        if verdict.is_upgrade:
            self.state = BodyState.OPEN
        elif verdict.values(b"transfer-encoding"):
            self.state = BodyState.CHUNK_LINE
        elif lengths := verdict.values(b"content-length"):
            assert lengths[0].isdigit(), "`inspect` has refused every other length"
            self._left = int(lengths[0])
            self.state = BodyState.LENGTH if self._left else BodyState.BETWEEN
        return Begin(verdict, data)

    def _chunk_line(self) -> Part | Refusal | None:
        """Cut the line with a chunk's size (RFC 9112, section 7.1). Only hexadecimal digits and a CRLF are accepted."""
        end = self._pending.find(b"\n")
        if end < 0:
            return self._refuse(_CHUNK) if len(self._pending) > CHUNK_LINE_MAX else None
        line = self._pending[:end]
        size, semicolon, _ = line.partition(b";")
        digits = size.rstrip(b" \t") if semicolon else size[:-1]
        if not line.endswith(b"\r") or not 0 < len(digits) <= 15 or digits.translate(None, _SIZE_DIGITS):
            return self._refuse(_CHUNK)
        if size_of_chunk := int(digits, 16):
            # The line end after the data belongs to the chunk: what is there instead is the parser's to refuse.
            self._left = size_of_chunk + 2
            assert self._left > 2, "the last chunk has no data, and leads to the trailers"
            self.state = BodyState.CHUNK
        else:
            self.state = BodyState.TRAILERS
        return self._cut(end + 1)

    def _trailers(self) -> Part | Refusal | None:
        """Cut everything up to the blank line that ends the body. Trailers are headers, and are checked like those."""
        if self._pending.startswith(b"\r\n"):
            self.state = BodyState.BETWEEN
            return self._cut(2)
        end = self._pending.find(b"\r\n\r\n")
        if end >= 0:
            if not are_headers(self._pending[:end].split(b"\r\n")):  # to h11, two bare LFs would end them
                return self._refuse(_TRAILER_LINE)
            self.state = BodyState.BETWEEN
            return self._cut(end + 4)
        return self._refuse(_TRAILERS) if len(self._pending) > TRAILERS_MAX else None

    def _refuse(self, refusal: Refusal) -> Refusal:
        """Drop what is pending: where it belongs is unknown, and it must never be served as a request."""
        self.state = BodyState.OPEN
        self._pending = b""
        return refusal
