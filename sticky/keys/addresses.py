"""
Counts the connections of each client address, and finds the connection that has to make room.

Pure: no socket, no clock. Used in the primary. An address is a `Network`: all of an IPv4 address, or the /64 of an IPv6
address, which is what one household or one machine gets. Trusted proxies and peers on Unix sockets are not counted
(`None`), for their connections are those of many clients.

A connection is counted from its acceptance to its end, also while a worker has it. Workers report the addresses of the
connections that ended (`Worker.closed`). The connections of a dead worker are no longer counted.

Each count stands for an open connection, so the limit of open files bounds every table. It never refuses or closes a
connection: the acceptor and the dispatcher do.
"""

from __future__ import annotations

from collections.abc import Hashable
from ipaddress import ip_address
from socket import AF_INET, inet_pton
from typing import Final, Generic, NewType, Protocol, TypeVar

from sticky.heads.forwarded import plain

Network = NewType("Network", bytes)
"""4 bytes of an IPv4 address, or the first 8 of an IPv6 address."""

SHARE: Final = 0.75  # of a process's descriptors for connections, for one address: the others have the rest
OWN: Final = 32  # descriptors that a process needs for itself, roughly
KNOWN_MAX: Final = 16_384  # addresses whose network is cached; above it the cache is emptied


def network_of(address: str) -> Network | None:
    """Return the network of an address as the kernel or a proxy spells it, or None where it is no address."""
    if ":" not in address:
        try:
            return Network(inet_pton(AF_INET, address))  # a tenth of what `ip_address` takes
        except (OSError, ValueError):
            return None
    try:
        found = plain(ip_address(address))
    except ValueError:
        return None
    return Network(found.packed if found.version == 4 else found.packed[:8])


class TrustedProxies(Protocol):
    """Knows the trusted proxies: `Affinity`."""

    def trusts(self, peer_address: str) -> bool:
        """Return whether a peer is a trusted proxy."""


class Addresses:
    """
    Counts connections by address: in the primary (`_here`), in each worker (`held`, which its handle has), and in all
    processes together (`_all`).

    Invariant: no count in a table is below 1.
    """

    def __init__(self, proxies: TrustedProxies, *, most: int | None, descriptors: int) -> None:
        """
        Args:
            proxies: those whose connections are many clients', and are not counted.
            most: how many connections one address may have in all processes together; None for no limit.
            descriptors: how many files each process may have open. One address gets at most `share` of them.
        """
        self.most = most
        self.share = int(max(descriptors - OWN, descriptors / 2) * SHARE) or 1
        assert self.share > 0, "an address that may have no connection could never be served"
        self._proxies = proxies
        self._here: dict[Network, int] = {}
        self._all: dict[Network, int] = {}
        self._known: dict[str, Network | None] = {}

    def of(self, peer_address: str) -> Network | None:
        """Return the network under which a peer's connections are counted; None where they are not counted."""
        try:
            return self._known[peer_address]
        except KeyError:
            pass
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        found = self._known[peer_address] = None if self._proxies.trusts(peer_address) else network_of(peer_address)
        return found

    def admits(self, network: Network | None) -> bool:
        """Return whether the address may have one more connection."""
        return network is None or self.most is None or self._all.get(network, 0) < self.most

    def has_share(self, network: Network | None, held: dict[Network, int] | None = None) -> bool:
        """Return whether one more connection of an address fits, in the primary or in a worker that has `held`."""
        return network is None or (self._here if held is None else held).get(network, 0) < self.share

    def has_room_for(self, network: Network | None) -> bool:
        """Return whether one more connection of an address fits here: it `admits` it, and it `has_share`."""
        if network is None:
            return True
        is_admitted = self.most is None or self._all.get(network, 0) < self.most
        return is_admitted and self._here.get(network, 0) < self.share

    def count(self, network: Network | None) -> int:
        """Return how many connections an address has in all processes."""
        return 0 if network is None else self._all.get(network, 0)

    # The life of one connection

    def accepted(self, network: Network | None) -> None:
        """Count a connection that the primary has from now on. Call `ended` or `handed_over` when that ends."""
        if network is not None:
            here, all_ = self._here, self._all
            here[network] = here.get(network, 0) + 1
            all_[network] = all_.get(network, 0) + 1

    def ended(self, network: Network | None) -> None:
        """Stop counting a connection that ended in the primary."""
        if network is not None:
            _add(self._here, network, -1)
            _add(self._all, network, -1)

    def handed_over(self, network: Network | None, held: dict[Network, int]) -> None:
        """Move a connection from the primary to a worker."""
        if network is not None:
            _add(self._here, network, -1)
            held[network] = held.get(network, 0) + 1

    def taken_back(self, network: Network | None, held: dict[Network, int]) -> None:
        """Move a connection from a worker to the primary."""
        if network is not None and _add(held, network, -1):
            _add(self._here, network, 1)
        elif network is not None:  # the worker had reported its end
            self.accepted(network)

    def ended_in_worker(self, network: Network | None, count: int, held: dict[Network, int]) -> None:
        """Stop counting connections that a worker reported as ended. A false report never frees another address."""
        if network is not None:
            _add(self._all, network, -min(count, held.get(network, 0)))
            _add(held, network, -count)

    def moved_to_worker(self, network: Network | None, count: int, held: dict[Network, int]) -> None:
        """Count connections that came to a worker from another one, which reports them as ended."""
        if network is not None:
            _add(self._all, network, count)
            _add(held, network, count)

    def worker_lost(self, held: dict[Network, int]) -> None:
        """Stop counting the connections of a dead worker. Call `accepted` for those whose copy the primary has."""
        for network, count in held.items():
            assert count > 0, "an address without a connection has left the table"
            _add(self._all, network, -count)
        held.clear()

    def __len__(self) -> int:
        """Return how many addresses have a connection."""
        return len(self._all)


def _add(table: dict[Network, int], network: Network, count: int) -> bool:
    """Add to a count, which does not go below 0. Return whether it was above 0 before."""
    before = table.get(network, 0)
    if before + count > 0:
        table[network] = before + count
    elif before:
        del table[network]
    return before > 0


Waiting = TypeVar("Waiting", bound=Hashable)


class EvictionQueue(Generic[Waiting]):
    """
    Connections whose requests are not finished, in the order of their eviction.

    `oldest` is the oldest connection of the address that has the most of them. So an address that floods makes room
    for itself, and where each address has one connection, the oldest of all is evicted. Each step takes constant time.

    Invariant: `_by_count` has each address under the length of its queue, and `_most` is its highest count.
    """

    def __init__(self) -> None:
        self._of: dict[Hashable, dict[Waiting, None]] = {}  # in the order in which they came
        self._by_count: dict[int, dict[Hashable, None]] = {}  # addresses of which so many wait
        self._most = 0

    def add(self, network: Network | None, waiting: Waiting) -> None:
        """Add a connection. One that is not counted by address stands for an address of its own."""
        key: Hashable = waiting if network is None else network
        queue = self._of.setdefault(key, {})
        self._move(key, len(queue), len(queue) + 1)
        queue[waiting] = None

    def remove(self, network: Network | None, waiting: Waiting) -> None:
        """Remove a connection. `network` must be the one under which it was added."""
        key: Hashable = waiting if network is None else network
        queue = self._of[key]
        del queue[waiting]
        self._move(key, len(queue) + 1, len(queue))
        if not queue:
            del self._of[key]

    def oldest_of(self, network: Network) -> Waiting | None:
        """Return the oldest connection of one address; None when it has none."""
        return next(iter(self._of.get(network, ())), None)

    def oldest(self) -> Waiting | None:
        """Return the oldest connection of the address that has the most; None when there is none."""
        if not self._most:
            return None
        return next(iter(self._of[next(iter(self._by_count[self._most]))]))

    def _move(self, key: Hashable, before: int, after: int) -> None:
        if before:
            keys = self._by_count[before]
            del keys[key]
            if not keys:
                del self._by_count[before]
        if after:
            self._by_count.setdefault(after, {})[key] = None
        if after > self._most or (self._most == before and before not in self._by_count):
            self._most = after
        assert not self._most or self._most in self._by_count, "`oldest` looks there"
