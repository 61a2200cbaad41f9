"""
Sequences of requests for one connection, generated: with bodies, chunks, and offers to leave HTTP that nobody takes up.

Every request says in its path which one it is, and has a client address and a session of its own. Bodies look like
requests where they can: a reader that loses its place then serves one that nobody sent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import strategies as st

H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
OFFERS = (
    H2C,
    "Upgrade: h2c\r\nconnection: keep-alive\r\nConnection: UPGRADE\r\n",
    "Connection: upgrade\r\nUpgrade: TLS/1.3,, irc/6.9\r\n",
    "Connection: upgrade\r\nUpgrade: websocket/14, websockets\r\n",
    "Connection: upgrade\r\nUpgrade:\r\n",
    "Connection: Upgrade\r\n",
    "Upgrade: websocket\r\n",  # not named in Connection: it was for another hop
)
WEBSOCKET = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
KEY = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
SECRET_REQUEST = b"GET /r/secret HTTP/1.1\r\nHost: h\r\n\r\n"  # served by nobody who reads aright


@dataclass(frozen=True)
class Request:
    """One request, as it is sent, and as it has to be seen."""

    number: int
    method: str = "GET"
    version: str = "1.1"
    offer: str = ""
    body: bytes = b""
    chunks: tuple[int, ...] | None = None
    """Sizes of the chunks but the last, for a body that has no length."""
    extension: str = ""
    trailers: str = ""
    client: int | None = None
    session: str | None = None

    @property
    def path(self) -> str:
        return f"/r/{self.number}"

    @property
    def address(self) -> str | None:
        """The client's address, as the proxy says."""
        return None if self.client is None else f"203.0.113.{self.client}"

    @property
    def data(self) -> bytes:
        head = f"{self.method} {self.path} HTTP/{self.version}\r\nHost: h\r\n{self.offer}"
        if self.client is not None:
            head += f"X-Forwarded-For: {self.address}\r\n"
        if self.session is not None:
            head += f"Cookie: rt_session={self.session}\r\n"
        if self.chunks is not None:
            return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + self._chunked()
        if self.body:
            head += f"Content-Length: {len(self.body)}\r\n"
        return f"{head}\r\n".encode() + self.body

    def _chunked(self) -> bytes:
        parts, at = [], 0
        for size in [*(self.chunks or ()), len(self.body)]:
            if part := self.body[at : at + size]:
                parts.append(b"%X%b\r\n%b\r\n" % (len(part), self.extension.encode(), part))
            at += size
        return b"".join([*parts, b"0\r\n", self.trailers.encode(), b"\r\n"])


BODIES = st.sampled_from(
    [b"hello", b"\r\n", b"0\r\n\r\n", SECRET_REQUEST, SECRET_REQUEST * 3, b"5\r\n" + SECRET_REQUEST, bytes(70_000)]
) | st.binary(min_size=1, max_size=40)


@st.composite
def requests(draw: st.DrawFn, number: int, sessions: tuple[str, ...], clients: int) -> Request:
    """Draw one request. `sessions`: of which each request has one, or none."""
    offer = draw(st.sampled_from(("", "", *OFFERS)))
    client = draw(st.integers(1, clients)) if clients else None
    session = draw(st.sampled_from((None, *sessions)))
    made = Request(number, offer=offer, client=client, session=session)
    if draw(st.booleans()):
        return made
    made = replace(made, method=draw(st.sampled_from(["POST", "PUT", "GET"])), body=draw(BODIES))
    if draw(st.booleans()):
        return made
    return replace(
        made,
        chunks=tuple(draw(st.lists(st.integers(1, 9), max_size=3))),
        extension=draw(st.sampled_from(["", "", ";name", ';a="b"'])),
        trailers=draw(
            st.sampled_from(["", "", "Digest: 1\r\n", "X-Forwarded-For: 192.0.2.99\r\nCookie: rt_session=x\r\n"])
        ),
    )


@st.composite
def sequences(
    draw: st.DrawFn, *, sessions: tuple[str, ...] = ("ada", "bela"), clients: int = 3, size: int = 6
) -> list[Request]:
    """Draw some requests for one connection."""
    count = draw(st.integers(1, size))
    return [draw(requests(number, sessions, clients)) for number in range(count)]


def faulty_handshakes(number: int, client: int | None = None) -> list[Request]:
    """Make requests that name WebSocket and are no handshakes: each has to get 400, and nothing comes after it."""
    offer = f"Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n{KEY}"
    made = Request(number, offer=offer, client=client)
    return [
        replace(made, method="POST"),
        replace(made, method="HEAD"),
        replace(made, version="1.0"),
        replace(made, body=SECRET_REQUEST),
        replace(made, method="POST", body=SECRET_REQUEST),
        replace(made, chunks=(), body=SECRET_REQUEST),
        replace(made, chunks=()),
    ]


def handshake(number: int, client: int | None = None, session: str | None = None, offer: str = WEBSOCKET) -> Request:
    """Make a request for a WebSocket."""
    return Request(number, offer=offer + KEY, client=client, session=session)
