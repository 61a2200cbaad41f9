"""
Answers connections that are not served, so that their clients see the answer.

Runs in the primary. Closing over unread bytes sends a reset, which can destroy an answer on its way; so what a refused
client still sends is read and dropped for a moment. Refused connections that linger so are bounded, and the first to go
where room is needed.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Final

from sticky.poller import EDGE, READ, Poller

LINGER_S: Final = 1.0
LINGER_BYTES: Final = 256 * 1024
LINGERING_MAX: Final = 256  # at once, and no more than an eighth of the descriptors; above it the first is closed

TOO_MANY: Final = "too many connections from this address"

_PHRASES: Final = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}
# A fatal alert, handshake_failure (RFC 8446 section 6): what a client that speaks TLS understands without a handshake.
_TLS_ALERT: Final = b"\x15\x03\x01\x00\x02\x02\x28"


class Refusals:
    """Refused connections, until they are closed."""

    def __init__(self, poller: Poller, *, descriptors: int, tls: bool) -> None:
        """
        Args:
            descriptors: this process's limit of open files.
            tls: clients speak TLS, so one of which nothing else is known gets an alert.
        """
        self._poller = poller
        self._most = min(LINGERING_MAX, max(descriptors // 8, 1))
        self._tls = tls
        self._lingering: dict[int, socket.socket] = {}  # in the order in which they were refused

    def answer(self, sock: socket.socket, status: int, reason: str) -> None:
        """Answer a connection and close it. Takes over the socket."""
        self._linger(sock, response(status, reason))

    def alert(self, sock: socket.socket) -> None:
        """Answer a connection whose client speaks TLS, and close it. Takes over the socket."""
        self._linger(sock, _TLS_ALERT)

    def answer_now(self, sock: socket.socket, status: int, reason: str) -> None:
        """Answer a connection and close it in this turn: its descriptor is needed. Takes over the socket."""
        with contextlib.suppress(OSError):
            sock.recv(65536, socket.MSG_DONTWAIT)
        with contextlib.suppress(OSError):
            sock.send(_TLS_ALERT if self._tls else response(status, reason), socket.MSG_DONTWAIT)
        sock.close()

    def let_go(self) -> bool:
        """Close the first that was refused. Return False when there is none."""
        first = next(iter(self._lingering.items()), None)
        if first is None:
            return False
        self._end(*first)
        return True

    def close(self) -> None:
        """Close all."""
        while self.let_go():
            pass

    def _linger(self, sock: socket.socket, answer: bytes) -> None:
        """Send the answer, then read and drop what is still under way."""
        try:
            sock.send(answer, socket.MSG_DONTWAIT)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            sock.close()
            return
        if len(self._lingering) >= self._most:
            self.let_go()
        fd = sock.fileno()
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
        if self._lingering.get(fd) is sock:
            del self._lingering[fd]
            self._poller.forget(fd)
            sock.close()


def response(status: int, reason: str) -> bytes:
    """Return a whole answer that ends its connection."""
    body = f"{reason}\n".encode()
    head = (
        f"HTTP/1.1 {status} {_PHRASES[status]}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
