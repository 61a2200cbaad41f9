"""
How many connections each client address has, here and in the workers, and which connection has to make room.

Pure: no socket, no clock. Runs in the primary. An address is a `Network`: all of IPv4, the /64 of IPv6, which is what
one household or one machine gets. Trusted proxies and peers on Unix sockets are not counted (`None`): their connections
are those of many clients. A connection is counted from its accepting until it has ended, also while a worker has it:
workers report the addresses of those that ended (`Worker.closed`), and what a dead worker had falls away with it.

Every entry of a table stands for an open connection, so the limit of open files bounds them all.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from ipaddress import ip_address
from socket import AF_INET, inet_pton
from typing import Final, Generic, NewType, TypeVar

from sticky.forwarded import plain

Network = NewType("Network", bytes)
"""4 bytes of an IPv4 address, or the first 8 of an IPv6 address."""

SHARE: Final = 0.75  # of what connections may hold of one process's descriptors, for one address: others have the rest
OWN: Final = 32  # descriptors that a process has for itself, about
KNOWN_MAX: Final = 16_384  # texts of addresses whose network is remembered; above it all are forgotten


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


class Addresses:
    """Counts connections by address: `here` in the primary, and in all processes together."""

    def __init__(self, *, trusts: Callable[[str], bool], most: int | None, descriptors: int) -> None:
        """
        Args:
            trusts: says whether a peer is a proxy of ours.
            most: connections of one address in all processes together; None for no such limit.
            descriptors: the limit of open files of each process. One address has `share` of them at most.
        """
        self.most = most
        self.share = int(max(descriptors - OWN, descriptors / 2) * SHARE) or 1
        self._trusts = trusts
        self._here: dict[Network, int] = {}
        self._all: dict[Network, int] = {}
        self._known: dict[str, Network | None] = {}

    def of(self, peer_address: str) -> Network | None:
        """Return what the connections of a peer are counted under, or None where they are not counted."""
        try:
            return self._known[peer_address]
        except KeyError:
            pass
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        found = self._known[peer_address] = None if self._trusts(peer_address) else network_of(peer_address)
        return found

    def admits(self, network: Network | None) -> bool:
        """Whether the address may have one more connection."""
        return network is None or self.most is None or self._all.get(network, 0) < self.most

    def has_share(self, network: Network | None, held: dict[Network, int] | None = None) -> bool:
        """Whether the primary, or a worker that holds so many of each address, has room for one more of this one."""
        return network is None or (self._here if held is None else held).get(network, 0) < self.share

    def count(self, network: Network | None) -> int:
        """Return how many connections an address has in all processes."""
        return 0 if network is None else self._all.get(network, 0)

    # What becomes of one connection

    def accepted(self, network: Network | None) -> None:
        """Count a connection that the primary has from now on."""
        if network is not None:
            _add(self._here, network, 1)
            _add(self._all, network, 1)

    def ended(self, network: Network | None) -> None:
        """Count a connection no more, which ended in the primary."""
        if network is not None:
            _add(self._here, network, -1)
            _add(self._all, network, -1)

    def handed_over(self, network: Network | None, held: dict[Network, int]) -> None:
        """Move a connection from the primary to what a worker holds."""
        if network is not None:
            _add(self._here, network, -1)
            _add(held, network, 1)

    def taken_back(self, network: Network | None, held: dict[Network, int]) -> None:
        """Move a connection from what a worker holds to the primary."""
        if network is not None and _add(held, network, -1):
            _add(self._here, network, 1)
        elif network is not None:  # the worker had reported its end
            self.accepted(network)

    def ended_in_worker(self, network: Network | None, count: int, held: dict[Network, int]) -> None:
        """Count connections no more, which ended in a worker."""
        if network is not None:
            _add(self._all, network, -min(count, held.get(network, 0)))
            _add(held, network, -count)

    def worker_lost(self, held: dict[Network, int]) -> None:
        """Count no more what a dead worker held. What the primary still has of that, came anew."""
        for network, count in held.items():
            _add(self._all, network, -count)
        held.clear()

    def __len__(self) -> int:
        """Return how many addresses have a connection."""
        return len(self._all)


def _add(table: dict[Network, int], network: Network, count: int) -> bool:
    """Add to a count, which ends at nothing. Return whether there was anything."""
    before = table.get(network, 0)
    if before + count > 0:
        table[network] = before + count
    elif before:
        del table[network]
    return before > 0


Waiting = TypeVar("Waiting", bound=Hashable)


class EvictionQueue(Generic[Waiting]):
    """
    Connections whose requests are not finished, in the order of their eviction: `oldest` is the oldest of the address
    that has the most of them. So one address makes room for its own, and where each has one, it is the oldest of all.

    Each step takes the same time, however many there are.
    """

    def __init__(self) -> None:
        self._of: dict[Hashable, dict[Waiting, None]] = {}  # in the order in which they came
        self._by_count: dict[int, dict[Hashable, None]] = {}  # addresses of which so many wait
        self._most = 0

    def add(self, network: Network | None, waiting: Waiting) -> None:
        """Add a connection. One that is not counted by address is like an address of its own."""
        key: Hashable = waiting if network is None else network
        queue = self._of.setdefault(key, {})
        self._move(key, len(queue), len(queue) + 1)
        queue[waiting] = None

    def remove(self, network: Network | None, waiting: Waiting) -> None:
        """Remove a connection, under the same network as it was added."""
        key: Hashable = waiting if network is None else network
        queue = self._of[key]
        del queue[waiting]
        self._move(key, len(queue) + 1, len(queue))
        if not queue:
            del self._of[key]

    def oldest_of(self, network: Network) -> Waiting | None:
        """Return the oldest of one address; None when it has none."""
        return next(iter(self._of.get(network, ())), None)

    def oldest(self) -> Waiting | None:
        """Return the oldest of the address that has the most; None when there is none."""
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
