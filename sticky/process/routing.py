"""
The path of a connection through the primary, wired: acceptor, dispatcher, the count of addresses, and crashes.

Runs in the primary. It only joins these parts and passes open and close on to them in the right order; each has its own
file. The supervisor is the other half of the primary, and meets this one in the table of workers.

    listener ─▶ acceptor ──first bytes, key──▶ dispatcher ──handoff──▶ a worker's channel
                   │                               │
                   └──────────── refusals ◀────────┘      a polite answer, where no worker is to have it

A connection is counted under its client address from the accept until its end in the worker. So both halves share one
`Addresses`, and one table of refusals, which has descriptors of its own to close.
"""

from __future__ import annotations

import resource
import socket
import sys
from collections.abc import Sequence
from typing import Any

from sticky.accept.acceptor import Acceptor
from sticky.handoff.dispatcher import Dispatcher
from sticky.handoff.refusals import Refusals
from sticky.keys.addresses import Addresses
from sticky.keys.affinity import Affinity
from sticky.keys.balance import balance_named
from sticky.keys.hashing import Hashing
from sticky.loop.poller import Poller
from sticky.settings import ClusterSettings
from sticky.supervision.crashes import Crashes
from sticky.supervision.workers import Workers


class Routing:
    """The acceptor and the dispatcher of this machine, with what both share."""

    def __init__(self, poller: Poller, workers: Workers, settings: ClusterSettings, *, secret: bytes) -> None:
        """
        Args:
            secret: what keys are hashed under.

        Raises:
            SettingsError: `balance` names no way of balancing.
        """
        # From the bottom up: each part gets what it calls, and no part is given anything after its construction.
        counters, descriptors = poller.counters, _descriptor_limit()
        hashing = Hashing(secret, previous=settings.secret_previous)
        affinity = Affinity(settings.affinity, hashing)
        self.crashes = Crashes(poller, affinity, hashing, workers=workers, counters=counters)
        self._addresses = Addresses(affinity, most=settings.connections_per_address, descriptors=descriptors)
        self._refusals = Refusals(poller, descriptors=descriptors, tls=settings.tls, counters=counters)
        self.dispatcher = Dispatcher(
            poller,
            hashing,
            workers.live,
            balance=balance_named(settings.balance),
            patience_s=settings.patience_s,
            refusals=self._refusals,
            channels=workers,
            addresses=self._addresses,
            counters=counters,
            suspicion=self.crashes,
            probe_paths=frozenset(settings.probe_paths),
            own_paths=frozenset(settings.own_paths),
        )
        self.acceptor = Acceptor(
            poller,
            affinity,
            limits=settings.limits,
            handshake_s=settings.handshake_s,
            expects_proxy=settings.proxy_protocol,
            tls=settings.tls,
            raw=settings.raw,
            addresses=self._addresses,
            descriptors=descriptors,
            refusals=self._refusals,
            dispatcher=self.dispatcher,
            counters=counters,
        )

    def open(self, listeners: Sequence[socket.socket], backlog: int) -> None:
        """Listen and accept."""
        self.acceptor.open(list(listeners), backlog)

    def close(self) -> None:
        """Accept nothing more, and refuse what waits for a worker. What workers have goes on."""
        # The dispatcher first: what the acceptor still hands to it is refused then, and does not wait for a worker.
        self.dispatcher.close()
        self.acceptor.close()

    def release(self) -> None:
        """Close every descriptor that is left. Nothing may be dispatched afterwards."""
        self._refusals.close()
        self.acceptor.release()

    @property
    def held(self) -> int:
        """How many connections no worker has."""
        return self.acceptor.waiting + self.dispatcher.homeless + self.dispatcher.held_back

    def statistics(self) -> dict[str, Any]:
        """
        Return a snapshot of the connections that no worker has yet, and of what is counted.

        The names are those of `realtime status --json`, which other programs read: they stay.
        """
        return {
            "before_head": self.acceptor.waiting,
            "homeless": self.dispatcher.homeless,
            "client_addresses": len(self._addresses),
            "away": len(self.dispatcher.away),
        }


def _descriptor_limit() -> int:
    """Return how many files each process may have open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit if limit != resource.RLIM_INFINITY else sys.maxsize
