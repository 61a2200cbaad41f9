"""
The moves of this worker: connections that leave for another worker, and connections that come from one.

Runs in a worker, on its event loop. The primary introduces two workers (the message PEER) and says which connections
are meant; the worker's server (`Moving`) picks them, and takes in those that come. This module joins the two, and keeps
the worker's counts and keys right. It reads no connection.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from sticky.handoff.blame import key_of
from sticky.handoff.journal import Journal
from sticky.handoff.messages import Peer
from sticky.keys.affinity import Affinity
from sticky.keys.away import home_of, short
from sticky.keys.hashing import Hashing, Key, Slot, StickyId
from sticky.moving.channel import MovedState
from sticky.moving.plan import Plan
from sticky.moving.source import MoveSource
from sticky.moving.target import MovedIn, MoveTarget
from sticky.worker.ended_report import EndedReport
from sticky.worker.key_report import KeyReport
from sticky.worker.routes import Routes

logger = logging.getLogger("sticky.worker")


class Moving(Protocol):
    """The worker's server, as far as its connections move."""

    def introduced(self, source: MoveSource, plan: Plan) -> None:
        """Learn of a target. The connections of the plan go there from now on, or when this worker drains."""

    async def take(self, connections: Sequence[MovedIn]) -> list[str | None]:
        """Take connections over from another worker. Return for each None, or why it is refused."""


class Moves:
    """The channels to and from other workers. Is the `Receiver` of those that come."""

    def __init__(
        self,
        slot: Slot,
        affinity: Affinity,
        hashing: Hashing,
        routes: Routes,
        journal: Journal,
        ended_report: EndedReport,
        key_report: KeyReport,
        count: Callable[[int, str], None],
    ) -> None:
        """
        Args:
            count: called with 1 and the peer's address for each connection that comes, with -1 where it is refused.
        """
        self.slots = 0
        """How many slots there are, as the primary has said last."""
        self._slot = slot
        self._affinity = affinity
        self._hashing = hashing
        self._routes = routes
        self._journal = journal
        self._ended_report = ended_report
        self._key_report = key_report
        self._count = count
        self._moving: Moving | None = None
        self._targets: set[MoveTarget] = set()

    def serve(self, moving: Moving | None) -> None:
        """Name the worker's server. Without one nothing moves: the workers that are introduced see the channel end."""
        self._moving = moving

    def introduced(self, message: Peer, fd: int | None) -> None:
        """Take up this worker's end of a channel to another worker. None: no descriptor was left, and it has ended."""
        if fd is None:
            return
        sock = socket.socket(fileno=fd)
        self.slots = message.slots
        if self._moving is None:
            sock.close()
        elif message.is_source:
            self._moving.introduced(
                MoveSource(sock, Slot(message.slot), message.worker_id), Plan(message.plan, message.count)
            )
        else:
            self._targets.add(MoveTarget(sock, self, self._targets.discard))

    @property
    def receives(self) -> bool:
        """Whether connections of another worker may come."""
        return bool(self._targets)

    def home_of(self, key: Key | None) -> Slot | None:
        """Return the slot where a key is at home when all slots have a worker; None where there is no key."""
        return None if key is None or not self.slots else home_of(self._hashing, key, self.slots)

    # As the receiver

    async def take(self, connections: Sequence[MovedIn]) -> list[str | None]:
        assert self._moving is not None, "without a server there is no target"
        return await self._moving.take(connections)

    def enter(self, sock: socket.socket, state: MovedState) -> MovedIn:
        sock.setblocking(False)
        self._count(1, state.peer_address)
        key = self._routes.key_of(state.address, state.sticky_id)
        is_away = key is not None and self.home_of(key) != self._slot
        self._routes.keys.enter(key, away=is_away)
        if is_away and key is not None:
            self._key_report.came(short(key))
        self._routes.learn(state.address, state.sticky_id)
        self._ended_report.add_arrived(state.peer_address)
        self._ended_report.schedule()
        return MovedIn(
            sock,
            state.address,
            state.client_port,
            state.scheme,
            None if state.sticky_id is None else StickyId(state.sticky_id),
            None if state.new_sticky_id is None else StickyId(state.new_sticky_id),
            state.peer_address,
            state.state,
            self._journal.open(key_of(self._affinity, state.address, state.sticky_id)),
            key,
        )

    def entered(self, connection: MovedIn, refusal: str | None) -> None:
        if refusal is None:
            return
        self._count(-1, connection.peer_address)
        self._routes.keys.leave(connection.key)
        self._ended_report.add(connection.peer_address)
        self._ended_report.schedule()

    async def close(self) -> None:
        """Take nothing more over."""
        await asyncio.gather(*(each.close() for each in list(self._targets)))
