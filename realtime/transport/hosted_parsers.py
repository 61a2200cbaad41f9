"""
The two parsers of hosted connections: httptools, which is C, and h11, which is Python.

Runs in the worker. Both parse the requests of one client after another; hosted.py decides what becomes of each. Neither
decides what an upgrade is: `sticky.heads.first_bytes` does.
"""

from __future__ import annotations

import asyncio
from typing import Final

import h11
import httptools

from realtime.transport.asgi_host import ASGIHost
from realtime.transport.guarded import GuardedH11, GuardedHttptools
from realtime.transport.hosted import BEHIND_MAX, Hosted
from realtime.transport.peer import Peer
from sticky.heads.first_bytes import offers_websocket, path_and_query


class HostedHttptools(Hosted, GuardedHttptools):
    """
    Parsed by httptools, which is C.

    It stops at the head of every request that offers to leave HTTP, and does not read that request's body: `feed_data`
    raises `HttpParserUpgrade`, with the place where the head ends. A request that stays HTTP is then read once more by
    a new parser, to which the offer is not shown.
    """

    def __init__(self, host: ASGIHost, peer: Peer, received: bytes) -> None:
        super().__init__(host, peer, received)
        self._reread: list[tuple[bytes, bytes]] | None = None  # all headers of the request that is read once more

    def _feed_parser(self, data: bytes) -> None:
        if self._ending is not None:
            self._hold(data)
            return
        self._unset_keepalive_if_required()
        rest = memoryview(data)
        while rest:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as offer:
                rest = rest[offer.args[0] :]
            except httptools.HttpParserError:
                self._refuse_unread()
                return
            headers = self.scope["headers"]
            if self.scope["method"] == "CONNECT" or offers_websocket(headers):
                self._end_http(self.url, headers, bytes(rest))
                return
            try:
                self._read_again(headers)
            except httptools.HttpParserError:
                self._refuse_unread()
                return

    def _parse_on(self) -> None:
        super()._parse_on()
        if not self._handed_on and not self.transport.is_closing():
            self.watch_head()  # what was parsed now may have ended within one

    def _read_again(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Have the head that was read last, with these headers, read as that of a request which stays HTTP."""
        scope = self.scope
        head = [scope["method"].encode(), b" ", self.url, b" HTTP/", scope["http_version"].encode(), b"\r\n"]
        for name, value in headers:
            if name != b"upgrade":
                head += [name, b": ", value, b"\r\n"]
        self._reread = headers
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        self.parser.feed_data(b"".join([*head, b"\r\n"]))

    def _hold(self, data: bytes) -> None:
        """Keep what came behind a handshake that waits for the answers before it."""
        self._behind += data
        if len(self._behind) > BEHIND_MAX:
            self.transport.abort()
        else:
            self.flow.pause_reading()

    def _refuse_unread(self) -> None:
        self.send_400_response("Invalid HTTP request received.")

    # Called by the parser

    def _should_upgrade(self) -> bool:
        """Say that no request begins here yet. Asked only of a head that has an offer."""
        return True

    def on_headers_complete(self) -> None:
        if self._reread is not None:
            self.headers[:], self._reread = self._reread, None  # the application sees what the client has sent
        self.url = path_and_query(self.url)
        super().on_headers_complete()
        self.headers = []  # where trailers go: they are no headers (RFC 9110, section 6.5.1)


class HostedH11(Hosted, GuardedH11):
    """Parsed by h11, which is Python: slower, and stricter in places."""

    def _should_upgrade(self) -> bool:
        """Say whether the request whose head was read ends HTTP, one way or the other. The other: CONNECT."""
        return self.scope["method"] == "CONNECT" or offers_websocket(self.headers)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._end_http(path_and_query(bytes(event.target)), self.headers, self.conn.trailing_data[0])


PARSERS: Final[dict[str, type[Hosted]]] = {"httptools": HostedHttptools, "h11": HostedH11}


def hosted_protocol(host: ASGIHost, peer: Peer, received: bytes = b"") -> asyncio.Protocol:
    """
    Return the protocol for one adopted descriptor, by the host's parser.

    Args:
        received: bytes that were taken from the descriptor already; they are read first.
    """
    return PARSERS[host.parser](host, peer, received)
