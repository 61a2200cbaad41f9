"""
Accepts connections and waits for their first bytes, without reading them.

Runs in the primary. A new connection is peeked at (`MSG_PEEK`, edge-triggered): its bytes stay in the kernel for the
worker. Each has to say something whole within the handshake's time and the head's size; what does not is answered and
closed, and counted under its name. A thousand silent connections cost a thousand heap entries and no processor time.
This file decides who a connection is (`Affinity`) but not where it goes: it makes a `Parcel` for the dispatcher.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Final

from sticky import proxy_header
from sticky.affinity import UNIX_PEER, Affinity, Sticky
from sticky.first_bytes import NEED_MORE, TLS_HELLO, Head, HeadLimits, Refusal, inspect
from sticky.handoff import Parcel
from sticky.hashing import Hashing, SessionId
from sticky.poller import EDGE, HANGUP, READ, Poller, Timer

BATCH: Final = 64  # connections accepted in one round
REST_S: Final = 0.1  # of a listener, when descriptors have run out
LINGER_S: Final = 1.0  # how long what a refused client still sends is read and dropped, so that it sees the answer
LINGER_BYTES: Final = 256 * 1024
PROXY_MAX: Final = 4096

_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PEEK: Final = socket.MSG_PEEK | socket.MSG_DONTWAIT
_PHRASES: Final = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}
# A fatal alert, handshake_failure (RFC 8446 section 6): what a client that speaks TLS to a plain port understands.
_TLS_ALERT: Final = b"\x15\x03\x01\x00\x02\x02\x28"

logger = logging.getLogger("sticky")


class Arrival:
    """A connection that has not said yet what it wants."""

    __slots__ = ("client", "expects_proxy", "peer", "port", "seen", "sock", "timer")

    def __init__(self, sock: socket.socket, peer: str, port: int, *, expects_proxy: bool) -> None:
        self.sock = sock
        self.peer = peer
        self.port = port
        self.expects_proxy = expects_proxy
        self.seen = 0
        self.timer: Timer | None = None


class Door:
    """Listeners, and the arrivals that came through them."""

    def __init__(
        self,
        poller: Poller,
        affinity: Affinity,
        hashing: Hashing,
        *,
        limits: HeadLimits,
        handshake_s: float,
        expects_proxy: bool,
        tls: bool,
        raw: bool,
        deliver: Callable[[Parcel], None],
        counters: dict[str, int],
    ) -> None:
        self._poller = poller
        self._affinity = affinity
        self._hashing = hashing
        self._limits = limits
        self._handshake_s = handshake_s
        self._expects_proxy = expects_proxy
        self._tls = tls
        self._raw = raw
        self._deliver = deliver
        self._counters = counters
        self._listeners: list[socket.socket] = []
        self._arrivals: dict[int, Arrival] = {}
        self._lingering: dict[int, socket.socket] = {}
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    # Listening

    def open(self, listeners: list[socket.socket], backlog: int) -> None:
        """Begin to accept. The door owns the listeners from here on."""
        self._listeners = listeners
        for listener in listeners:
            listener.setblocking(False)
            if listener.family != socket.AF_UNIX:
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what it accepts has it as well
            listener.listen(backlog)
            self._watch(listener)

    def _watch(self, listener: socket.socket) -> None:
        self._poller.watch(listener.fileno(), READ, lambda events: self._accept(listener))

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(BATCH):
            try:
                sock, address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_DESCRIPTORS:
                    self._rest(listener, error)
                    return
                continue  # the client is gone already (ECONNABORTED and its kin, accept(2))
            self._counters["accepted"] += 1
            self._arrive(sock, address)

    def _rest(self, listener: socket.socket, error: OSError) -> None:
        """Answer one connection by the spare descriptor, and let the listener be for a while."""
        self._counters["out_of_descriptors"] += 1
        if self._counters["out_of_descriptors"] == 1:
            logger.error(
                "! out of descriptors (%s): raise the limit of open files; others are served on", error.strerror
            )
        os.close(self._spare)
        with contextlib.suppress(OSError):
            sock, _ = listener.accept()
            with sock:
                self._answer(sock, 503, "out of descriptors")
        with contextlib.suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._poller.forget(listener.fileno())
        self._poller.after(REST_S, lambda: self._watch(listener) if listener in self._listeners else None)

    def _arrive(self, sock: socket.socket, address: object) -> None:
        if isinstance(address, tuple):
            peer, port = address[0], address[1]
        else:
            peer, port = UNIX_PEER, 0
        expects_proxy = self._expects_proxy and self._affinity.trusts(peer)
        arrival = Arrival(sock, peer, port, expects_proxy=expects_proxy)
        if self._look(arrival):
            return  # what it wants was there with it: the usual case under load
        fd = sock.fileno()
        self._arrivals[fd] = arrival
        arrival.timer = self._poller.after(self._handshake_s, lambda: self._too_late(arrival))
        self._poller.watch(fd, READ | EDGE, lambda events: self._look(arrival, events))  # tells what is there already

    def _look(self, arrival: Arrival, events: int = 0) -> bool:
        """Peek, and settle the arrival if it can be. Return whether it is settled."""
        if self._raw:
            self._settle(arrival, None)
            return True
        wanted = PROXY_MAX if arrival.expects_proxy else self._limits.max_bytes + 1
        try:
            data = arrival.sock.recv(wanted, _PEEK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if len(data) == arrival.seen:
            # Nothing new. The peer is gone, or has said its last; else the same bytes were told of twice.
            return self._ended(arrival) if not data or events & HANGUP else False
        if arrival.expects_proxy:
            return self._look_for_proxy(arrival, data)
        verdict = inspect(data, self._limits, arrival.seen)
        if verdict is NEED_MORE:
            arrival.seen = len(data)
            return False
        if isinstance(verdict, Head) and self._tls:
            self._refuse(arrival, 400, "this port speaks TLS: use https://", "refused_not_tls")
        elif isinstance(verdict, Head):
            self._settle(arrival, verdict)
        elif verdict is TLS_HELLO:
            self._settle_tls(arrival)
        else:
            assert isinstance(verdict, Refusal), "there is no other verdict"
            self._refuse(arrival, verdict.status, verdict.reason, f"refused_{verdict.status}")
        return True

    def _look_for_proxy(self, arrival: Arrival, data: bytes) -> bool:
        verdict = proxy_header.parse(data)
        if verdict is NEED_MORE:
            arrival.seen = len(data)
            return False
        if isinstance(verdict, Refusal):
            self._refuse(arrival, verdict.status, verdict.reason, "refused_proxy_header")
            return True
        assert isinstance(verdict, proxy_header.ProxyHeader), "there is no other verdict"
        arrival.sock.recv(verdict.length, socket.MSG_DONTWAIT)  # the one thing that is consumed
        arrival.expects_proxy = False
        arrival.seen = 0
        if verdict.client is not None:
            arrival.peer, arrival.port = verdict.client, verdict.client_port
        return self._look(arrival)

    def _ended(self, arrival: Arrival) -> bool:
        self._counters["gone_before_head"] += 1
        self._forget(arrival)
        arrival.sock.close()
        return True

    # Settling

    def _settle(self, arrival: Arrival, head: Head | None) -> None:
        self._forget(arrival)
        self._deliver(self._parcel(arrival.sock, arrival.peer, arrival.port, head))

    def take_back(self, sock: socket.socket, peer: str, port: int, received: bytes) -> None:
        """
        Take a connection from a worker to which its next request does not belong. Takes over the socket.

        Args:
            peer: as the worker was told of it.
            port: the peer's.
            received: what the worker has read of the request, its whole head at least.
        """
        self._counters["given_back"] += 1
        head = inspect(received, self._limits)
        if not isinstance(head, Head) or not self._listeners:
            self.refuse(sock, 503, "shutting down", "refused_stopping")
            return
        parcel = self._parcel(sock, peer, port, head)
        parcel.received = received
        parcel.reason = "moved"
        self._deliver(parcel)

    def _parcel(self, sock: socket.socket, peer: str, port: int, head: Head | None) -> Parcel:
        """Find out everything that decides where a connection goes."""
        client = self._affinity.client_of(peer, head)
        parcel = Parcel(sock, peer, client, port if client == peer else 0)
        if head is None:
            parcel.kind = "raw"
        else:
            parcel.method, parcel.path, parcel.upgrade = head.method, head.path, head.is_upgrade
            if self._affinity.secure(peer, head):
                parcel.scheme = "https"
        sticky = self._affinity.settings.sticky
        if sticky is Sticky.IP:
            parcel.key = self._affinity.key_for(client)
        elif sticky is Sticky.SESSION and head is not None:
            self._find_session(parcel, head)
        parcel.reason = sticky.value if parcel.key is not None or parcel.session is not None else "balance"
        return parcel

    def _find_session(self, parcel: Parcel, head: Head) -> None:
        session = self._affinity.session_of(head)
        if session is None:
            parcel.wants_session = True
            return
        parcel.session = SessionId(session)
        parcel.key = self._affinity.key_for_session(session)

    def _settle_tls(self, arrival: Arrival) -> None:
        if self._tls:
            self._forget(arrival)
            parcel = Parcel(arrival.sock, arrival.peer, self._affinity.client_of(arrival.peer, None), arrival.port)
            parcel.kind, parcel.scheme = "tls", "https"
            parcel.key = self._affinity.key_for(parcel.client)
            parcel.reason = "ip" if parcel.key is not None else "balance"
            self._deliver(parcel)
            return
        self._counters["refused_tls"] += 1
        if self._counters["refused_tls"] == 1:
            logger.warning("! %s speaks TLS to a port that does not: use http:// or end TLS in a proxy", arrival.peer)
        self._forget(arrival)
        self._linger(arrival.sock, _TLS_ALERT)

    def _too_late(self, arrival: Arrival) -> None:
        if self._arrivals.get(arrival.sock.fileno()) is arrival:
            self._refuse(arrival, 408, "no whole request in time", "refused_408")

    def _refuse(self, arrival: Arrival, status: int, reason: str, count: str) -> None:
        self._forget(arrival)
        self.refuse(arrival.sock, status, reason, count)

    def _forget(self, arrival: Arrival) -> None:
        if arrival.timer is not None:
            arrival.timer.cancel()
        if self._arrivals.pop(arrival.sock.fileno(), None) is not None:
            self._poller.forget(arrival.sock.fileno())

    # Refusing

    def refuse(self, sock: socket.socket, status: int, reason: str, count: str) -> None:
        """Answer a connection and close it, so that the client sees the answer. Takes over the socket."""
        self._counters[count] += 1
        self._linger(sock, _response(status, reason))

    @staticmethod
    def _answer(sock: socket.socket, status: int, reason: str) -> None:
        with contextlib.suppress(OSError):
            sock.send(_response(status, reason), socket.MSG_DONTWAIT)

    def _linger(self, sock: socket.socket, answer: bytes) -> None:
        """Send the answer, then read and drop what is still under way: closing over unread bytes sends a reset."""
        try:
            sock.send(answer, socket.MSG_DONTWAIT)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            sock.close()
            return
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
            self._end_lingering(fd, sock)

        self._poller.watch(fd, READ | EDGE, drop)
        self._poller.after(LINGER_S, lambda: self._end_lingering(fd, sock))
        drop()

    def _end_lingering(self, fd: int, sock: socket.socket) -> None:
        if self._lingering.get(fd) is sock:
            del self._lingering[fd]
            self._poller.forget(fd)
            sock.close()

    # Ending

    def close(self) -> None:
        """Accept nothing more, and answer everybody who has not said yet what they want."""
        for listener in self._listeners:
            self._poller.forget(listener.fileno())
            listener.close()
        self._listeners = []
        for arrival in list(self._arrivals.values()):
            self._refuse(arrival, 503, "shutting down", "refused_stopping")

    def release(self) -> None:
        """Close every descriptor that is left."""
        for fd, sock in list(self._lingering.items()):
            self._end_lingering(fd, sock)
        with contextlib.suppress(OSError):
            os.close(self._spare)

    @property
    def waiting(self) -> int:
        """How many connections have not said yet what they want."""
        return len(self._arrivals)


def _response(status: int, reason: str) -> bytes:
    body = f"{reason}\n".encode()
    head = (
        f"HTTP/1.1 {status} {_PHRASES[status]}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
