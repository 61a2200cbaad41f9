"""
Answers connections that are not served, so that their clients see the answer.

Runs in the primary, for the acceptor and the dispatcher. A close over unread bytes sends a reset, which can destroy an
answer on its way. So this module reads and drops, for a moment, what a refused client still sends. The number of
refused connections that linger so is bounded, and the oldest is closed when room is needed.

It counts each refusal under a name. It never decides whether a connection is refused.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from typing import Final

from sticky.loop.log_throttle import LogThrottle
from sticky.loop.poller import EDGE, READ, Poller

LINGER_S: Final = 1.0  # one round trip to any place on earth, and a retransmission
LINGER_BYTES: Final = 256 * 1024  # the rest of a usual request; a client that sends more gets a reset
LINGERING_MAX: Final = 256  # at once, and no more than an eighth of the descriptors; above it the oldest is closed

TOO_MANY: Final = "too many connections from this address"
TOO_MANY_LINE: Final = (
    'connection refused peer=%s connections=%d left_out=%d reason="too many connections from its address"'
)

# Every status that `first_bytes`, the acceptor and the dispatcher refuse with.
_PHRASES: Final = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}
# A fatal alert, handshake_failure (RFC 8446 section 6): what a client that speaks TLS understands without a handshake.
_TLS_ALERT: Final = b"\x15\x03\x01\x00\x02\x02\x28"

logger = logging.getLogger("sticky")


class Refusals:
    """Refused connections, until they are closed. It owns the sockets that it gets."""

    def __init__(self, poller: Poller, *, descriptors: int, tls: bool, counters: dict[str, int]) -> None:
        """
        Args:
            descriptors: how many files this process may have open.
            tls: whether clients speak TLS. Then a client whose first bytes are unknown gets an alert.
            counters: where each refusal is counted.
        """
        self._poller = poller
        self._most = min(LINGERING_MAX, max(descriptors // 8, 1))
        self._tls = tls
        self._counters = counters
        self._lingering: dict[int, socket.socket] = {}  # by descriptor, in the order of their refusals
        self._too_many_line = LogThrottle()

    def refuse(self, sock: socket.socket, status: int, reason: str, count: str) -> None:
        """Answer a connection by HTTP, count it and close it. You give up the socket."""
        self._counters[count] += 1
        self._linger(sock, response(status, reason))

    def answer(self, sock: socket.socket, response: bytes, count: str) -> None:
        """Answer a connection with a whole response, count it and close it. You give up the socket."""
        self._counters[count] += 1
        self._linger(sock, response)

    def alert(self, sock: socket.socket, count: str) -> None:
        """Answer a connection whose client speaks TLS, count it and close it. You give up the socket."""
        self._counters[count] += 1
        self._linger(sock, _TLS_ALERT)

    def refuse_now(self, sock: socket.socket, status: int, reason: str, count: str) -> None:
        """
        Answer a connection and close it before this returns, for its descriptor is needed.

        Bytes that come later can still destroy the answer. That is the price: a connection that lingers would keep the
        descriptor.
        """
        self._counters[count] += 1
        with contextlib.suppress(OSError):
            sock.recv(65536, socket.MSG_DONTWAIT)
        with contextlib.suppress(OSError):
            sock.send(_TLS_ALERT if self._tls else response(status, reason), socket.MSG_DONTWAIT)
        sock.close()

    def log_too_many(self, peer_address: str, connections: int) -> None:
        """Log that an address is refused for the connections it has already, at most once a second."""
        left_out = self._too_many_line.due(self._poller.now())
        if left_out is not None:
            logger.warning(TOO_MANY_LINE, peer_address, connections, left_out)

    def close_oldest(self) -> bool:
        """Close the connection that lingers longest. Return False when there is none."""
        oldest = next(iter(self._lingering.items()), None)
        if oldest is None:
            return False
        self._end(*oldest)
        return True

    def close(self) -> None:
        """Close every connection that lingers."""
        while self.close_oldest():
            pass
        assert not self._lingering, "each was closed, and its timer finds nothing"

    @property
    def lingering(self) -> int:
        """How many refused connections are not closed yet."""
        return len(self._lingering)

    def _linger(self, sock: socket.socket, answer: bytes) -> None:
        """Send the answer, then read and drop what the client still sends: until its end, a limit, or `LINGER_S`."""
        try:
            sock.send(answer, socket.MSG_DONTWAIT)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            sock.close()
            return
        if len(self._lingering) >= self._most:
            self.close_oldest()
        fd = sock.fileno()
        assert len(self._lingering) < self._most, "refused clients never take the descriptors of others"
        assert fd not in self._lingering, "a descriptor leaves the table before it is closed"
        self._lingering[fd] = sock
        left = LINGER_BYTES

        def drop(events: int = 0) -> None:
            nonlocal left
            while left > 0:
                try:
                    size = len(sock.recv(65536, socket.MSG_DONTWAIT))
                except BlockingIOError:
                    return
                except OSError:
                    break
                if not size:
                    break
                left -= size
            self._end(fd, sock)

        self._poller.watch(fd, READ | EDGE, drop, on_failed=lambda: self._end(fd, sock))
        self._poller.after(LINGER_S, lambda: self._end(fd, sock))
        drop()

    def _end(self, fd: int, sock: socket.socket) -> None:
        """Close a connection, unless that is done: its number may be another connection's by now."""
        if self._lingering.get(fd) is sock:
            del self._lingering[fd]
            self._poller.forget(fd)
            sock.close()


def response(status: int, reason: str) -> bytes:
    """Return a whole HTTP response that ends its connection."""
    assert status in _PHRASES, "a status that this package refuses with has a phrase"
    body = f"{reason}\n".encode()
    head = (
        f"HTTP/1.1 {status} {_PHRASES[status]}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
