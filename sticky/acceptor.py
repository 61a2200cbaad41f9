"""
Accepts connections and waits for their first bytes, without reading them.

Runs in the primary. A new connection is peeked at (`MSG_PEEK`, edge-triggered): its bytes stay in the kernel for the
worker. Each has to say something whole within the handshake's time and the head's size; what does not is answered and
closed, and counted under its name. A thousand silent connections cost a thousand heap entries and no processor time.

**Too many.** One address may have so many connections, and so many descriptors (addresses.py). Some descriptors are
kept for ourselves; when only those are left, a new connection gets the room of an unfinished one: of the address that
has the most of them, the oldest. Where nobody is unfinished, the new one gets 503, as fast as it can be accepted.

This file decides who a connection is (`Affinity`) but not where it goes: it makes a `Parcel` for the dispatcher.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from sticky import proxy_header
from sticky.addresses import Addresses, EvictionQueue, Network
from sticky.affinity import UNIX_PEER, Affinity, Sticky
from sticky.first_bytes import NEED_MORE, TLS_HELLO, Head, HeadLimits, Refusal, inspect
from sticky.handoff import PendingHandoff
from sticky.hashing import Hashing, StickyId
from sticky.log_throttle import LogThrottle
from sticky.poller import EDGE, HANGUP, READ, Poller, Timer
from sticky.refusals import TOO_MANY, Refusals

BATCH: Final = 64  # connections accepted in one round
REST_S: Final = 0.1  # of a listener, when not even a connection that is to be refused can be accepted
RESERVE: Final = 32  # descriptors that no connection gets: for workers that start, for what workers give back
PROXY_MAX: Final = 4096

_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PEEK: Final = socket.MSG_PEEK | socket.MSG_DONTWAIT

logger = logging.getLogger("sticky")


class PendingConnection:
    """A connection that has not said yet what it wants."""

    __slots__ = ("client", "expects_proxy", "network", "peer_address", "port", "seen", "sock", "timer")

    def __init__(self, sock: socket.socket, peer_address: str, port: int, *, expects_proxy: bool) -> None:
        self.sock = sock
        self.peer_address = peer_address
        self.port = port
        self.expects_proxy = expects_proxy
        self.network: Network | None = None  # what it is counted under
        self.seen = 0
        self.timer: Timer | None = None


class Acceptor:
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
        addresses: Addresses,
        descriptors: int,
        deliver: Callable[[PendingHandoff], None],
        counters: dict[str, int],
    ) -> None:
        """
        Args:
            addresses: counts connections; shared with the dispatcher.
            descriptors: this process's limit of open files.
        """
        self._poller = poller
        self._affinity = affinity
        self._hashing = hashing
        self._limits = limits
        self._handshake_s = handshake_s
        self._expects_proxy = expects_proxy
        self._tls = tls
        self._raw = raw
        self._addresses = addresses
        self._full_at = descriptors - min(RESERVE, descriptors // 8)  # the number of the first that is in reserve
        self._deliver = deliver
        self._counters = counters
        self._listeners: list[socket.socket] = []
        self._pending: dict[int, PendingConnection] = {}
        self._eviction: EvictionQueue[PendingConnection] = EvictionQueue()  # the same
        self._refusing = Refusals(poller, descriptors=descriptors, tls=tls)
        self._too_many_line = LogThrottle()
        self._spare = -1  # a descriptor that is given up to accept a connection when there is no other
        self._open_spare()

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
        # An error is one connection's: those that wait are accepted in the next round.
        self._poller.watch(listener.fileno(), READ, lambda events: self._accept(listener), on_failed=lambda: None)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(BATCH):
            try:
                sock, sockaddr = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_DESCRIPTORS and not self._accept_without_room(listener, error):
                    return
                continue  # the client is gone already (ECONNABORTED and its kin, accept(2))
            self._counters["accepted"] += 1
            try:
                if sock.fileno() < self._full_at:
                    self._arrive(sock, sockaddr)
                else:
                    self._arrive_in_need(sock, sockaddr, "only the reserve is left")
            except Exception:  # noqa: BLE001 - `failed` logs it
                self._poller.failed(partial(self._drop, sock))

    # Without room

    def _accept_without_room(self, listener: socket.socket, error: OSError) -> bool:
        """
        Accept one connection by giving up the spare descriptor. Return False when no client waits: Linux says so only
        where a descriptor is free.
        """
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        elif error.errno != errno.EMFILE or not self._make_room():
            self._rest(listener)
            return False
        try:
            sock, sockaddr = listener.accept()
        except BlockingIOError:
            self._open_spare()
            return False
        except OSError as again:
            self._open_spare()
            if again.errno in _NO_DESCRIPTORS:
                self._rest(listener)
                return False
            return True
        self._counters["accepted"] += 1
        self._arrive_in_need(sock, sockaddr, error.strerror or "")
        return True

    def _arrive_in_need(self, sock: socket.socket, sockaddr: Any, why: str) -> None:
        """Give a connection, for which there is no room, that of another; or answer that there is none."""
        self._counters["out_of_descriptors"] += 1
        if self._counters["out_of_descriptors"] == 1:
            logger.error("! out of descriptors (%s): raise the limit of open files; others are served on", why)
        if not self._make_room():
            self._counters["refused_no_room"] += 1
            self._refusing.answer_now(sock, 503, "out of descriptors")
            self._open_spare()
            return
        try:
            lower = sock.dup()  # the number that was just closed: no connection keeps one of the reserve
        except OSError:
            lower = None
        if lower is not None:
            sock.close()
            sock = lower
        self._open_spare()
        self._arrive(sock, sockaddr)

    def _make_room(self) -> bool:
        """Close one connection: a refused one, else one whose head is unfinished. Return False when there is none."""
        if self._refusing.let_go():
            return True
        pending = self._eviction.oldest()
        if pending is None:
            return False
        self._evict(pending)
        return True

    def _evict(self, pending: PendingConnection) -> None:
        self._counters["refused_evicted"] += 1
        self._forget(pending)
        self._addresses.ended(pending.network)
        self._refusing.answer_now(pending.sock, 503, "the request is not finished, and other connections need its room")

    def _open_spare(self) -> None:
        """Have a spare descriptor again, where that is possible by now."""
        if self._spare < 0:
            with contextlib.suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _rest(self, listener: socket.socket) -> None:
        """Stop listening for a while: not even a connection that is to be refused can be accepted."""
        self._counters["out_of_descriptors"] += 1
        self._poller.forget(listener.fileno())
        self._poller.after(REST_S, lambda: self._watch(listener) if listener in self._listeners else None)

    def _admit(self, pending: PendingConnection) -> bool:
        """Count a connection whose client address is known by now, or refuse it. Return whether it goes on."""
        network = self._addresses.of(pending.peer_address)
        if not self._addresses.admits(network):
            self._refuse_many(pending, network)
            return False
        if network is not None and not self._addresses.has_share(network):
            oldest = self._eviction.oldest_of(network)
            if oldest is None:
                self._refuse_many(pending, network)
                return False
            self.log_too_many(pending.peer_address, network)
            self._evict(oldest)
        self._addresses.accepted(network)
        if pending.sock.fileno() in self._pending:  # it was counted as its proxy's
            self._eviction.remove(pending.network, pending)
            self._eviction.add(network, pending)
        pending.network = network
        return True

    def _refuse_many(self, pending: PendingConnection, network: Network | None) -> None:
        self.log_too_many(pending.peer_address, network)
        self._forget(pending)
        self._counters["refused_address"] += 1
        if self._tls:
            self._refusing.alert(pending.sock)
        else:
            self._refusing.answer(pending.sock, 503, TOO_MANY)

    def log_too_many(self, peer_address: str, network: Network | None) -> None:
        """Log that an address is refused for what it has already, at most once a second."""
        left_out = self._too_many_line.due(self._poller.now())
        if left_out is not None:
            count = self._addresses.count(network)
            logger.warning(
                "x %s: refused: its address has %d connections (%d more refused)", peer_address, count, left_out
            )

    # Arriving

    def _arrive(self, sock: socket.socket, sockaddr: object) -> None:
        if isinstance(sockaddr, tuple):
            peer_address, port = sockaddr[0], sockaddr[1]
        else:
            peer_address, port = UNIX_PEER, 0
        expects_proxy = self._expects_proxy and self._affinity.trusts(peer_address)
        pending = PendingConnection(sock, peer_address, port, expects_proxy=expects_proxy)
        if not expects_proxy and not self._admit(pending):
            return
        if self._look(pending):
            return  # what it wants was there with it: the usual case under load
        fd = sock.fileno()
        self._pending[fd] = pending
        self._eviction.add(pending.network, pending)
        drop = partial(self._drop, sock)
        pending.timer = self._poller.after(self._handshake_s, lambda: self._too_late(pending), on_failed=drop)
        # This tells of what is there already.
        self._poller.watch(fd, READ | EDGE, lambda events: self._look(pending, events), on_failed=drop)

    def _drop(self, sock: socket.socket) -> None:
        """Close a connection over an error of our own."""
        pending = self._pending.get(sock.fileno())
        if pending is not None and pending.sock is sock:
            self._forget(pending)
            self._addresses.ended(pending.network)
        sock.close()

    def _look(self, pending: PendingConnection, events: int = 0) -> bool:
        """Peek, and settle the arrival if it can be. Return whether it is settled."""
        if self._raw:
            self._settle(pending, None)
            return True
        wanted = PROXY_MAX if pending.expects_proxy else self._limits.max_bytes + 1
        try:
            data = pending.sock.recv(wanted, _PEEK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if len(data) == pending.seen:
            # Nothing new. The peer is gone, or has said its last; else the same bytes were told of twice.
            return self._ended(pending) if not data or events & HANGUP else False
        if pending.expects_proxy:
            return self._look_for_proxy(pending, data, events)
        verdict = inspect(data, self._limits, pending.seen)
        if verdict is NEED_MORE:
            return self._need_more(pending, len(data), events)
        if isinstance(verdict, Head) and self._tls:
            self._refuse(pending, 400, "this port speaks TLS: use https://", "refused_not_tls")
        elif isinstance(verdict, Head):
            self._settle(pending, verdict)
        elif verdict is TLS_HELLO:
            self._settle_tls(pending)
        else:
            assert isinstance(verdict, Refusal), "there is no other verdict"
            self._refuse(pending, verdict.status, verdict.reason, f"refused_{verdict.status}")
        return True

    def _need_more(self, pending: PendingConnection, seen: int, events: int) -> bool:
        """
        Wait for more bytes, unless the client has sent its last. Its end may come in one event with the bytes before
        it, and an edge-triggered poller has no second event for it.
        """
        pending.seen = seen
        return self._ended(pending) if events & HANGUP else False

    def _look_for_proxy(self, pending: PendingConnection, data: bytes, events: int) -> bool:
        verdict = proxy_header.parse(data)
        if verdict is NEED_MORE:
            return self._need_more(pending, len(data), events)
        if isinstance(verdict, Refusal):
            self._refuse(pending, verdict.status, verdict.reason, "refused_proxy_header")
            return True
        assert isinstance(verdict, proxy_header.ProxyHeader), "there is no other verdict"
        pending.sock.recv(verdict.length, socket.MSG_DONTWAIT)  # the one thing that is consumed
        pending.expects_proxy = False
        pending.seen = 0
        if verdict.client_address is not None:
            pending.peer_address, pending.port = verdict.client_address, verdict.client_port
        return True if not self._admit(pending) else self._look(pending, events)

    def _ended(self, pending: PendingConnection) -> bool:
        self._counters["gone_before_head"] += 1
        self._forget(pending)
        self._addresses.ended(pending.network)
        pending.sock.close()
        return True

    # Settling

    def _settle(self, pending: PendingConnection, head: Head | None) -> None:
        self._forget(pending)
        handoff = self._parcel(pending.sock, pending.peer_address, pending.port, head)
        handoff.network = pending.network
        self._deliver(handoff)

    def take_back(self, sock: socket.socket, peer_address: str, port: int, received: bytes) -> None:
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
        handoff = self._parcel(sock, peer_address, port, head)
        handoff.received = received
        handoff.reason = "moved"
        handoff.network = self._addresses.of(peer_address)
        self._addresses.accepted(handoff.network)
        self._deliver(handoff)

    def _parcel(self, sock: socket.socket, peer_address: str, port: int, head: Head | None) -> PendingHandoff:
        """Find out everything that decides where a connection goes."""
        address = self._affinity.address_of(peer_address, head)
        handoff = PendingHandoff(sock, peer_address, address, port if address == peer_address else 0)
        if head is None:
            handoff.kind = "raw"
        else:
            handoff.method, handoff.path, handoff.upgrade = head.method, head.path, head.is_upgrade
            if self._affinity.secure(peer_address, head):
                handoff.scheme = "https"
        sticky = self._affinity.settings.sticky
        if sticky is Sticky.IP:
            handoff.key = self._affinity.key_for(address)
        elif sticky is Sticky.SESSION and head is not None:
            self._find_sticky_id(handoff, head)
        handoff.reason = sticky.value if handoff.key is not None or handoff.sticky_id is not None else "balance"
        return handoff

    def _find_sticky_id(self, handoff: PendingHandoff, head: Head) -> None:
        sticky_id = self._affinity.sticky_id_of(head)
        if sticky_id is None:
            handoff.wants_sticky_id = True
            return
        handoff.sticky_id = StickyId(sticky_id)
        handoff.key = self._affinity.key_for_sticky_id(sticky_id)

    def _settle_tls(self, pending: PendingConnection) -> None:
        if self._tls:
            self._forget(pending)
            handoff = PendingHandoff(
                pending.sock, pending.peer_address, self._affinity.address_of(pending.peer_address, None), pending.port
            )
            handoff.kind, handoff.scheme = "tls", "https"
            handoff.key = self._affinity.key_for(handoff.address)
            handoff.reason = "ip" if handoff.key is not None else "balance"
            handoff.network = pending.network
            self._deliver(handoff)
            return
        self._counters["refused_tls"] += 1
        if self._counters["refused_tls"] == 1:
            logger.warning(
                "! %s speaks TLS to a port that does not: use http:// or end TLS in a proxy", pending.peer_address
            )
        self._forget(pending)
        self._addresses.ended(pending.network)
        self._refusing.alert(pending.sock)

    def _too_late(self, pending: PendingConnection) -> None:
        if self._pending.get(pending.sock.fileno()) is pending:
            self._refuse(pending, 408, "no whole request in time", "refused_408")

    def _refuse(self, pending: PendingConnection, status: int, reason: str, count: str) -> None:
        self._forget(pending)
        self._addresses.ended(pending.network)
        self.refuse(pending.sock, status, reason, count)

    def _forget(self, pending: PendingConnection) -> None:
        if pending.timer is not None:
            pending.timer.cancel()
        if self._pending.pop(pending.sock.fileno(), None) is not None:
            self._eviction.remove(pending.network, pending)
            self._poller.forget(pending.sock.fileno())

    def refuse(self, sock: socket.socket, status: int, reason: str, count: str) -> None:
        """Answer a connection and close it, so that the client sees the answer. Takes over the socket."""
        self._counters[count] += 1
        self._refusing.answer(sock, status, reason)

    # Ending

    def close(self) -> None:
        """Accept nothing more, and answer everybody who has not said yet what they want."""
        for listener in self._listeners:
            self._poller.forget(listener.fileno())
            listener.close()
        self._listeners = []
        for pending in list(self._pending.values()):
            self._poller.guard(
                partial(self._refuse, pending, 503, "shutting down", "refused_stopping"),
                partial(self._drop, pending.sock),
            )

    def release(self) -> None:
        """Close every descriptor that is left."""
        self._refusing.close()
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1

    @property
    def waiting(self) -> int:
        """How many connections have not said yet what they want."""
        return len(self._pending)
