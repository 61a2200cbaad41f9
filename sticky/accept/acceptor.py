"""
Accepts connections and waits for their first bytes, without consuming them.

Runs in the primary. It peeks at a new connection (`MSG_PEEK`, edge-triggered), so the bytes stay in the kernel for the
worker. Each connection has to send a whole head within the handshake time and the head's size. One that does not is
answered, closed, and counted under a name. A thousand silent connections cost a thousand heap entries and no processor
time.

**The life of a connection here.** Each way out of the table of pending connections goes through `_forget`, which ends
the watch and the timer. Then exactly one of the following happens, and the socket is not ours any more:

    accepted ── its address has too many ──▶ 503
       │
       ├── head is there ──────────────────▶ dispatched
       ▼
    pending ── head is complete ───────────▶ dispatched
       ├────── bytes that are no request ──▶ 400, 431, 505, or a TLS alert
       ├────── `handshake_s` is over ──────▶ 408
       ├────── client closes its side ─────▶ closed
       ├────── descriptor is needed ───────▶ 503 (evicted)
       └────── server stops ───────────────▶ 503

**Counting by address.** A connection is counted when its client address is known: at once, or after the PROXY header.
Until then it is in the eviction queue as one without an address. Each refusal ends the count, and the dispatcher goes
on with it for a connection that it gets.

**Limits.** One client address may have so many connections, and so many descriptors (addresses.py). Some descriptors
are kept in reserve (descriptors.py). When only those are left, a new connection gets the descriptor of an unfinished
one: the oldest of the address that has the most of them. Where none is unfinished, the new connection gets 503.

The acceptor makes a `PendingHandoff` for the dispatcher. It never chooses a slot, and never reads what a worker reads:
the header of the PROXY protocol is the one thing that it consumes.
"""

from __future__ import annotations

import errno
import logging
import socket
from functools import partial
from typing import Any, Final, Protocol

from sticky.accept.descriptors import DescriptorReserve
from sticky.accept.identity import identify, identify_raw, identify_tls
from sticky.accept.pending_connection import PendingConnection
from sticky.handoff.pending_handoff import PendingHandoff
from sticky.handoff.refusals import TOO_MANY, Refusals
from sticky.heads import proxy_header
from sticky.heads.first_bytes import NEED_MORE, TLS_HELLO, Head, HeadLimits, Refusal, inspect
from sticky.keys.addresses import Addresses, EvictionQueue, Network
from sticky.keys.affinity import UNIX_PEER, Affinity
from sticky.loop.poller import EDGE, HANGUP, READ, Poller

BATCH: Final = 64  # connections accepted in one round, so that a flood does not delay the workers' messages
REST_S: Final = 0.1  # of a listener, when not even a connection that has to be refused can be accepted

NO_DESCRIPTORS_LINE: Final = 'out of descriptors reason="%s" remedy="raise the limit of open files"'
NOT_TLS_LINE: Final = 'TLS refused peer=%s reason="this port has no TLS: use http://, or a proxy that terminates TLS"'

_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PEEK: Final = socket.MSG_PEEK | socket.MSG_DONTWAIT

logger = logging.getLogger("sticky")


class Dispatches(Protocol):
    """Takes over connections whose routing is known: the dispatcher."""

    def dispatch(self, handoff: PendingHandoff) -> None: ...


class Acceptor:
    """
    The listeners, and the pending connections that came through them.

    Invariant: `_pending` and `_eviction` hold the same connections, and each of them is watched and has a timer.
    """

    def __init__(
        self,
        poller: Poller,
        affinity: Affinity,
        *,
        limits: HeadLimits,
        handshake_s: float,
        expects_proxy: bool,
        tls: bool,
        raw: bool,
        addresses: Addresses,
        descriptors: int,
        refusals: Refusals,
        dispatcher: Dispatches,
        counters: dict[str, int],
    ) -> None:
        """
        Args:
            limits: the size of a head.
            handshake_s: the time for a head.
            expects_proxy: trusted peers send a PROXY header first.
            tls: clients speak TLS, which the workers terminate.
            raw: clients speak no HTTP. A connection is routed by its address, before its first byte.
            addresses: counts connections; shared with the dispatcher.
            descriptors: how many files this process may have open.
            refusals: answers what is not served; shared with the dispatcher.
        """
        self._poller = poller
        self._affinity = affinity
        self._limits = limits
        self._handshake_s = handshake_s
        self._expects_proxy = expects_proxy
        self._tls = tls
        self._raw = raw
        self._addresses = addresses
        self._refusals = refusals
        self._dispatcher = dispatcher
        self._counters = counters
        self._listeners: list[socket.socket] = []
        self._pending: dict[int, PendingConnection] = {}  # by descriptor
        self._eviction: EvictionQueue[PendingConnection] = EvictionQueue()
        self._reserve = DescriptorReserve(descriptors)

    # Listening

    def open(self, listeners: list[socket.socket], backlog: int) -> None:
        """Begin to accept. The acceptor owns the listeners from here on; `close` closes them."""
        assert not self._listeners, "a primary opens its listeners once, when the first worker is ready"
        self._listeners = listeners
        for listener in listeners:
            listener.setblocking(False)
            if listener.family != socket.AF_UNIX:
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
            listener.listen(backlog)
            self._watch(listener)

    def _watch(self, listener: socket.socket) -> None:
        # An exception concerns one connection. Those that still wait are accepted in the next round.
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
                continue  # the client is gone already (ECONNABORTED and others, accept(2))
            self._counters["accepted"] += 1
            try:
                if self._reserve.has_room_for(sock.fileno()):
                    self._begin(sock, sockaddr)
                else:
                    self._begin_without_room(sock, sockaddr, "only the reserve is left")
            except Exception:  # noqa: BLE001 - `failed` logs it
                self._poller.failed(partial(self._drop, sock))

    # Without a free descriptor

    def _accept_without_room(self, listener: socket.socket, error: OSError) -> bool:
        """
        Accept one connection by giving up the spare descriptor. Return False when no client waits.

        The kernel reports that no client waits (EAGAIN) only to a process with a free descriptor.
        """
        if not self._reserve.give_up_spare() and (error.errno != errno.EMFILE or not self._make_room()):
            self._rest(listener)
            return False
        try:
            sock, sockaddr = listener.accept()
        except BlockingIOError:
            self._reserve.refill()
            return False
        except OSError as again:
            self._reserve.refill()
            if again.errno in _NO_DESCRIPTORS:
                self._rest(listener)
                return False
            return True
        self._counters["accepted"] += 1
        self._begin_without_room(sock, sockaddr, error.strerror or "")
        return True

    def _begin_without_room(self, sock: socket.socket, sockaddr: Any, why: str) -> None:
        """Close another connection for a new one. Where there is none to close, answer the new one and close it."""
        self._counters["out_of_descriptors"] += 1
        if self._counters["out_of_descriptors"] == 1:
            logger.error(NO_DESCRIPTORS_LINE, why)
        if not self._make_room():
            self._refusals.refuse_now(sock, 503, "out of descriptors", "refused_no_room")
            self._reserve.refill()
            return
        try:
            lower = sock.dup()  # gets the number that was just closed, so that no connection keeps one of the reserve
        except OSError:
            lower = None
        if lower is not None:
            sock.close()
            sock = lower
        self._reserve.refill()
        self._begin(sock, sockaddr)

    def _make_room(self) -> bool:
        """Close one connection: a refused one, else one whose head is unfinished. Return False when there is none."""
        if self._refusals.close_oldest():
            return True
        pending = self._eviction.oldest()
        if pending is None:
            return False
        self._evict(pending)
        return True

    def _evict(self, pending: PendingConnection) -> None:
        assert self._pending.get(pending.sock.fileno()) is pending, "the eviction queue has pending connections only"
        self._forget(pending)
        self._addresses.ended(pending.network)
        reason = "the request is not finished, and other connections need its room"
        self._refusals.refuse_now(pending.sock, 503, reason, "refused_evicted")

    def _rest(self, listener: socket.socket) -> None:
        """Stop watching a listener for a while: no connection can be accepted, not even to be refused."""
        self._counters["out_of_descriptors"] += 1
        self._poller.forget(listener.fileno())
        self._poller.after(REST_S, lambda: self._watch(listener) if listener in self._listeners else None)

    # Counting by address

    def _admit(self, pending: PendingConnection) -> bool:
        """Count a connection under its address, known by now, or refuse it. Return whether it goes on."""
        network = self._addresses.of(pending.peer_address)
        if network is not None and not self._addresses.has_room_for(network):
            oldest = self._eviction.oldest_of(network) if self._addresses.admits(network) else None
            if oldest is None:
                self._refuse_many(pending, network)
                return False
            self._refusals.log_too_many(pending.peer_address, self._addresses.count(network))
            self._evict(oldest)
        self._addresses.accepted(network)
        if pending.sock.fileno() in self._pending:  # until now it was queued under its proxy's address
            self._eviction.remove(pending.network, pending)
            self._eviction.add(network, pending)
        pending.network = network
        return True

    def _refuse_many(self, pending: PendingConnection, network: Network | None) -> None:
        self._refusals.log_too_many(pending.peer_address, self._addresses.count(network))
        self._forget(pending)
        if self._tls:
            self._refusals.alert(pending.sock, "refused_address")
        else:
            self._refusals.refuse(pending.sock, 503, TOO_MANY, "refused_address")

    # One connection, from accepting to routing

    def _begin(self, sock: socket.socket, sockaddr: object) -> None:
        """Route a new connection if its head is there already, as it usually is under load. Otherwise watch it."""
        if isinstance(sockaddr, tuple):
            peer_address, port = sockaddr[0], sockaddr[1]
        else:
            peer_address, port = UNIX_PEER, 0
        expects_proxy = self._expects_proxy and self._affinity.trusts(peer_address)
        self.adopt(PendingConnection(sock, peer_address, port, expects_proxy=expects_proxy))

    def adopt(self, pending: PendingConnection) -> None:
        """Do the same for a connection that an earlier primary has accepted. The acceptor owns it from here on."""
        if not pending.expects_proxy and not self._admit(pending):
            return
        if self._check(pending):
            return
        sock = pending.sock
        fd = sock.fileno()
        assert fd not in self._pending, "a pending connection is forgotten before its descriptor is closed"
        self._pending[fd] = pending
        self._eviction.add(pending.network, pending)
        drop = partial(self._drop, sock)
        pending.timer = self._poller.after(self._handshake_s, lambda: self._too_late(pending), on_failed=drop)
        # Registering reports the bytes that came since the check.
        self._poller.watch(fd, READ | EDGE, lambda events: self._check(pending, events), on_failed=drop)

    def _drop(self, sock: socket.socket) -> None:
        """Close a connection after an exception in this process."""
        pending = self._pending.get(sock.fileno())
        if pending is not None and pending.sock is sock:
            self._forget(pending)
            self._addresses.ended(pending.network)
        sock.close()

    def _check(self, pending: PendingConnection, events: int = 0) -> bool:
        """Peek at a connection, and route, refuse or close it if its bytes decide that. Return whether they do."""
        if self._raw:
            self._route(pending, identify_raw(self._affinity, pending.sock, pending.peer_address, pending.port))
            return True
        wanted = proxy_header.V2_MAX_BYTES if pending.expects_proxy else self._limits.max_bytes + 1
        try:
            data = pending.sock.recv(wanted, _PEEK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if len(data) == pending.seen:
            # Nothing new. Either the client is gone or has sent its last byte; or the same bytes were reported twice.
            return self._ended(pending) if not data or events & HANGUP else False
        if pending.expects_proxy:
            return self._check_proxy_header(pending, data, events)
        verdict = inspect(data, self._limits, pending.seen)
        if verdict is NEED_MORE:
            return self._need_more(pending, len(data), events)
        if isinstance(verdict, Head) and self._tls:
            self._refuse(pending, 400, "this port speaks TLS: use https://", "refused_not_tls")
        elif isinstance(verdict, Head):
            self._route(pending, identify(self._affinity, pending.sock, pending.peer_address, pending.port, verdict))
        elif verdict is TLS_HELLO:
            self._route_tls(pending)
        else:
            assert isinstance(verdict, Refusal), "there is no other verdict"
            self._refuse(pending, verdict.status, verdict.reason, f"refused_{verdict.status}")
        return True

    def _need_more(self, pending: PendingConnection, seen: int, events: int) -> bool:
        """
        Wait for more bytes, unless the client has sent its last one.

        The end of the stream may come in one event with the bytes before it. An edge-triggered poller has no second
        event for it.
        """
        pending.seen = seen
        return self._ended(pending) if events & HANGUP else False

    def _check_proxy_header(self, pending: PendingConnection, data: bytes, events: int) -> bool:
        verdict = proxy_header.parse(data)
        if verdict is NEED_MORE:
            return self._need_more(pending, len(data), events)
        if isinstance(verdict, Refusal):
            self._refuse(pending, verdict.status, verdict.reason, "refused_proxy_header")
            return True
        assert isinstance(verdict, proxy_header.ProxyHeader), "there is no other verdict"
        consumed = pending.sock.recv(verdict.length, socket.MSG_DONTWAIT)  # the one thing that is consumed
        assert len(consumed) == verdict.length, "the peek has shown these bytes"
        pending.expects_proxy = False
        pending.seen = 0
        if verdict.client_address is not None:
            pending.peer_address, pending.port = verdict.client_address, verdict.client_port
        return True if not self._admit(pending) else self._check(pending, events)

    def _ended(self, pending: PendingConnection) -> bool:
        self._counters["gone_before_head"] += 1
        self._forget(pending)
        self._addresses.ended(pending.network)
        pending.sock.close()
        return True

    # Routing

    def _route(self, pending: PendingConnection, handoff: PendingHandoff) -> None:
        """Give a connection to the dispatcher, which owns it from then on."""
        assert handoff.sock is pending.sock, "the socket that leaves the table is the one that is dispatched"
        self._forget(pending)
        handoff.network = pending.network
        self._dispatcher.dispatch(handoff)

    def _route_tls(self, pending: PendingConnection) -> None:
        if self._tls:
            self._route(pending, identify_tls(self._affinity, pending.sock, pending.peer_address, pending.port))
            return
        if not self._counters["refused_tls"]:
            logger.warning(NOT_TLS_LINE, pending.peer_address)
        self._forget(pending)
        self._addresses.ended(pending.network)
        self._refusals.alert(pending.sock, "refused_tls")

    def take_back(
        self, sock: socket.socket, peer_address: str, port: int, received: bytes, is_relayed: bool = False
    ) -> None:
        """
        Route a connection again that a worker gave back, for its next request belongs to another. You give up `sock`.

        Args:
            peer_address: as in the handoff to that worker.
            port: the peer's port.
            received: what the worker has read of the request: its whole head, at least.
            is_relayed: the client's TLS connection stays in that worker, which relays its bytes.
        """
        self._counters["given_back"] += 1
        head = inspect(received, self._limits)
        if not isinstance(head, Head) or not self._listeners:
            self._refusals.refuse(sock, 503, "shutting down", "refused_stopping")
            return
        assert len(received) >= head.length, "the next worker has to get the whole head"
        handoff = identify(self._affinity, sock, peer_address, port, head)
        handoff.received = received
        handoff.reason = "moved"
        if is_relayed:
            handoff.is_relayed, handoff.scheme = True, "https"
        handoff.network = self._addresses.of(peer_address)
        self._addresses.accepted(handoff.network)
        self._dispatcher.dispatch(handoff)

    def _too_late(self, pending: PendingConnection) -> None:
        if self._pending.get(pending.sock.fileno()) is pending:
            self._refuse(pending, 408, "no whole request in time", "refused_408")

    def _refuse(self, pending: PendingConnection, status: int, reason: str, count: str) -> None:
        self._forget(pending)
        self._addresses.ended(pending.network)
        self._refusals.refuse(pending.sock, status, reason, count)

    def _forget(self, pending: PendingConnection) -> None:
        """End all that waits for a connection's bytes. You must route, refuse or close it next."""
        assert pending.sock.fileno() >= 0, "a closed socket has lost the number under which it is in the table"
        if pending.timer is not None:
            pending.timer.cancel()
        if self._pending.pop(pending.sock.fileno(), None) is not None:
            self._eviction.remove(pending.network, pending)
            self._poller.forget(pending.sock.fileno())

    # Ending

    def pause(self) -> None:
        """Accept nothing more. The listeners stay open: new connections wait in their backlogs."""
        for listener in self._listeners:
            self._poller.forget(listener.fileno())

    def leave(self) -> list[PendingConnection]:
        """Give up every pending connection. The caller owns them."""
        pending = list(self._pending.values())
        for each in pending:
            self._forget(each)
        return pending

    def close(self) -> None:
        """Accept nothing more, and answer every connection whose head is not complete."""
        for listener in self._listeners:
            self._poller.forget(listener.fileno())
            listener.close()
        self._listeners = []
        for pending in list(self._pending.values()):
            self._poller.guard(
                partial(self._refuse, pending, 503, "shutting down", "refused_stopping"),
                partial(self._drop, pending.sock),
            )
        assert not self._pending, "each client was answered or closed: no watch and no timer is left"

    def release(self) -> None:
        """Close the spare descriptor. Call this last: the acceptor cannot accept without one."""
        self._reserve.close()

    @property
    def waiting(self) -> int:
        """How many connections are pending."""
        return len(self._pending)
